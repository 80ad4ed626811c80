//! Remote hits by 1 to 256 callers, beside the bare client's gets of the same items: interleaved
//! rounds on one memcached, medians, ratios. `cargo run --release [-- CALLERS…]`.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use memcache::exp::AsyncMetaClient;

const KEYS: usize = 1000;
const ROUNDS: usize = 21;
/// Short, so that what else the machine does falls on all ways alike.
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
enum Way {
    /// The client's get, of the frame.
    Bare,
    /// The entry's get: key, digest, exchange, frame, value.
    Entry,
    /// A call of the function: single-flight beside that.
    Call,
}

/// Gets a second, and the 99th percentile of one get's time.
async fn round(way: Way, client: &AsyncMetaClient, keys: &[String], callers: usize) -> (f64, Duration) {
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
                    match way {
                        Way::Bare => {
                            let got = client.get(&keys[at]).send().await.expect("it answers");
                            assert!(got.value.is_some());
                        }
                        Way::Entry => assert!(batched_entry(at).get().await.is_found()),
                        Way::Call => drop(batched(at).await.expect("a hit")),
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
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        free.local_addr().expect("bound").port().to_string()
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
    let cache = cache.build().await.expect("fits");
    cache.install().expect("the only one");
    for number in 0..KEYS {
        batched(number).await.expect("fetched");
    }
    Cache::current().flush().await;
    let keys: Vec<String> = (0..KEYS).map(|number| batched_entry(number).key().to_string()).collect();
    let client = AsyncMetaClient::builder().max_idle(1024).connect_async(&*address).await;
    let client = client.expect("it is there");
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let asked = if asked.is_empty() { vec![1, 2, 8, 64, 256] } else { asked };
    println!("callers | bare gets/s, p99 us | entry: times, p99 times | call: times, p99 times");
    for callers in asked {
        let ways = [Way::Bare, Way::Entry, Way::Call];
        let mut seen: [Vec<(f64, f64)>; 3] = Default::default();
        for number in 0..=ROUNDS {
            for (way, seen) in ways.into_iter().zip(&mut seen) {
                let (rate, p99) = round(way, &client, &keys, callers).await;
                // The first is to warm up.
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
