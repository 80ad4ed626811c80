//! What the local tier answers with is never older than what was overwritten, invalidated or has expired, and
//! what it lets go of is freed.
#![allow(missing_docs)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, Weak};
use std::time::Duration;

use cached_core::testing::TestCache;
use cached_core::{Cache, coordinator_cached};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn cache() -> Cache {
    Cache::builder().build().await.expect("it fits")
}

/// What the upstream says at the moment.
type Source = Arc<AtomicU64>;

#[coordinator_cached(
    name = "level",
    overwrite(reason = "a level is read while it changes"),
    skip(source),
    entry = level_entry
)]
async fn level(source: &Source, tank: u32) -> Result<u64, std::io::Error> {
    Ok(source.load(Ordering::SeqCst))
}

/// Four threads read two tanks as fast as they can, while a fifth overwrites and invalidates them.
/// Levels only rise. Once a change has returned, no call that begins later may see an older one.
#[test]
fn no_thread_sees_a_level_that_was_overwritten_or_invalidated() {
    const CHANGES: u64 = 4_000;
    let cache = runtime().block_on(cache());
    let source = Source::default();
    // Below this every level was replaced before the reader's call began.
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
                            let seen = level(&source, tank).await.expect("it answers");
                            assert!(seen >= floor, "tank {tank}: {seen} was replaced by {floor}");
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
                    level_entry(tank as u32)
                        .overwrite(change)
                        .await
                        .expect("there is no memcached");
                } else {
                    level_entry(tank as u32).invalidate().await.expect("there is no memcached");
                }
                floors[tank].store(change, Ordering::SeqCst);
                // Long enough for a reader to fetch.
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
    assert!(reads.load(Ordering::Relaxed) > CHANGES, "there was too little to see");
}

#[coordinator_cached(name = "expiring", version = number, ttl = "30m", skip(source))]
async fn expiring(source: &Source, number: u32) -> Result<u64, std::io::Error> {
    Ok(source.fetch_add(1, Ordering::SeqCst))
}

#[tokio::test]
async fn what_has_expired_is_not_served() {
    let cache = TestCache::local();
    let source = Source::default();
    cache
        .run(async {
            for _ in 0..100 {
                assert_eq!(expiring(&source, 7).await.expect("it answers"), 0);
            }
            cache.advance(Duration::from_secs(30 * 60 - 2));
            for _ in 0..100 {
                assert_eq!(expiring(&source, 7).await.expect("it answers"), 0);
            }
            cache.advance(Duration::from_secs(2));
            for _ in 0..100 {
                assert_eq!(expiring(&source, 7).await.expect("it answers"), 1);
            }
        })
        .await;
}

#[tokio::test]
async fn caches_of_scopes_do_not_mix() {
    let (one, other) = (cache().await, cache().await);
    let source = Source::default();
    for _ in 0..100 {
        assert_eq!(one.scope(expiring(&source, 1)).await.expect("it answers"), 0);
        assert_eq!(other.scope(expiring(&source, 1)).await.expect("it answers"), 1);
    }
}

#[coordinator_cached(name = "watched", version = number, skip(seen))]
async fn watched(
    seen: &Mutex<Option<Weak<String>>>,
    number: u32,
) -> Result<Arc<String>, std::io::Error> {
    let value = Arc::new("watched".to_owned());
    *seen.lock().expect("nobody panics") = Some(Arc::downgrade(&value));
    Ok(value)
}

fn is_alive(seen: &Mutex<Option<Weak<String>>>) -> bool {
    let seen = seen.lock().expect("nobody panics");
    seen.as_ref().expect("it was fetched").strong_count() > 0
}

#[test]
fn a_cache_that_is_dropped_frees_its_values_at_once() {
    let (seen, runtime) = (Mutex::new(None), runtime());
    let cache = runtime.block_on(cache());
    for _ in 0..100 {
        runtime.block_on(cache.scope(watched(&seen, 7))).expect("it answers");
    }
    assert!(is_alive(&seen));
    drop(cache);
    assert!(!is_alive(&seen));
}

/// Blocks while it is cloned, until the test is over.
#[derive(Debug, Serialize, Deserialize)]
struct Slow(u64);

static CLONES: Mutex<()> = Mutex::new(());
static IN_CLONE: AtomicBool = AtomicBool::new(false);

impl Clone for Slow {
    fn clone(&self) -> Slow {
        IN_CLONE.store(true, Ordering::SeqCst);
        drop(CLONES.lock());
        Slow(self.0)
    }
}

#[coordinator_cached(name = "slow", version = number)]
async fn slow(number: u64) -> Result<Slow, std::io::Error> {
    Ok(Slow(number))
}

#[coordinator_cached(name = "freed", overwrite(reason = "it is removed"), entry = freed_entry, skip(value))]
async fn freed(value: &Arc<String>, number: u64) -> Result<Arc<String>, std::io::Error> {
    let _ = number;
    Ok(Arc::clone(value))
}

/// A clone is the program's own code, and may take its time.
#[test]
fn what_is_invalidated_while_another_thread_clones_a_value_is_freed() {
    let cache = runtime().block_on(cache());
    runtime().block_on(cache.scope(slow(1))).expect("it answers");
    let value = Arc::new("freed".to_owned());
    let blocked = CLONES.lock().expect("nobody panics");
    IN_CLONE.store(false, Ordering::SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(|| runtime().block_on(cache.scope(slow(1))).expect("it answers"));
        while !IN_CLONE.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        runtime().block_on(cache.scope(async {
            for number in 0..1000 {
                freed(&value, number).await.expect("it answers");
                freed_entry(number).invalidate().await.expect("there is no memcached");
            }
        }));
        // Before this thread's panic would wait for the other.
        let alive = Arc::strong_count(&value) - 1;
        drop(blocked);
        assert!(alive < 10, "{alive} of 1000 are not freed");
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

/// The same where most entries go for want of room or expire: the table, what moka lets go of, the sweep and
/// the changes of a key work on the same entries at once.
#[test]
fn no_thread_sees_an_old_level_where_entries_come_and_go() {
    const CISTERNS: usize = 3_000;
    const CHANGES: u64 = 30_000;
    // Room for a sixth of them.
    let cache = Cache::builder().local_capacity(CISTERNS as u64 / 6 * 580).build();
    let cache = runtime().block_on(cache).expect("it fits");
    let levels = || (0..CISTERNS).map(|_| AtomicU64::new(0)).collect::<Arc<[AtomicU64]>>();
    let (sources, floors) = (levels(), levels());
    let done = AtomicBool::new(false);
    let next = |random: &mut u64| {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        // A few are asked for often.
        let most = if random.is_multiple_of(3) { 20 } else { CISTERNS };
        (*random >> 20) as usize % most
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
                        let seen = cistern(sources, number).await.expect("it answers");
                        assert!(seen >= floor, "cistern {number}: {seen} was replaced by {floor}");
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
                    0 => entry.overwrite(change).await.expect("there is no memcached"),
                    _ => entry.invalidate().await.expect("there is no memcached"),
                }
                floors[number].store(change, Ordering::SeqCst);
            }
        }));
        done.store(true, Ordering::Relaxed);
    });
    let stats = cache.stats().get("cistern").expect("it was called");
    assert!(stats.local_hits > 1_000 && stats.fetches > CISTERNS as u64, "{stats:?}");
}
