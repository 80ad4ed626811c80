//! The table of all entries, which every hit reads.
//!
//! It is a `papaya` hash table: a reader takes no lock and writes no shared memory. A removed
//! entry is freed when no reader can hold it any more.

use std::hash::{Hash, Hasher};

use papaya::{Equivalent, Guard, HashMap, LocalGuard, ResizeMode};

use super::entry::{EntryId, EntryPolicyState, LocalEntry};
use crate::key::{KeyQuery, PrecomputedBuildHasher};

/// How many entries each insertion moves while the table grows, so that no insertion moves them all.
const ENTRIES_MOVED_PER_INSERTION: usize = 64;
/// The initial capacity, in entries; it takes 18 KiB. A search is slower in a table that is nearly full.
const INITIAL_CAPACITY: usize = 1024;
/// An entry that weighs more bytes than this is freed at once. Others are freed in batches.
const LARGE_ENTRY_WEIGHT: u32 = 4096;

pub(super) struct EntryIndex {
    entries: HashMap<LocalEntry, EntryPolicyState, PrecomputedBuildHasher>,
}

/// Reads and changes the index. Entries found with it stay in memory until it is dropped.
///
/// Memory that others remove meanwhile waits for it too. So it must be dropped soon, and before any code
/// of the program runs that may take its time.
pub struct IndexGuard<'i> {
    index: &'i EntryIndex,
    guard: LocalGuard<'i>,
}

thread_local! {
    /// Is destroyed while this thread can still read a table: papaya's own thread-local is made before
    /// this one, and so destroyed after it.
    static THREAD_ALIVE: ThreadAliveMarker = ThreadAliveMarker::new();
}

struct ThreadAliveMarker;

impl ThreadAliveMarker {
    fn new() -> ThreadAliveMarker {
        drop(HashMap::<(), ()>::new().guard());
        ThreadAliveMarker
    }
}

impl Drop for ThreadAliveMarker {
    /// Having a destructor is what makes the standard library track the end of the thread.
    fn drop(&mut self) {}
}

impl EntryIndex {
    pub(super) fn new() -> EntryIndex {
        let entries = HashMap::builder()
            .hasher(PrecomputedBuildHasher)
            .capacity(INITIAL_CAPACITY)
            .resize_mode(ResizeMode::Incremental(ENTRIES_MOVED_PER_INSERTION))
            .build();
        EntryIndex { entries }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns `None` while the thread ends: its thread-locals are gone then.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn guard(&self) -> Option<IndexGuard<'_>> {
        THREAD_ALIVE.try_with(|_| ()).ok()?;
        Some(IndexGuard { index: self, guard: self.entries.guard() })
    }
}

impl IndexGuard<'_> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn find(&self, key: &impl KeyQuery) -> Option<(&LocalEntry, &EntryPolicyState)> {
        self.index.entries.get_key_value(&QueriedKey(key), &self.guard)
    }

    pub(super) fn find_by_id(&self, id: EntryId) -> Option<(&LocalEntry, &EntryPolicyState)> {
        let found = self.index.entries.get_key_value(&id, &self.guard);
        found.filter(|(entry, _)| entry.id() == id)
    }

    /// Inserts an entry, and removes the one with the same key. Returns the removed entry's weight.
    pub(super) fn insert(&self, entry: LocalEntry, state: EntryPolicyState) -> Option<u32> {
        self.weight_of_removed(self.index.entries.insert(entry, state, &self.guard))
    }

    /// Removes exactly this entry. Returns its weight, or `None` if it was removed before.
    pub(super) fn remove(&self, entry: &LocalEntry) -> Option<u32> {
        let is_same = |found: &LocalEntry, _: &EntryPolicyState| found.id() == entry.id();
        let removed = self.index.entries.remove_if(entry, is_same, &self.guard).ok()?;
        self.weight_of_removed(removed.map(|(_, state)| state))
    }

    fn weight_of_removed(&self, state: Option<&EntryPolicyState>) -> Option<u32> {
        let weight = state?.weight;
        if weight > LARGE_ENTRY_WEIGHT {
            self.flush();
        }
        Some(weight)
    }

    /// Frees the removed entries, as soon as no thread reads them.
    pub(super) fn flush(&self) {
        self.guard.flush();
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&LocalEntry, &EntryPolicyState)> {
        self.index.entries.iter(&self.guard)
    }
}

/// Lets the table search for a key that is not encoded.
struct QueriedKey<'k, K>(&'k K);

impl<K: KeyQuery> Hash for QueriedKey<'_, K> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u32(self.0.header().hash());
    }
}

impl<K: KeyQuery> Equivalent<LocalEntry> for QueriedKey<'_, K> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn equivalent(&self, entry: &LocalEntry) -> bool {
        entry.has_key(self.0)
    }
}

/// Compares keys only, and leaves the number to [`IndexGuard::find_by_id`]. While the table grows, its
/// old half may hold an entry that was replaced; papaya goes on to the new half only if the keys match.
impl Equivalent<LocalEntry> for EntryId {
    fn equivalent(&self, entry: &LocalEntry) -> bool {
        self.fingerprint() == entry.id().fingerprint()
    }
}
