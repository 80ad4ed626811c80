//! Processes that miss the same key share one fetch. If the process that fetches is killed, another
//! process fetches.
#![allow(missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cached_tests::Memcached;

/// Starts processes of the program `one_key` and waits until each has printed `ready`.
fn start_processes(
    url: &str,
    count: usize,
    callers: usize,
    fetch_millis: &str,
) -> Vec<(Child, BufReader<std::process::ChildStdout>)> {
    (0..count)
        .map(|_| {
            let mut process = Command::new(env!("CARGO_BIN_EXE_one_key"))
                .args(["7", &callers.to_string(), fetch_millis])
                .env("CACHE_URL", url)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("the program starts");
            let mut output = BufReader::new(process.stdout.take().expect("the stream is piped"));
            let mut line = String::new();
            output.read_line(&mut line).expect("the process prints `ready`");
            assert_eq!(line, "ready\n");
            (process, output)
        })
        .collect()
}

/// Lets a process make its calls.
fn begin(process: &mut Child) {
    process
        .stdin
        .as_mut()
        .expect("the stream is piped")
        .write_all(b"go\n")
        .expect("the process reads its input");
}

/// Waits until a process ends. Returns the number of its fetches and the values that its calls
/// returned, as the process printed them.
fn read_outcome(
    (mut process, mut output): (Child, BufReader<std::process::ChildStdout>),
) -> (usize, String) {
    let mut line = String::new();
    output.read_line(&mut line).expect("the process prints its outcome");
    assert!(process.wait().expect("the process ends").success());
    let (fetches, values) = line.trim().split_once(' ').expect("the line has fetches and values");
    (fetches.parse().expect("the text is a number"), values.to_owned())
}

#[test]
fn four_processes_fetch_a_cold_key_once() {
    let memcached = Memcached::start();
    let url = format!("memcache://{}?timeout=1s", memcached.address());
    let mut processes = start_processes(&url, 4, 1000, "300");
    processes.iter_mut().for_each(|(process, _)| begin(process));
    let outcomes: Vec<_> = processes.into_iter().map(read_outcome).collect();
    assert_eq!(outcomes.iter().map(|(fetches, _)| fetches).sum::<usize>(), 1, "{outcomes:?}");
    let has_same_values = |(_, values): &(usize, String)| *values == outcomes[0].1;
    assert!(outcomes.iter().all(has_same_values), "all calls return one value: {outcomes:?}");
}

#[test]
fn another_process_replaces_a_killed_fetcher() {
    let memcached = Memcached::start();
    let url = format!("memcache://{}?timeout=1s&lease=2s", memcached.address());
    let (mut doomed, _output) = start_processes(&url, 1, 1, "hang").remove(0);
    begin(&mut doomed);
    std::thread::sleep(Duration::from_millis(300));
    doomed.kill().expect("the process runs");
    doomed.wait().expect("the process ends");
    let began = Instant::now();
    let mut processes = start_processes(&url, 3, 100, "50");
    processes.iter_mut().for_each(|(process, _)| begin(process));
    let outcomes: Vec<_> = processes.into_iter().map(read_outcome).collect();
    // A *lease* is the right of one process to fetch. The killed process still holds a lease, and
    // the new processes wait as long as a lease lasts. Each of them can give up just before the
    // lease ends, and then fetches on its own.
    let fetches: usize = outcomes.iter().map(|(fetches, _)| fetches).sum();
    assert!((1..=3).contains(&fetches), "each process fetches once at most: {outcomes:?}");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "the lease of the killed process ends: {took:?}");
}
