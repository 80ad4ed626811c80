//! A counter that is divided into 16 shards, so that threads seldom write to the same memory.
//!
//! When a thread counts for the first time, it claims a shard index, which it then uses in every
//! counter. When the thread ends, it releases the index. If no index is free, the thread uses the
//! last index, which any number of threads may share.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const SHARDS: usize = 16;
/// The index of the last shard, which all threads without a shard of their own share.
const SHARED_INDEX: usize = SHARDS - 1;

/// One part of a counter, aligned to two cache lines because processors fetch lines in pairs.
#[derive(Default)]
#[repr(align(128))]
struct CounterShard(AtomicU64);

/// A counter whose shards are allocated on the first increment.
#[derive(Default)]
pub(crate) struct ShardedCounter(OnceLock<Box<[CounterShard; SHARDS]>>);

impl ShardedCounter {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn add(&self) {
        let shards = self.0.get_or_init(Box::default);
        let number = THREAD_SHARD.get();
        match shards.get(number) {
            // No other thread writes to this shard, so no increment is lost between the load and
            // the store.
            Some(CounterShard(own)) if number != SHARED_INDEX => {
                own.store(own.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
            Some(CounterShard(shared)) => {
                shared.fetch_add(1, Ordering::Relaxed);
            }
            None => self.add_first(),
        }
    }

    #[cold]
    #[inline(never)]
    fn add_first(&self) {
        claim_shard();
        self.add();
    }

    pub(crate) fn get(&self) -> u64 {
        let shards = self.0.get().into_iter().flat_map(|shards| shards.iter());
        shards.map(|CounterShard(count)| count.load(Ordering::Relaxed)).sum()
    }
}

/// The value of [`THREAD_SHARD`] in a thread that has not counted yet.
const UNCLAIMED: usize = usize::MAX;

thread_local! {
    static THREAD_SHARD: Cell<usize> = const { Cell::new(UNCLAIMED) };
    static RELEASE_GUARD: ShardReleaseGuard = const { ShardReleaseGuard };
}

/// The claimed shard indices, one bit each.
///
/// A thread releases its index with `Release` ordering, and the next thread claims it with
/// `Acquire` ordering. The next thread therefore sees the final counts of the previous thread.
static CLAIMED: AtomicU64 = AtomicU64::new(0);

/// A thread-local that releases the thread's shard index when the thread ends.
struct ShardReleaseGuard;

impl Drop for ShardReleaseGuard {
    fn drop(&mut self) {
        let number = THREAD_SHARD.replace(SHARED_INDEX);
        if number < SHARED_INDEX {
            CLAIMED.fetch_and(!(1 << number), Ordering::Release);
        }
    }
}

#[cold]
fn claim_shard() {
    // If `try_with` fails, the thread is ending and has already dropped its guard. It could not
    // release an index any more, so it uses the shared shard.
    let number = RELEASE_GUARD.try_with(|_| claim_free_shard()).unwrap_or(SHARED_INDEX);
    THREAD_SHARD.set(number);
}

fn claim_free_shard() -> usize {
    let claim = |claimed: u64| {
        (claimed.trailing_ones() < SHARED_INDEX as u32).then(|| claimed | (claimed + 1))
    };
    match CLAIMED.fetch_update(Ordering::Acquire, Ordering::Relaxed, claim) {
        Ok(claimed) => claimed.trailing_ones() as usize,
        Err(_) => SHARED_INDEX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_reuse_shards_lose_no_increment() {
        let hits = ShardedCounter::default();
        for _ in 0..4 {
            std::thread::scope(|scope| {
                for _ in 0..2 * SHARDS {
                    scope.spawn(|| (0..1_000).for_each(|_| hits.add()));
                }
            });
        }
        assert_eq!(hits.get(), 4 * 2 * SHARDS as u64 * 1_000);
    }
}
