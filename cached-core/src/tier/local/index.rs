//! The entries, as every hit reads them: one shared table that is read without a lock and without a
//! write to shared memory (`papaya`, whose garbage waits until no reader can have it).

use std::hash::{Hash, Hasher};

use papaya::{Equivalent, Guard, HashMap, LocalGuard, ResizeMode};

use super::entry::{Entry, EntryId, Known};
use crate::key::{KeyQuery, PrecomputedHash};

/// So many entries of a table that grows are moved by each insertion: no insertion waits for all.
const MOVED_AT_ONCE: usize = 64;
/// Room for so many from the beginning, which is 18 KiB: where little is free a search takes longer.
const AT_FIRST: usize = 1024;
/// An entry that weighs more is not kept until there are more to be freed, where no more threads read than are.
const LARGE: u32 = 4096;

pub(super) struct Index {
    entries: HashMap<Entry, Known, PrecomputedHash>,
}

/// Until it is dropped, what was found stays in memory, and with it all that goes meanwhile: it is held
/// for a moment, and never while a program's own code may run that takes its time.
pub struct ReadGuard<'i> {
    index: &'i Index,
    guard: LocalGuard<'i>,
}

thread_local! {
    /// Gone when the thread's last calls can read no more: papaya's own mark of the thread, which is
    /// made before this, goes after it.
    static THREAD: Thread = Thread::begin();
}

struct Thread;

impl Thread {
    fn begin() -> Thread {
        drop(HashMap::<(), ()>::new().guard());
        Thread
    }
}

impl Drop for Thread {
    fn drop(&mut self) {}
}

impl Index {
    pub(super) fn new() -> Index {
        let entries = HashMap::builder()
            .hasher(PrecomputedHash)
            .capacity(AT_FIRST)
            .resize_mode(ResizeMode::Incremental(MOVED_AT_ONCE))
            .build();
        Index { entries }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// `None` at the end of a thread.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn read(&self) -> Option<ReadGuard<'_>> {
        THREAD.try_with(|_| ()).ok()?;
        Some(ReadGuard { index: self, guard: self.entries.guard() })
    }
}

impl ReadGuard<'_> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn find(&self, key: &impl KeyQuery) -> Option<(&Entry, &Known)> {
        self.index.entries.get_key_value(&Wanted(key), &self.guard)
    }

    /// This very entry.
    pub(super) fn find_by_id(&self, id: EntryId) -> Option<(&Entry, &Known)> {
        let found = self.index.entries.get_key_value(&id, &self.guard);
        found.filter(|(entry, _)| entry.id() == id)
    }

    /// Puts an entry in, in the place of another of its key. Returns what that weighed.
    pub(super) fn insert(&self, entry: Entry, known: Known) -> Option<u32> {
        self.weight_of(self.index.entries.insert(entry, known, &self.guard))
    }

    /// Takes this very entry out, where it is there yet. Returns what it weighed.
    pub(super) fn remove(&self, entry: &Entry) -> Option<u32> {
        let is_this = |found: &Entry, _: &Known| found.id() == entry.id();
        let removed = self.index.entries.remove_if(entry, is_this, &self.guard).ok()?;
        self.weight_of(removed.map(|(_, known)| known))
    }

    fn weight_of(&self, gone: Option<&Known>) -> Option<u32> {
        let weight = gone?.weight;
        if weight > LARGE {
            self.flush();
        }
        Some(weight)
    }

    /// Frees what was taken out, when nobody reads it any more.
    pub(super) fn flush(&self) {
        self.guard.flush();
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&Entry, &Known)> {
        self.index.entries.iter(&self.guard)
    }
}

struct Wanted<'k, S>(&'k S);

impl<S: KeyQuery> Hash for Wanted<'_, S> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u32(self.0.header().hash());
    }
}

impl<S: KeyQuery> Equivalent<Entry> for Wanted<'_, S> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn equivalent(&self, entry: &Entry) -> bool {
        entry.is_of(self.0)
    }
}

/// By its key's name. Not by itself: while the table grows, an entry that was replaced may be in the old one
/// yet, and where that is not taken for the one that is sought, the new table is not looked at.
impl Equivalent<Entry> for EntryId {
    fn equivalent(&self, entry: &Entry) -> bool {
        self.name() == entry.id().name()
    }
}
