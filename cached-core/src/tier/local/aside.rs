//! What becomes of the values that the local tier lets go of.
//!
//! A value's own `Drop` may do anything: make a call, invalidate an entry, wait for a thread that
//! does. The index frees what was taken out of it wherever it comes to that: in a call for another
//! key, with a stripe locked, at the end of a thread. So what goes is put aside, and dropped at the end
//! of a look, of a fill or of a change, by the sweeper, or with a cache, by whichever comes to that
//! first. There no lock is held, and the flight is answered that was led, for whose key the value may
//! ask and would wait in vain. (From within a leader's work who asks for its key is answered alone,
//! and waits for nobody.)

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::lock;
use super::sweeper;
use crate::value::Value;

/// A value of an entry. It is never dropped where the entry is.
pub(super) struct Stored(Option<Value>);

/// What was put aside, in that order. All threads': one that is held up need not keep what others can
/// drop.
static ASIDE: Mutex<VecDeque<Value>> = Mutex::new(VecDeque::new());
/// So many are dropped at once: many more than a call puts there, so that they never pile up, and not
/// so many that a call is late for what a cache that is gone has left.
const MOST: usize = 256;
/// And for so long at most, but for the last one.
const LONGEST: Duration = Duration::from_millis(1);
/// How many there are; changed with the lock held.
static HOW_MANY: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this thread drops what was put aside.
    static DROPPING: Cell<bool> = const { Cell::new(false) };
}

impl Stored {
    pub(super) fn new(value: &Value) -> Stored {
        Stored(Some(Arc::clone(value)))
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn get(&self) -> &Value {
        match &self.0 {
            Some(value) => value,
            None => unreachable!("it is taken when it is dropped"),
        }
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        if let Some(value) = self.0.take() {
            put_aside(value);
        }
    }
}

fn put_aside(value: Value) {
    let mut aside = lock(&ASIDE);
    aside.push_back(value);
    HOW_MANY.store(aside.len(), Ordering::Relaxed);
    drop(aside);
    sweeper::wake_for_aside();
}

/// Drops what was put aside, or [`MOST`] of it. For who leads no flight. Where this thread does that
/// already it does nothing.
#[inline]
pub(crate) fn run_deferred_drops() {
    match HOW_MANY.load(Ordering::Relaxed) {
        0 => {}
        aside => drop_as_many(aside.min(MOST), LONGEST),
    }
}

/// The same for all of it.
pub(super) fn run_all_deferred_drops() {
    drop_as_many(HOW_MANY.load(Ordering::Relaxed), Duration::MAX);
}

/// Of those that there are now. Each might store another when it is dropped, and so let go of one,
/// and there would be no end. Not for long: those that take their time are left to the sweeper.
#[cold]
fn drop_as_many(aside: usize, longest: Duration) {
    let Some(_dropping) = Dropping::begin() else { return };
    let began = Instant::now();
    for _ in 0..aside {
        let Some(value) = next_aside() else { return };
        // It is no business of the call that comes to drop it where it panics.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
        if began.elapsed() > longest {
            return;
        }
    }
}

/// One at a time: others may drop the next ones meanwhile.
fn next_aside() -> Option<Value> {
    let mut aside = lock(&ASIDE);
    let next = aside.pop_front();
    if aside.is_empty() {
        aside.shrink_to(MOST);
    }
    HOW_MANY.store(aside.len(), Ordering::Relaxed);
    next
}

struct Dropping;

impl Dropping {
    /// `None` where this thread does that already.
    fn begin() -> Option<Dropping> {
        (!DROPPING.replace(true)).then(|| Dropping)
    }
}

impl Drop for Dropping {
    /// Also where a value panics when it is dropped.
    fn drop(&mut self) {
        DROPPING.set(false);
    }
}
