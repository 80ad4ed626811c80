//! Which entries go where there is no room for all: moka decides that (TinyLFU over an LRU). It holds
//! no value, but one [`Held`] for each entry; when it lets go of that, the entry is taken out of the
//! index.
//!
//! moka has a listener for that. It costs a map of locks, of which one is put in and taken out for
//! each entry that comes or goes, and with it a miss takes twice as long.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use moka::sync::Cache;

use super::entry::EntryId;
use super::lock;
use crate::key::{KeyHeader, PrecomputedHash, key_body};

/// moka hears of entries, and of what is asked for, when one in so many bytes is taken: it counts how often
/// a key is asked for from then on, and what moka keeps of an entry is twice what the index does.
const COUNTS_FROM: u64 = 2;

/// One in so many bytes may be in the index beyond the capacity, in entries that moka has let go of and
/// has not dropped yet.
const SLACK: u64 = 32;
/// What went is dropped when the epoch has moved on so often (`crossbeam-epoch`).
const EPOCHS: usize = 3;

pub(super) struct Policy {
    moka: Cache<Name, Held, PrecomputedHash>,
    gone: Arc<Gone>,
    capacity: u64,
    /// What the entries of the index weigh.
    weight: AtomicU64,
    /// Whether moka has been told of entries: from when half of the room is taken, and for good.
    is_filling: AtomicBool,
}

/// A key as moka has it: the hash that is in its head, and another, so that hardly two keys share a name. Of
/// two that do one is let go of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    hash: u32,
    other: u32,
}

impl Name {
    pub(super) fn of(key: &[u8]) -> Name {
        let head = KeyHeader::read(key);
        let mut hasher = DefaultHasher::new();
        hasher.write_usize(head.index());
        hasher.write(key_body(key));
        Name { hash: head.hash(), other: hasher.finish() as u32 }
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u32(self.hash);
    }
}

/// What moka holds of an entry. moka stores a clone of what it is given, and hands out clones of that; the
/// one that it stores says so when it is dropped. (In an `Arc` each entry would take an allocation more.)
struct Held {
    id: EntryId,
    weight: u32,
    state: State,
    gone: Arc<Gone>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// To moka, which stores a clone. Where another call is in its way it makes one more, and drops the
    /// first: the entry goes then, before its time.
    Given,
    Stored,
    /// By moka.
    HandedOut,
}

impl Clone for Held {
    fn clone(&self) -> Held {
        let state = match self.state {
            State::Given => State::Stored,
            State::Stored | State::HandedOut => State::HandedOut,
        };
        Held { id: self.id, weight: self.weight, state, gone: Arc::clone(&self.gone) }
    }
}

/// Entries that moka has let go of, until they are taken out of the index. moka holds locks of its own
/// when it lets go.
#[derive(Default)]
struct Gone {
    entries: Mutex<Vec<EntryId>>,
    /// How many there are; changed with the lock held.
    count: AtomicUsize,
    /// There is no index any more.
    over: AtomicBool,
}

impl Gone {
    fn add(&self, id: EntryId) {
        let mut entries = lock(&self.entries);
        entries.push(id);
        self.count.store(entries.len(), Ordering::Relaxed);
    }
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// This thread asks moka something. It has locks of its own then, and may drop what any table of the program
/// has let go of: a value that comes here from there would wait for its own thread. Who does comes in vain: an
/// entry that it puts in goes at once, and a record of one that it takes out goes in its time.
struct Inside;

impl Inside {
    fn enter() -> Option<Inside> {
        (!INSIDE.replace(true)).then(|| Inside)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

impl Policy {
    pub(super) fn new(capacity: u64) -> Policy {
        let moka = Cache::builder()
            .max_capacity(capacity)
            .weigher(|_: &Name, held: &Held| held.weight)
            .build_with_hasher(PrecomputedHash);
        Policy {
            moka,
            gone: Arc::default(),
            capacity,
            weight: AtomicU64::new(0),
            is_filling: AtomicBool::new(false),
        }
    }

    /// An entry is put into the index. Returns true for the one with which half of the room is taken.
    pub(super) fn added(&self, weight: u32) -> bool {
        let all = self.weight.fetch_add(weight.into(), Ordering::Relaxed) + u64::from(weight);
        all > self.capacity / COUNTS_FROM
            && !self.is_filling()
            && !self.is_filling.swap(true, Ordering::SeqCst)
    }

    /// An entry was taken out of the index.
    pub(super) fn removed(&self, weight: u32) {
        self.weight.fetch_sub(weight.into(), Ordering::Relaxed);
    }

    /// Whether there is no room at all.
    pub(super) fn keeps_nothing(&self) -> bool {
        self.capacity == 0
    }

    /// Whether entries may have to go soon, and moka is to know of them and of what is asked for.
    pub(super) fn is_filling(&self) -> bool {
        self.is_filling.load(Ordering::SeqCst)
    }

    /// To be called when the entry is in the index: one that moka lets go of at once is found there.
    /// What was there of its key is let go of.
    pub(super) fn admit(&self, id: EntryId, weight: u32) {
        let Some(_inside) = Inside::enter() else { return self.gone.add(id) };
        let gone = Arc::clone(&self.gone);
        self.moka.insert(id.name(), Held { id, weight, state: State::Given, gone });
        let slack = self.capacity / SLACK;
        // While moka does not know of all yet it has nothing to settle.
        if self.weight.load(Ordering::Relaxed) > self.capacity.saturating_add(slack)
            && self.moka.weighted_size() >= self.capacity - slack
        {
            self.settle();
        }
    }

    /// Has moka do what it puts off: its own records, and dropping what it has let go of, which it
    /// leaves to the garbage of its tables.
    #[cold]
    pub(super) fn settle(&self) {
        self.moka.run_pending_tasks();
        for _ in 0..EPOCHS {
            crossbeam_epoch::pin().flush();
        }
    }

    #[cfg(test)]
    pub(super) fn weights(&self) -> [u64; 2] {
        [self.weight.load(Ordering::Relaxed), self.moka.weighted_size()]
    }

    /// Takes the entry of a key out that is in the index no more.
    pub(super) fn dismiss(&self, name: Name) {
        if self.is_filling()
            && let Some(_inside) = Inside::enter()
        {
            self.moka.invalidate(&name);
        }
    }

    /// A key is asked for, whether or not it has an entry: what is asked for often is let in.
    pub(super) fn asked_for(&self, name: Name) {
        if let Some(_inside) = Inside::enter() {
            self.moka.get(&name);
        }
    }

    /// The entries that moka has let go of since.
    pub(super) fn gone(&self) -> Vec<EntryId> {
        if self.gone.count.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let mut entries = lock(&self.gone.entries);
        self.gone.count.store(0, Ordering::Relaxed);
        std::mem::take(&mut entries)
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        self.gone.over.store(true, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.state == State::Stored && !self.gone.over.load(Ordering::Relaxed) {
            self.gone.add(self.id);
        }
    }
}
