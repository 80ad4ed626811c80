//! Defers the drop of a removed entry's value until the value's `Drop` cannot cause a deadlock.
//!
//! A value's `Drop` is code of the program. This code may call an annotated function, invalidate an
//! entry, or wait for a thread that does so. But the index may free a removed entry at any time:
//! during a call for another key, while a stripe (a group of keys) is locked, or at the end of a
//! thread. The `Drop` could then wait for a lock that its own thread holds. So the drop of an entry
//! only moves the entry's value into a queue.
//!
//! A lookup, a fill or an invalidation drops queued values at its end. The sweeper (a background
//! thread) and the drop of a cache do so too. At these points the thread holds no lock, and is not
//! the leader of a flight. A *flight* is a fetch that other calls wait for, and its *leader* is the
//! call that runs it. A value's `Drop` on the leader's thread could wait for this fetch.

use std::cell::Cell;
use std::collections::VecDeque;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::sweeper;
use crate::sync::lock;
use crate::unwind::catch_panic;
use crate::value::Value;

/// A value that is moved into the queue when this wrapper is dropped. The option is `None` only
/// during the drop.
pub(super) struct DeferredDrop(Option<Value>);

/// The queued values of all threads. With a queue for each thread, a blocked thread would keep its
/// values in memory.
static QUEUE: Mutex<VecDeque<Value>> = Mutex::new(VecDeque::new());
/// The length of [`QUEUE`]. It changes only while the queue is locked.
static QUEUE_LENGTH: AtomicUsize = AtomicUsize::new(0);

/// The most values that one call drops. A call queues far fewer values, so the queue does not grow.
/// Without the limit, one call might have to drop the millions of values of a dropped cache.
const MAX_DROPS: usize = 256;
/// A call drops no more values after it has dropped values for this long.
const MAX_DROP_TIME: Duration = Duration::from_millis(1);

thread_local! {
    /// Set while this thread drops queued values.
    static IS_DROPPING: Cell<bool> = const { Cell::new(false) };
}

impl DeferredDrop {
    pub(super) fn new(value: &Value) -> DeferredDrop {
        DeferredDrop(Some(Arc::clone(value)))
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn get(&self) -> &Value {
        match &self.0 {
            Some(value) => value,
            None => unreachable!("the value is taken in `drop`"),
        }
    }
}

impl Drop for DeferredDrop {
    fn drop(&mut self) {
        if let Some(value) = self.0.take() {
            let mut queue = lock(&QUEUE);
            queue.push_back(value);
            QUEUE_LENGTH.store(queue.len(), Ordering::Relaxed);
            drop(queue);
            sweeper::wake_for_drops();
        }
    }
}

/// Drops queued values, [`MAX_DROPS`] at most. The caller must not hold a lock, and must not be the
/// leader of a flight.
///
/// If a value's `Drop` calls this function, the function does nothing.
#[inline]
pub(crate) fn run_deferred_drops() {
    match QUEUE_LENGTH.load(Ordering::Relaxed) {
        0 => {}
        length => drop_values(length.min(MAX_DROPS), MAX_DROP_TIME),
    }
}

/// Drops all values that are queued now, without a limit on the time.
pub(super) fn run_all_deferred_drops() {
    drop_values(QUEUE_LENGTH.load(Ordering::Relaxed), Duration::MAX);
}

/// Drops up to `count` values. The drop of a value may queue another value, so a loop until the
/// queue is empty might not end.
#[cold]
fn drop_values(count: usize, max_time: Duration) {
    let Some(_guard) = DropReentryGuard::enter() else { return };
    let started = Instant::now();
    for _ in 0..count {
        let Some(value) = pop_value() else { return };
        // A panic of the value's `Drop` must not end the call that happens to drop the value.
        let _ = catch_panic(|| drop(value));
        if started.elapsed() > max_time {
            return;
        }
    }
}

/// Takes one value from the queue.
fn pop_value() -> Option<Value> {
    let mut queue = lock(&QUEUE);
    let value = queue.pop_front();
    if queue.is_empty() {
        queue.shrink_to(MAX_DROPS);
    }
    QUEUE_LENGTH.store(queue.len(), Ordering::Relaxed);
    value
}

/// Keeps a value's `Drop` on this thread from dropping further queued values, until the guard is
/// dropped.
struct DropReentryGuard;

impl DropReentryGuard {
    /// Returns `None` if this thread has a guard already.
    fn enter() -> Option<DropReentryGuard> {
        (!IS_DROPPING.replace(true)).then(|| DropReentryGuard)
    }
}

impl Drop for DropReentryGuard {
    fn drop(&mut self) {
        IS_DROPPING.set(false);
    }
}
