//! The local tier never answers with a value that was overwritten or invalidated or has expired.
//! The tier frees such values.
//!
//! These tests run in a process of their own because they count freed values.
#![allow(missing_docs)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, Weak};
use std::time::Duration;

use cached_core::testing::TestCache;
use cached_core::{Cache, coordinator_cached};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("the runtime starts")
}

async fn cache() -> Cache {
    Cache::builder().build().await.expect("the settings are valid")
}

/// The current value of the upstream.
type UpstreamValue = Arc<AtomicU64>;

#[coordinator_cached(
    name = "level",
    overwrite(reason = "a level is read while it changes"),
    skip(source),
    entry = level_entry
)]
async fn level(source: &UpstreamValue, tank: u32) -> Result<u64, std::io::Error> {
    Ok(source.load(Ordering::SeqCst))
}

/// Four threads read the levels of two tanks as fast as they can, while a fifth thread changes the
/// entries. Levels only rise. After a change has returned, no later call may return an older level.
#[test]
fn no_thread_reads_an_overwritten_value() {
    const CHANGES: u64 = 4_000;
    let cache = runtime().block_on(cache());
    let source = UpstreamValue::default();
    // The lowest level of each tank that a new call may return.
    let floors: [AtomicU64; 2] = Default::default();
    let done = AtomicBool::new(false);
    let start = Barrier::new(5);
    let reads = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                runtime().block_on(cache.scope(async {
                    while !done.load(Ordering::Relaxed) {
                        for (tank, floor) in [(0, &floors[0]), (1, &floors[1])] {
                            let floor = floor.load(Ordering::SeqCst);
                            let seen = level(&source, tank).await.expect("the call succeeds");
                            assert!(seen >= floor, "tank {tank}: {floor} or later, not {seen}");
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }));
            });
        }
        start.wait();
        runtime().block_on(cache.scope(async {
            for change in 1..=CHANGES {
                let tank = change as usize % 2;
                source.store(change, Ordering::SeqCst);
                if change % 3 == 0 {
                    level_entry(tank as u32).overwrite(change).await.expect("no server can fail");
                } else {
                    level_entry(tank as u32).invalidate().await.expect("no server can fail");
                }
                floors[tank].store(change, Ordering::SeqCst);
                // This loop gives a reader enough time to fetch.
                for _ in 0..200 {
                    std::hint::spin_loop();
                }
                if change % 16 == 0 {
                    std::thread::yield_now();
                }
            }
        }));
        done.store(true, Ordering::Relaxed);
    });
    assert!(reads.load(Ordering::Relaxed) > CHANGES, "the readers make more calls than changes");
}

/// Three threads read the levels of three tanks as fast as they can. A fourth thread clears the
/// cache and invalidates all entries of `level`, by turns. After either has returned, no later call
/// may return an older level.
#[test]
fn no_thread_reads_a_cleared_value() {
    const CLEARS: u64 = 2_000;
    let cache = runtime().block_on(cache());
    let (source, floor) = (UpstreamValue::default(), AtomicU64::new(0));
    let (done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                runtime().block_on(cache.scope(async {
                    while !done.load(Ordering::Relaxed) {
                        for tank in 10..13 {
                            let floor_before = floor.load(Ordering::SeqCst);
                            let seen = level(&source, tank).await.expect("the call succeeds");
                            assert!(
                                seen >= floor_before,
                                "tank {tank}: {floor_before} or later, not {seen}"
                            );
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }));
            });
        }
        runtime().block_on(async {
            for clear in 1..=CLEARS {
                source.store(clear, Ordering::SeqCst);
                match clear % 2 {
                    0 => drop(cache.clear().await),
                    _ => drop(cache.invalidate_all("level").await.expect("`level` is declared")),
                }
                floor.store(clear, Ordering::SeqCst);
                // This loop gives a reader enough time to fetch.
                for _ in 0..200 {
                    std::hint::spin_loop();
                }
                if clear % 16 == 0 {
                    std::thread::yield_now();
                }
            }
        });
        done.store(true, Ordering::Relaxed);
    });
    assert!(reads.load(Ordering::Relaxed) > CLEARS, "the readers make more calls than clears");
}

#[coordinator_cached(name = "expiring", version = number, ttl = "30m", skip(source))]
async fn expiring(source: &UpstreamValue, number: u32) -> Result<u64, std::io::Error> {
    Ok(source.fetch_add(1, Ordering::SeqCst))
}

#[tokio::test]
async fn an_expired_value_is_not_served() {
    let cache = TestCache::local();
    let source = UpstreamValue::default();
    cache
        .run(async {
            for _ in 0..100 {
                assert_eq!(expiring(&source, 7).await.expect("the call succeeds"), 0);
            }
            cache.advance(Duration::from_secs(30 * 60 - 2));
            for _ in 0..100 {
                assert_eq!(expiring(&source, 7).await.expect("the call succeeds"), 0);
            }
            cache.advance(Duration::from_secs(2));
            for _ in 0..100 {
                assert_eq!(expiring(&source, 7).await.expect("the call succeeds"), 1);
            }
        })
        .await;
}

#[tokio::test]
async fn scoped_caches_do_not_share_entries() {
    let (one, other) = (cache().await, cache().await);
    let source = UpstreamValue::default();
    for _ in 0..100 {
        assert_eq!(one.scope(expiring(&source, 1)).await.expect("the call succeeds"), 0);
        assert_eq!(other.scope(expiring(&source, 1)).await.expect("the call succeeds"), 1);
    }
}

#[coordinator_cached(name = "watched", version = number, skip(seen))]
async fn watched(
    seen: &Mutex<Option<Weak<String>>>,
    number: u32,
) -> Result<Arc<String>, std::io::Error> {
    let value = Arc::new("watched".to_owned());
    *seen.lock().expect("no thread panics while it holds the lock") = Some(Arc::downgrade(&value));
    Ok(value)
}

/// Returns true if the value that was fetched last has not been freed.
fn is_alive(seen: &Mutex<Option<Weak<String>>>) -> bool {
    let seen = seen.lock().expect("no thread panics while it holds the lock");
    seen.as_ref().expect("a value was fetched").strong_count() > 0
}

#[test]
fn a_dropped_cache_frees_its_values() {
    let (seen, runtime) = (Mutex::new(None), runtime());
    let cache = runtime.block_on(cache());
    for _ in 0..100 {
        runtime.block_on(cache.scope(watched(&seen, 7))).expect("the call succeeds");
    }
    assert!(is_alive(&seen));
    drop(cache);
    assert!(!is_alive(&seen));
}

/// A value whose `clone` blocks while the test holds the lock `CLONES`.
#[derive(Debug, Serialize, Deserialize)]
struct SlowClone(u64);

static CLONES: Mutex<()> = Mutex::new(());
static IN_CLONE: AtomicBool = AtomicBool::new(false);

impl Clone for SlowClone {
    fn clone(&self) -> SlowClone {
        IN_CLONE.store(true, Ordering::SeqCst);
        drop(CLONES.lock());
        SlowClone(self.0)
    }
}

#[coordinator_cached(name = "slow", version = number)]
async fn slow(number: u64) -> Result<SlowClone, std::io::Error> {
    Ok(SlowClone(number))
}

#[coordinator_cached(name = "freed", overwrite(reason = "the test invalidates the entry"), entry = freed_entry, skip(value))]
async fn freed(value: &Arc<String>, number: u64) -> Result<Arc<String>, std::io::Error> {
    let _ = number;
    Ok(Arc::clone(value))
}

/// A program's own `clone` can take a long time. Meanwhile, other values must be freed.
#[test]
fn a_slow_clone_keeps_no_other_value_alive() {
    let cache = runtime().block_on(cache());
    runtime().block_on(cache.scope(slow(1))).expect("the call succeeds");
    let value = Arc::new("freed".to_owned());
    let clone_lock = CLONES.lock().expect("no thread panics while it holds the lock");
    IN_CLONE.store(false, Ordering::SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(|| runtime().block_on(cache.scope(slow(1))).expect("the call succeeds"));
        while !IN_CLONE.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        runtime().block_on(cache.scope(async {
            for number in 0..1000 {
                freed(&value, number).await.expect("the call succeeds");
                freed_entry(number).invalidate().await.expect("no server can fail");
            }
        }));
        // If the assertion failed while this thread holds `clone_lock`, the scope would wait for
        // the other thread forever. So the assertion comes after the drop.
        let alive = Arc::strong_count(&value) - 1;
        drop(clone_lock);
        assert!(alive < 10, "invalidated values are freed: {alive} of 1000 are not");
    });
}

#[coordinator_cached(
    name = "cistern",
    overwrite(reason = "a level is read while it changes"),
    ttl = "30ms",
    skip(sources),
    entry = cistern_entry
)]
async fn cistern(sources: &Arc<[AtomicU64]>, number: usize) -> Result<u64, std::io::Error> {
    Ok(sources[number].load(Ordering::SeqCst))
}

/// Most entries are evicted or expire. So lookups, evictions, expiry and changes meet on the same
/// entries.
#[test]
fn no_thread_reads_old_values_under_eviction() {
    const CISTERNS: usize = 3_000;
    const CHANGES: u64 = 30_000;
    // The cache has room for a sixth of the entries.
    let cache = Cache::builder().local_capacity(CISTERNS as u64 / 6 * 580).build();
    let cache = runtime().block_on(cache).expect("the settings are valid");
    let levels = || (0..CISTERNS).map(|_| AtomicU64::new(0)).collect::<Arc<[AtomicU64]>>();
    let (sources, floors) = (levels(), levels());
    let done = AtomicBool::new(false);
    let next = |random: &mut u64| {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        // A third of the calls are for a few hot keys.
        let keys = if random.is_multiple_of(3) { 20 } else { CISTERNS };
        (*random >> 20) as usize % keys
    };
    std::thread::scope(|scope| {
        for reader in 1..=3_u64 {
            let (cache, sources, floors, done) = (&cache, &sources, &floors, &done);
            scope.spawn(move || {
                let mut random = 0x9e37_79b9_7f4a_7c15 >> reader;
                runtime().block_on(cache.scope(async {
                    while !done.load(Ordering::Relaxed) {
                        let number = next(&mut random);
                        let floor = floors[number].load(Ordering::SeqCst);
                        let seen = cistern(sources, number).await.expect("the call succeeds");
                        assert!(seen >= floor, "cistern {number}: {floor} or later, not {seen}");
                    }
                }));
            });
        }
        let mut random = 7;
        runtime().block_on(cache.scope(async {
            for change in 1..=CHANGES {
                let number = next(&mut random);
                sources[number].store(change, Ordering::SeqCst);
                let entry = cistern_entry(number);
                match change % 3 {
                    0 => entry.overwrite(change).await.expect("no server can fail"),
                    _ => entry.invalidate().await.expect("no server can fail"),
                }
                floors[number].store(change, Ordering::SeqCst);
            }
        }));
        done.store(true, Ordering::Relaxed);
    });
    let stats = cache.stats().get("cistern").expect("the function was called");
    let has_hits_and_misses = stats.local_hits > 1_000 && stats.fetches > CISTERNS as u64;
    assert!(has_hits_and_misses, "there are many hits and many misses: {stats:?}");
}
