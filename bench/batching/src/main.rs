//! Compares the library's memcached hits with bare gets, in which the memcached client alone reads
//! the same items. Run it with `cargo run --release [-- CALLERS…]`.
//!
//! Each caller is a task that gets items one after the other. By default, 1, 2, 8, 64 and 256
//! callers are measured. Three kinds of get take turns on one memcached process: by the bare
//! client, by the entry handle, and by a call of the function. The table shows medians, and ratios
//! to the bare gets.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use memcache::exp::AsyncMetaClient;

const KEYS: usize = 1000;
const ROUNDS: usize = 21;
/// The length of a round, which measures one kind of get. Rounds are short, so that other load on
/// the machine affects all kinds of get alike.
const ROUND: Duration = Duration::from_millis(250);

static FETCHES: AtomicUsize = AtomicUsize::new(0);

#[coordinator_cached(name = "batched", version = number, local = false, entry = batched_entry)]
async fn batched(number: usize) -> Result<String, String> {
    FETCHES.fetch_add(1, Ordering::Relaxed);
    Ok(format!("{number:0>100}"))
}

struct Memcached(Child);

impl Drop for Memcached {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Clone, Copy, PartialEq)]
enum GetPath {
    /// A get of the item by the memcached client alone.
    Bare,
    /// The entry handle's `get`, which builds the key, reads the item and decodes the value.
    Entry,
    /// A call of the cached function. It does the same as `get` and adds single-flight: concurrent
    /// calls for one key share one fetch.
    Call,
}

/// Runs one round. Returns the number of gets per second, and the 99th percentile of their times.
async fn round(
    get: GetPath,
    client: &AsyncMetaClient,
    keys: &[String],
    callers: usize,
) -> (f64, Duration) {
    let began = Instant::now();
    let end = began + ROUND;
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (client, keys) = (client.clone(), keys.to_vec());
            tokio::spawn(async move {
                let mut times = Vec::new();
                let mut at = caller * KEYS / callers;
                loop {
                    let sent = Instant::now();
                    if sent >= end {
                        return times;
                    }
                    match get {
                        GetPath::Bare => {
                            let got =
                                client.get(&keys[at]).send().await.expect("memcached answers");
                            assert!(got.value.is_some());
                        }
                        GetPath::Entry => assert!(batched_entry(at).get().await.is_found()),
                        GetPath::Call => drop(batched(at).await.expect("a hit")),
                    }
                    times.push(sent.elapsed());
                    at = (at + 1) % KEYS;
                }
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("no caller panics"));
    }
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    times.sort_unstable();
    (rate, times[times.len() * 99 / 100])
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() {
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        free.local_addr().expect("the listener has an address").port().to_string()
    };
    let memcached = Command::new("memcached")
        .args(["-l", "127.0.0.1", "-U", "0", "-t", "2", "-u", "nobody", "-p", &port])
        .stderr(Stdio::null())
        .spawn()
        .expect("memcached is installed");
    let _memcached = Memcached(memcached);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let address = format!("127.0.0.1:{port}");
    let cache = Cache::builder().memcached([&address]).remote_timeout(Duration::from_secs(2));
    let cache = cache.build().await.expect("the settings are valid");
    cache.install().expect("no cache is installed");
    for number in 0..KEYS {
        batched(number).await.expect("fetched");
    }
    Cache::current().flush().await;
    let keys: Vec<String> =
        (0..KEYS).map(|number| batched_entry(number).key().to_string()).collect();
    let client = AsyncMetaClient::builder().max_idle(1024).connect_async(&*address).await;
    let client = client.expect("memcached runs");
    let arguments: Vec<usize> =
        std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let caller_counts = if arguments.is_empty() { vec![1, 2, 8, 64, 256] } else { arguments };
    println!("callers | bare gets/s, p99 us | entry: times, p99 times | call: times, p99 times");
    for callers in caller_counts {
        let gets = [GetPath::Bare, GetPath::Entry, GetPath::Call];
        let mut seen: [Vec<(f64, f64)>; 3] = Default::default();
        for number in 0..=ROUNDS {
            for (get, seen) in gets.into_iter().zip(&mut seen) {
                let (rate, p99) = round(get, &client, &keys, callers).await;
                // The first round is a warm-up.
                if number > 0 {
                    seen.push((rate, p99.as_secs_f64() * 1e6));
                }
            }
        }
        let ratio = |of: usize, field: fn(&(f64, f64)) -> f64| {
            median(seen[of].iter().zip(&seen[0]).map(|(a, b)| field(a) / field(b)).collect())
        };
        println!(
            "{callers:>7} | {:>9.0} {:>9.0} | {:>6.2} {:>6.2} | {:>6.2} {:>6.2}",
            median(seen[0].iter().map(|r| r.0).collect()),
            median(seen[0].iter().map(|r| r.1).collect()),
            ratio(1, |r| r.0),
            ratio(1, |r| r.1),
            ratio(2, |r| r.0),
            ratio(2, |r| r.1),
        );
    }
    assert_eq!(FETCHES.load(Ordering::Relaxed), KEYS, "every get was a hit");
}
