//! Measures a burst of calls. The first cache looks up many keys at the same time, and memcached
//! does not have them yet. Then a second cache, which stands for another process, looks up the same
//! keys.
//!
//! Usage: `cargo run --release --bin burst [-- KEYS TIMEOUT_MS]…`. The benchmark prints one line
//! for each pair of arguments, with these columns:
//!
//! - for the first cache: the share of failed lookups, the share of keys whose value was not stored
//!   in memcached, and the median and the longest time of a call;
//! - for the second cache: the share of keys that memcached answered, the number of failed lookups,
//!   and the median time of a call.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};

#[coordinator_cached(name = "burst", version = number, skip(round))]
async fn burst(round: usize, number: usize) -> Result<String, String> {
    let _ = round;
    Ok(format!("{number:0>100}"))
}

struct Memcached(Child);

impl Drop for Memcached {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn memcached() -> (Memcached, String) {
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        free.local_addr().expect("the listener has an address").port().to_string()
    };
    let memcached = Command::new("memcached")
        .args(["-l", "127.0.0.1", "-U", "0", "-t", "2", "-m", "256", "-u", "nobody", "-p", &port])
        .stderr(Stdio::null())
        .spawn()
        .expect("memcached is installed");
    std::thread::sleep(Duration::from_millis(500));
    (Memcached(memcached), format!("127.0.0.1:{port}"))
}

/// Calls `burst` for all keys at once. Returns the median and the longest time of a call in
/// milliseconds.
async fn all_at_once(cache: &Cache, keys: usize) -> (f64, f64) {
    let calls: Vec<_> = (0..keys)
        .map(|number| {
            tokio::spawn(cache.scope(async move {
                let began = Instant::now();
                burst(0, number).await.expect("no call fails");
                began.elapsed()
            }))
        })
        .collect();
    let mut times = Vec::with_capacity(keys);
    for call in calls {
        times.push(call.await.expect("no call panics").as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    (times[keys / 2], times[keys - 1])
}

async fn cache(address: &str, timeout: Duration) -> Cache {
    let builder = Cache::builder().memcached([address]).remote_timeout(timeout);
    builder.build().await.expect("the settings are valid")
}

fn main() {
    let arguments: Vec<usize> =
        std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let pairs: Vec<(usize, u64)> = match arguments.len() {
        0 => vec![(30_000, 100), (30_000, 1_000), (100_000, 100), (100_000, 1_000)],
        _ => arguments.chunks_exact(2).map(|pair| (pair[0], pair[1] as u64)).collect(),
    };
    println!(
        "keys timeout | cold: failed lookups %, not filled %, p50 ms, longest ms | warm: found %, failed lookups, p50 ms"
    );
    for (keys, timeout) in pairs {
        let (_memcached, address) = memcached();
        let timeout = Duration::from_millis(timeout);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.expect("the runtime starts");
        let (cold, warm) = runtime.block_on(async {
            let first = cache(&address, timeout).await;
            let times = all_at_once(&first, keys).await;
            first.flush().await;
            let cold = (first.stats().get("burst").expect("called"), times);
            tokio::time::sleep(Duration::from_secs(2)).await;
            let second = cache(&address, timeout).await;
            let times = all_at_once(&second, keys).await;
            (cold, (second.stats().get("burst").expect("called"), times))
        });
        let share = |count: u64| count as f64 * 100.0 / keys as f64;
        println!(
            "{keys:>6} {timeout:>6?} | {:>5.1} {:>5.1} {:>6.0} {:>6.0} | {:>5.1} {:>6} {:>6.0}",
            share(cold.0.remote_errors),
            share(keys as u64 - cold.0.fills),
            cold.1.0,
            cold.1.1,
            share(warm.0.remote_hits),
            warm.0.remote_errors,
            warm.1.0,
        );
    }
}
