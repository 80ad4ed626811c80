//! The cache crate moka chooses the entries that the local tier evicts. The tier reports only some
//! of its hits to moka. Its hit ratio must still be as good as that of moka alone.
//!
//! The test runs in a process of its own because it counts hits under eviction.
#![allow(missing_docs)]

use std::sync::Arc;

use cached_core::{Cache, coordinator_cached};
use tokio::runtime::Builder;

const CAPACITY: u64 = 2_000;
/// The weight of an entry in bytes: a value of about 1,000 bytes, its key, and the overhead of the
/// store.
const WEIGHT: u64 = 1_072 + 540 + 20;

#[coordinator_cached(name = "traced", version = number)]
async fn traced(number: u64) -> Result<Arc<Vec<u8>>, std::io::Error> {
    Ok(Arc::new(vec![7; 995]))
}

/// A random number generator that repeats in every run.
struct RandomNumbers(u64);

impl RandomNumbers {
    fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Draws one of `keys` keys by Zipf's law with exponent 1.
fn zipf(random: &mut RandomNumbers, keys: u64) -> u64 {
    // The distribution function is approximately ln(k) / ln(keys).
    (keys as f64).powf(random.fraction()) as u64
}

fn zipf_trace() -> Vec<u64> {
    let mut random = RandomNumbers(0x9e37_79b9_7f4a_7c15);
    (0..100_000).map(|_| zipf(&mut random, 50_000)).collect()
}

/// Returns a trace with scans. Each scan reads all rows of a table once, and the table is larger
/// than the cache.
fn scan_trace() -> Vec<u64> {
    let mut random = RandomNumbers(0x9e37_79b9_7f4a_7c15);
    let mut trace = Vec::new();
    for scan in 0..8_u64 {
        trace.extend((0..10_000).map(|_| zipf(&mut random, 20_000)));
        trace.extend((0..3_000).map(|row| 1_000_000 + scan * 3_000 + row));
    }
    trace
}

fn our_hit_ratio(trace: &[u64]) -> f64 {
    let runtime = Builder::new_current_thread().enable_all().build().expect("the runtime starts");
    runtime.block_on(async {
        let cache = Cache::builder().local_capacity(CAPACITY * WEIGHT).build().await;
        let cache = cache.expect("the settings are valid");
        cache
            .scope(async {
                for &number in trace {
                    traced(number).await.expect("the call succeeds");
                }
            })
            .await;
        let stats = cache.stats().get("traced").expect("the function was called");
        stats.local_hits as f64 / trace.len() as f64
    })
}

fn moka_hit_ratio(trace: &[u64]) -> f64 {
    let moka = moka::sync::Cache::builder()
        .max_capacity(CAPACITY * WEIGHT)
        .weigher(|_: &u64, _: &Arc<Vec<u8>>| WEIGHT as u32)
        .build();
    let mut hits = 0;
    for number in trace {
        match moka.get(number) {
            Some(_) => hits += 1,
            None => moka.insert(*number, Arc::new(vec![7; 995])),
        }
    }
    f64::from(hits) / trace.len() as f64
}

#[test]
fn the_hit_ratio_equals_that_of_moka_alone() {
    for (name, trace) in [("Zipf", zipf_trace()), ("scans", scan_trace())] {
        let (ours, alone) = (our_hit_ratio(&trace), moka_hit_ratio(&trace));
        println!("{name}: {:.2}%, moka alone {:.2}%", ours * 100.0, alone * 100.0);
        // moka evicts differently in each run, so a small difference is allowed.
        assert!(ours >= alone - 0.005, "{name}: as many hits as moka alone, {ours} and {alone}");
    }
}
