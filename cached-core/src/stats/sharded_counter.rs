//! A counter for what happens on every hit: threads that count write to memory of their own.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Each of the first threads has a place of its own; all others share the last one.
const PLACES: usize = 16;
const SHARED: usize = PLACES - 1;

/// As far apart as processors fetch memory.
#[derive(Default)]
#[repr(align(128))]
struct Place(AtomicU64);

#[derive(Default)]
pub(crate) struct ShardedCounter(OnceLock<Box<[Place; PLACES]>>);

impl ShardedCounter {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn add(&self) {
        let places = self.0.get_or_init(Box::default);
        let number = NUMBER.get();
        match places.get(number) {
            // Nobody else writes here, so nothing is lost between the load and the store.
            Some(Place(own)) if number != SHARED => {
                own.store(own.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
            Some(Place(shared)) => {
                shared.fetch_add(1, Ordering::Relaxed);
            }
            None => self.add_first(),
        }
    }

    #[cold]
    #[inline(never)]
    fn add_first(&self) {
        number_this_thread();
        self.add();
    }

    pub(crate) fn get(&self) -> u64 {
        let places = self.0.get().into_iter().flat_map(|places| places.iter());
        places.map(|Place(count)| count.load(Ordering::Relaxed)).sum()
    }
}

const UNKNOWN: usize = usize::MAX;

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(UNKNOWN) };
    static RETURNED: Returned = const { Returned };
}

/// The numbers that are taken, one bit each. A number is returned with `Release` and taken with
/// `Acquire`, so that its next thread goes on from what the last one counted.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Returns the thread's number when the thread ends.
struct Returned;

impl Drop for Returned {
    fn drop(&mut self) {
        let number = NUMBER.replace(SHARED);
        if number < SHARED {
            TAKEN.fetch_and(!(1 << number), Ordering::Release);
        }
    }
}

#[cold]
fn number_this_thread() {
    // A thread that is about to end returns nothing any more.
    let number = RETURNED.try_with(|_| take()).unwrap_or(SHARED);
    NUMBER.set(number);
}

fn take() -> usize {
    let free = |taken: u64| (taken.trailing_ones() < SHARED as u32).then(|| taken | (taken + 1));
    match TAKEN.fetch_update(Ordering::Acquire, Ordering::Relaxed, free) {
        Ok(taken) => taken.trailing_ones() as usize,
        Err(_) => SHARED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hit_is_lost_however_many_threads_come_and_go() {
        let hits = ShardedCounter::default();
        for _ in 0..4 {
            std::thread::scope(|scope| {
                for _ in 0..2 * PLACES {
                    scope.spawn(|| (0..1_000).for_each(|_| hits.add()));
                }
            });
        }
        assert_eq!(hits.get(), 4 * 2 * PLACES as u64 * 1_000);
    }
}
