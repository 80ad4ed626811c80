//! Kinds of values. For each kind, a function measures the memory that a process needs to fill a
//! cache with such values. The test `capacity` and the benchmarks in `bench/peers` use this file.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cached_core::{Cache, coordinator_cached};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The name of a kind, and a function that fills a cache of the given capacity with values of this
/// kind. The function returns by how many bytes the memory of this process has grown.
pub(crate) type ValueKind = (&'static str, fn(u64) -> u64);

pub(crate) const KINDS: [ValueKind; 8] = [
    ("numbers of 8 bytes", |capacity| grown(capacity, 8, |number| number % 100)),
    ("texts of 200 bytes", |capacity| grown(capacity, 200, |number| text(number, 200))),
    ("byte vectors of 4 KiB", |capacity| {
        grown(capacity, 4 << 10, |number| vec![number as u8; 4 << 10])
    }),
    ("byte vectors of 100 KiB", |capacity| {
        grown(capacity, 100 << 10, |number| vec![number as u8; 100 << 10])
    }),
    ("vectors of 100 small numbers", |capacity| grown(capacity, 800, small_numbers)),
    ("vectors of 20 texts", |capacity| grown(capacity, 1_100, texts)),
    ("nested maps", |capacity| grown(capacity, 4_000, nested_maps)),
    ("a struct in an Arc", |capacity| grown(capacity, 200, payment)),
];

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Payment {
    number: String,
    cents: u64,
    note: Option<String>,
    lines: Vec<(u32, u16)>,
}

#[coordinator_cached(name = "filled", version = number, skip(make))]
async fn filled<T>(make: fn(u64) -> T, number: u64) -> Result<T, ()>
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    Ok(make(number))
}

/// Returns the resident memory of this process in bytes.
pub(crate) fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the test runs on Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the line is there");
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok())
        .expect("the text is a number")
        << 10
}

/// Fills a cache with twice as many values as the cache can hold. A value takes about `size` bytes.
/// Returns by how many bytes the memory of this process has grown.
fn grown<T>(capacity: u64, size: u64, make: fn(u64) -> T) -> u64
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    /// The cache counts at least this number of bytes for an entry, in addition to its value.
    const OVERHEAD: u64 = 512;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("the runtime starts").block_on(async {
        let cache = Cache::builder()
            .local_capacity(capacity)
            .build()
            .await
            .expect("the settings are valid");
        let before = resident();
        let fill = async {
            for number in 0..2 * capacity / (size + OVERHEAD) {
                filled(make, number).await.expect("the call succeeds");
            }
        };
        cache.scope(fill).await;
        // The cache must be alive while the memory is measured.
        let grown = resident() - before;
        drop(cache);
        grown
    })
}

fn text(number: u64, length: usize) -> String {
    format!("{number:0length$}").into_boxed_str().into_string()
}

fn texts(number: u64) -> Vec<String> {
    (0..20).map(|index| text(number + index, 30)).collect()
}

fn small_numbers(number: u64) -> Vec<u64> {
    (0..100).map(|index| (number + index) % 100).collect()
}

fn nested_maps(number: u64) -> BTreeMap<String, HashMap<u32, u64>> {
    let inner = |key: u64| (0..10).map(|index| (index, number + key)).collect();
    (0..10).map(|key| (text(number + key, 16), inner(key))).collect()
}

fn payment(number: u64) -> Arc<Payment> {
    let lines = (0..8).map(|line| (line, 1)).collect();
    Arc::new(Payment { number: text(number, 12), cents: 1, note: Some(text(number, 40)), lines })
}
