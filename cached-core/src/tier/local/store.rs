//! The store, and what becomes of the values that it lets go of.
//!
//! A value's own `Drop` may do anything: make a call, invalidate an entry, wait for a thread that
//! does. The store lets go of values wherever it comes to that, mostly in a call for another key,
//! and with locks held: its own, for making room and for growing, and around them a stripe's. So
//! what goes before the store itself does is put aside, and dropped at the end of a look, of a fill
//! or of a change, or with a cache, by whichever thread comes to that first. There it is inside no
//! more, and has answered the flight that it led, for whose key the value may ask and would wait in
//! vain. (From within a leader's work who asks for its key is answered alone, and waits for
//! nobody.) So nothing stays aside for good where calls go on, whatever was cancelled or has
//! panicked.
//!
//! At the end of a thread a value's own `Drop` can do little: thread-locals that it uses may be
//! gone, and if it panics there the process ends. So what a thread keeps is put aside when it ends,
//! and also what goes while a thread is in no store: any thread that uses a map of this kind
//! collects the garbage of all of them, now and then, and perhaps when it ends.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use moka::sync::Cache;

use super::entry::{LocalEntry, StoredKey};
use super::lock;
use crate::key::ByHead;
use crate::value::Value;

type Entries = Cache<StoredKey, LocalEntry, ByHead>;

/// Is entered for whatever is done with it.
pub(super) struct Store {
    entries: Entries,
    /// Dropped after them.
    _rest: Rest,
}

/// Drops what a store had in the end, which was put aside like anything else.
struct Rest;

/// Inside of the store.
pub(super) struct Inside<'s> {
    entries: &'s Entries,
    /// `None` where the thread was inside already, or drops what was put aside.
    _outermost: Option<Outermost>,
}

struct Outermost;

/// A value in the store; empty once it was taken out.
#[derive(Clone)]
pub(super) struct Stored(Option<Value>);

/// What was put aside, in that order. All threads': one that is held up inside need not keep what
/// others can drop.
static ASIDE: Mutex<VecDeque<Value>> = Mutex::new(VecDeque::new());
/// So many are dropped at once: many more than a call puts there, so that they never pile up, and not
/// so many that a call is late for what a thread or a cache that is gone has left.
const MOST: usize = 256;
/// How many there are; changed with the lock held.
static HOW_MANY: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this thread is inside of a store, or drops what was put aside there.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// Where the value is that this thread stores. Its caller has it yet.
    static STORED: Cell<*const ()> = const { Cell::new(ptr::null()) };
}

/// For whoever next drops what was put aside.
pub(super) fn put_aside(values: impl IntoIterator<Item = Value>) {
    let mut aside = lock(&ASIDE);
    aside.extend(values);
    HOW_MANY.store(aside.len(), Ordering::Relaxed);
}

/// Drops what was put aside, or [`MOST`] of it. For who leads no flight. Where this thread does that
/// already, or is inside, it does nothing.
#[inline]
pub(crate) fn drop_aside() {
    match HOW_MANY.load(Ordering::Relaxed) {
        0 => {}
        aside => drop_as_many(aside.min(MOST)),
    }
}

/// Of those that there are now. Each might store another when it is dropped, and so let go of one,
/// and there would be no end.
#[cold]
fn drop_as_many(aside: usize) {
    if let Some(_outermost) = Outermost::enter() {
        (0..aside).map_while(|_| next_aside()).for_each(drop);
    }
}

/// One at a time, so that one that panics takes none of the others with it.
fn next_aside() -> Option<Value> {
    let mut aside = lock(&ASIDE);
    let next = aside.pop_front();
    if aside.is_empty() {
        aside.shrink_to(MOST);
    }
    HOW_MANY.store(aside.len(), Ordering::Relaxed);
    next
}

impl Store {
    pub(super) fn new(entries: Entries) -> Store {
        Store { entries, _rest: Rest }
    }

    pub(super) fn enter(&self) -> Inside<'_> {
        Inside { entries: &self.entries, _outermost: Outermost::enter() }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        drop_as_many(HOW_MANY.load(Ordering::Relaxed));
    }
}

impl Inside<'_> {
    /// Inserts an entry that holds this `value`.
    pub(super) fn insert(&self, key: StoredKey, value: &Value, entry: LocalEntry) {
        STORED.set(Arc::as_ptr(value).cast());
        self.entries.insert(key, entry);
        STORED.set(ptr::null());
    }
}

impl Deref for Inside<'_> {
    type Target = Entries;

    fn deref(&self) -> &Entries {
        self.entries
    }
}

impl Outermost {
    fn enter() -> Option<Outermost> {
        // One that is made is dropped too, and this thread has left then.
        (!INSIDE.replace(true)).then(|| Outermost)
    }
}

impl Drop for Outermost {
    /// Also where a value panics when it is dropped.
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

impl Stored {
    pub(super) fn new(value: &Value) -> Stored {
        Stored(Some(Arc::clone(value)))
    }

    pub(super) fn is(&self, value: &Value) -> bool {
        self.0.as_ref().is_some_and(|stored| Arc::ptr_eq(stored, value))
    }

    pub(super) fn take(mut self) -> Option<Value> {
        self.0.take()
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        if let Some(value) = self.0.take()
            && !ptr::eq(Arc::as_ptr(&value).cast(), STORED.get())
        {
            put_aside([value]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::{Duration, Instant};

    use super::super::entry::{Life, Since};
    use super::super::order::Sequences;
    use super::*;

    thread_local! {
        static IS_IN: Cell<bool> = const { Cell::new(false) };
    }

    /// Says when it is dropped whether this thread was inside.
    struct Says(Sender<bool>);

    impl Drop for Says {
        fn drop(&mut self) {
            self.0.send(IS_IN.get()).ok();
        }
    }

    fn store() -> Store {
        Store::new(Cache::builder().max_capacity(1000).build_with_hasher(ByHead))
    }

    fn says() -> (Value, Receiver<bool>) {
        let (says, said) = channel();
        (Arc::new(Says(says)), said)
    }

    #[test]
    fn what_goes_inside_is_dropped_outside() {
        let store = store();
        let (value, said) = says();
        let outer = store.enter();
        IS_IN.set(true);
        let inner = store.enter();
        let stored = Stored::new(&value);
        drop(value);
        drop(stored);
        drop(inner);
        drop_aside();
        drop(outer);
        IS_IN.set(false);
        // Another test's thread may have it, or have left too many.
        let give_up = Instant::now() + Duration::from_secs(10);
        while Instant::now() < give_up {
            drop_aside();
            if let Ok(was_in) = said.recv_timeout(Duration::from_millis(1)) {
                return assert!(!was_in);
            }
        }
        panic!("it is not dropped");
    }

    #[test]
    fn what_goes_with_its_store_is_dropped_with_it() {
        let store = store();
        let (value, said) = says();
        let now = Instant::now();
        let life = Life { from: now, fresh: Duration::from_secs(60), kept: Duration::ZERO };
        let entry = LocalEntry::new(Since(now), Sequences::default().next(), &value, 1, life);
        store.enter().insert(StoredKey::new(&[1; 16]), &value, entry);
        drop(value);
        assert!(said.try_recv().is_err());
        drop(store);
        // Another test's thread may have it.
        assert_eq!(said.recv_timeout(Duration::from_secs(10)), Ok(false));
    }
}
