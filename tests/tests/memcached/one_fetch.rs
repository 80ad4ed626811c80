//! Processes that miss the same key fetch it once, even when leaders and processes are lost.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cached_core::coordinator_cached;
use cached_tests::{Memcached, Upstream, UpstreamDown, poll_once};

use crate::functions::{new_process, payment};

#[coordinator_cached(name = "failing", version = number, skip(upstream))]
async fn failing(upstream: &Upstream, number: u32) -> Result<u32, UpstreamDown> {
    upstream.fetch().await?;
    Err(UpstreamDown)
}

/// Starts processes of the program `one_key` and waits until each has printed `ready`.
fn start(
    url: &str,
    count: usize,
    callers: usize,
    takes: &str,
) -> Vec<(Child, BufReader<std::process::ChildStdout>)> {
    (0..count)
        .map(|_| {
            let mut process = Command::new(env!("CARGO_BIN_EXE_one_key"))
                .args(["7", &callers.to_string(), takes])
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

fn begin(process: &mut Child) {
    process
        .stdin
        .as_mut()
        .expect("the stream is piped")
        .write_all(b"go\n")
        .expect("the process reads its input");
}

/// Returns the number of fetches of a process and the values that it saw, as it printed them.
fn outcome(
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
    let mut processes = start(&url, 4, 1000, "300");
    processes.iter_mut().for_each(|(process, _)| begin(process));
    let outcomes: Vec<_> = processes.into_iter().map(outcome).collect();
    assert_eq!(outcomes.iter().map(|(fetches, _)| fetches).sum::<usize>(), 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|(_, values)| *values == outcomes[0].1), "{outcomes:?}");
}

#[test]
fn another_process_replaces_a_killed_fetcher() {
    let memcached = Memcached::start();
    let url = format!("memcache://{}?timeout=1s&lease=2s", memcached.address());
    let (mut doomed, _output) = start(&url, 1, 1, "hang").remove(0);
    begin(&mut doomed);
    std::thread::sleep(Duration::from_millis(300));
    doomed.kill().expect("the process runs");
    doomed.wait().expect("the process ends");
    let began = Instant::now();
    let mut processes = start(&url, 3, 100, "50");
    processes.iter_mut().for_each(|(process, _)| begin(process));
    let outcomes: Vec<_> = processes.into_iter().map(outcome).collect();
    // The lease is as long as the wait for it, so each process may give up just before the lease
    // ends.
    let fetches: usize = outcomes.iter().map(|(fetches, _)| fetches).sum();
    assert!((1..=3).contains(&fetches), "{outcomes:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn failed_and_cancelled_fetches_release_their_lease() {
    let memcached = Memcached::start();
    let (a, b) = (new_process(&memcached).await, new_process(&memcached).await);
    let upstream = Upstream::default().taking_millis(20);
    assert_eq!(a.scope(failing(&upstream, 7)).await, Err(UpstreamDown));
    let hanging = Upstream::default().taking_millis(10_000);
    let cancelled =
        tokio::time::timeout(Duration::from_millis(200), a.scope(payment(&hanging, "7", "paid")));
    assert!(cancelled.await.is_err());
    a.flush().await;
    let began = Instant::now();
    assert_eq!(b.scope(failing(&upstream, 7)).await, Err(UpstreamDown));
    b.scope(payment(&upstream, "7", "paid")).await.expect("the call succeeds");
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "a call waited for a lease: {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_successor_inherits_the_lease() {
    let memcached = Memcached::start();
    let cache = new_process(&memcached).await;
    let upstream = Upstream::default().taking_millis(20);
    let took = cache
        .scope(async {
            let mut held = Box::pin(payment(&upstream, "7", "paid"));
            while upstream.fetches() == 0 {
                assert!(poll_once(held.as_mut()).await.is_none());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let began = Instant::now();
            let answer = payment(&upstream, "7", "paid").await.expect("the call succeeds");
            assert_eq!(answer.fetched, 2);
            began.elapsed()
        })
        .await;
    assert!(took < Duration::from_millis(2500), "{took:?}");
    // The successor has filled memcached under the lease of the unpolled leader.
    cache.flush().await;
    let other = new_process(&memcached).await;
    assert_eq!(
        other.scope(payment(&upstream, "7", "paid")).await.expect("the call succeeds").fetched,
        2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_misses_leaves_no_leases() {
    let memcached = Memcached::start();
    let (a, b) = (new_process(&memcached).await, new_process(&memcached).await);
    let upstream = Upstream::default().taking_millis(5);
    let calls: Vec<_> = (0..10_000)
        .map(|number| {
            let upstream = upstream.clone();
            let call = async move { payment(&upstream, &number.to_string(), "paid").await };
            tokio::spawn(a.scope(call))
        })
        .collect();
    for call in calls {
        call.await.expect("no task panics").expect("the call succeeds");
    }
    a.flush().await;
    let mut slowest = Duration::ZERO;
    for number in 0..300 {
        let began = Instant::now();
        b.scope(payment(&upstream, &(number * 33).to_string(), "paid"))
            .await
            .expect("the call succeeds");
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_millis(1500), "{slowest:?}: a call waited for a lease");
}
