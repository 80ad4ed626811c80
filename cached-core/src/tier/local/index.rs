//! The index of the local tier: the table of all entries, which every hit reads.
//!
//! The table is a `papaya` hash table. A reader takes no lock and writes no shared memory. A
//! removed entry is freed when no reader can still hold a reference to the entry.

use std::hash::{Hash, Hasher};

use papaya::{Equivalent, Guard, HashMap, LocalGuard, ResizeMode};

use super::entry::{EntryId, EntryPolicyState, LocalEntry};
use crate::key::{KeyQuery, PrecomputedBuildHasher};

/// While the table grows, each insertion moves this many entries to the larger table, so that no
/// single insertion has to move all entries.
const ENTRIES_MOVED_PER_INSERTION: usize = 64;
/// The initial capacity, in entries. The empty table takes 18 KiB. A smaller table would be nearly
/// full sooner, and searches in a nearly full table are slower.
const INITIAL_CAPACITY: usize = 1024;
/// If a removed entry weighs more than this number of bytes, it is freed as soon as no
/// [`IndexGuard`] protects it. Lighter removed entries are freed in batches.
const LARGE_ENTRY_WEIGHT: u32 = 4096;

/// The table of all entries of a local tier.
pub(super) struct EntryIndex {
    entries: HashMap<LocalEntry, EntryPolicyState, PrecomputedBuildHasher>,
}

/// Access to the index, for reads and for changes. An entry that was found with a guard stays in
/// memory until the guard is dropped.
///
/// While a guard exists, the entries that any thread removes are not freed. The caller must
/// therefore drop the guard soon, and before slow code runs.
pub struct IndexGuard<'i> {
    index: &'i EntryIndex,
    guard: LocalGuard<'i>,
}

thread_local! {
    /// Can be accessed as long as this thread can read a papaya table. papaya's own thread-local is
    /// initialized before this one, so papaya's is destroyed later.
    static THREAD_ALIVE: ThreadAliveMarker = ThreadAliveMarker::new();
}

/// The value of [`THREAD_ALIVE`].
struct ThreadAliveMarker;

impl ThreadAliveMarker {
    /// Initializes papaya's own thread-local, and then creates the marker.
    fn new() -> ThreadAliveMarker {
        drop(HashMap::<(), ()>::new().guard());
        ThreadAliveMarker
    }
}

impl Drop for ThreadAliveMarker {
    /// Does nothing. The standard library marks a thread-local as destroyed only if its type has a
    /// `Drop`.
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

    /// Returns access to the index, or `None` if the thread is ending and its thread-locals are
    /// destroyed.
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

    /// Returns the entry with this id. Returns `None` if the entry was removed, even if a later
    /// entry has the same key.
    pub(super) fn find_by_id(&self, id: EntryId) -> Option<(&LocalEntry, &EntryPolicyState)> {
        let found = self.index.entries.get_key_value(&id, &self.guard);
        found.filter(|(entry, _)| entry.id() == id)
    }

    /// Returns the current entry of a key. The id names this entry, or an earlier entry of the key
    /// that has been replaced.
    #[cfg(all(feature = "console", feature = "memcached"))]
    pub(super) fn find_same_key(&self, id: EntryId) -> Option<(&LocalEntry, &EntryPolicyState)> {
        self.index.entries.get_key_value(&id, &self.guard)
    }

    /// Inserts an entry, replacing an earlier entry with the same key. Returns the replaced entry's
    /// weight.
    pub(super) fn insert(&self, entry: LocalEntry, state: EntryPolicyState) -> Option<u32> {
        self.weight_of_removed(self.index.entries.insert(entry, state, &self.guard))
    }

    /// Removes exactly this entry, but no other entry with the same key. Returns the entry's
    /// weight, or `None` if the entry was removed before.
    pub(super) fn remove(&self, entry: &LocalEntry) -> Option<u32> {
        let is_same = |found: &LocalEntry, _: &EntryPolicyState| found.id() == entry.id();
        let removed = self.index.entries.remove_if(entry, is_same, &self.guard).ok()?;
        self.weight_of_removed(removed.map(|(_, state)| state))
    }

    /// Returns the weight of the removed entry that had this state, and calls
    /// [`flush`](Self::flush) if the entry is large.
    fn weight_of_removed(&self, state: Option<&EntryPolicyState>) -> Option<u32> {
        let weight = state?.weight;
        if weight > LARGE_ENTRY_WEIGHT {
            self.flush();
        }
        Some(weight)
    }

    /// Lets this thread's removed entries be freed once no guard protects them. Without this call,
    /// the entries wait for a full batch.
    pub(super) fn flush(&self) {
        self.guard.flush();
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&LocalEntry, &EntryPolicyState)> {
        self.index.entries.iter(&self.guard)
    }
}

/// A key in a form that the table can search for. The key need not be encoded as bytes.
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

/// Compares only the fingerprints (hashes) of the keys. [`IndexGuard::find_by_id`] then compares
/// the whole ids.
///
/// While the table grows, the old table may contain an entry whose replacement is in the new table.
/// papaya continues the search in the new table if the id is equivalent to the old entry. The old
/// entry must therefore count as equivalent although its id is different.
impl Equivalent<LocalEntry> for EntryId {
    fn equivalent(&self, entry: &LocalEntry) -> bool {
        self.fingerprint() == entry.id().fingerprint()
    }
}
