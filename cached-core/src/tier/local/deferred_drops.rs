//! Drops the values of removed entries later, where their `Drop` can do no harm.
//!
//! A value's `Drop` is the program's own code. It may make a call, invalidate an entry, or wait for a
//! thread that does. The index, however, frees a removed entry at any point: in a call for another key,
//! while a stripe is locked, or at the end of a thread. So an entry that is freed moves its value into
//! a queue.
//!
//! The queue is emptied at the end of a read, a fill or a change, by the sweeper, and when a cache is
//! dropped. No lock is held there, and the thread leads no flight that the value's `Drop` could wait for.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::sweeper;
use crate::sync::lock;
use crate::value::Value;

/// An entry's value. It is queued when the entry is dropped.
pub(super) struct DeferredDrop(Option<Value>);

/// The queued values of all threads, so that a thread that is held up does not keep any from the others.
static QUEUE: Mutex<VecDeque<Value>> = Mutex::new(VecDeque::new());
/// The length of [`QUEUE`]. It changes while the queue is locked.
static QUEUE_LENGTH: AtomicUsize = AtomicUsize::new(0);

/// The most values that one call drops. A call queues far fewer, so the queue does not grow; and a call
/// is not held up by the millions of values that a dropped cache has left.
const MAX_DROPS: usize = 256;
/// How long a call goes on dropping. The drop that exceeds this is the last one.
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

/// Drops queued values, [`MAX_DROPS`] at most. The caller must not lead a flight or hold a lock.
///
/// A value's `Drop` that calls this does nothing.
#[inline]
pub(crate) fn run_deferred_drops() {
    match QUEUE_LENGTH.load(Ordering::Relaxed) {
        0 => {}
        length => drop_values(length.min(MAX_DROPS), MAX_DROP_TIME),
    }
}

/// Drops all values that are queued now, however long it takes.
pub(super) fn run_all_deferred_drops() {
    drop_values(QUEUE_LENGTH.load(Ordering::Relaxed), Duration::MAX);
}

/// Drops `count` values. The count is fixed at the start, because each value may queue another one
/// when it is dropped.
#[cold]
fn drop_values(count: usize, max_time: Duration) {
    let Some(_guard) = DropReentryGuard::enter() else { return };
    let started = Instant::now();
    for _ in 0..count {
        let Some(value) = pop_value() else { return };
        // The call that happens to drop the value must not see its panic.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
        if started.elapsed() > max_time {
            return;
        }
    }
}

/// Takes one value, so that other threads can drop the next ones meanwhile.
fn pop_value() -> Option<Value> {
    let mut queue = lock(&QUEUE);
    let value = queue.pop_front();
    if queue.is_empty() {
        queue.shrink_to(MAX_DROPS);
    }
    QUEUE_LENGTH.store(queue.len(), Ordering::Relaxed);
    value
}

/// Marks this thread as one that drops queued values, until the guard is dropped.
struct DropReentryGuard;

impl DropReentryGuard {
    /// Returns `None` if this thread is marked already.
    fn enter() -> Option<DropReentryGuard> {
        (!IS_DROPPING.replace(true)).then(|| DropReentryGuard)
    }
}

impl Drop for DropReentryGuard {
    fn drop(&mut self) {
        IS_DROPPING.set(false);
    }
}
