//! Stores the values that one request has read or written, in one hash table for each cache.

use std::sync::Arc;

use crate::key::{KeyHeader, KeyQuery, key_body};
use crate::value::Value;

/// All values that one request holds, from all caches.
#[derive(Default)]
pub(super) struct RequestTables {
    /// Pairs of a cache's id and the values from this cache. Most requests use one cache.
    caches: Vec<(u64, CacheTable)>,
    /// The request's *change count*: how often the request has replaced or removed values.
    pub(super) changes: u64,
}

/// The values that one request holds from one cache: a hash table with open addressing and linear
/// probing.
///
/// A hit takes fewer instructions than a hit in the standard `HashMap`.
pub(super) struct CacheTable {
    /// The length is a power of two. At most half of the slots are used, so every search ends at a
    /// free slot.
    slots: Vec<Option<RequestEntry>>,
    /// The number of slots that are not free.
    used: usize,
    /// The latest `clear` of each function, or of all functions, as a pair. The first part is the
    /// index of the function's declaration, or `None` for all functions. The second part is the
    /// request's change count right after the removal.
    cleared: Vec<(Option<usize>, u64)>,
}

/// A key, and the value that the request has for this key.
pub(super) struct RequestEntry {
    header: KeyHeader,
    key: Arc<[u8]>,
    /// `None` if the value was removed or is not stored yet. The slot stays used after a removal: a
    /// free slot would end the search for keys that are stored behind it.
    pub(super) value: Option<Value>,
    /// The request's change count right after this value was last replaced or removed. It is 0 for
    /// a value that was never replaced or removed.
    pub(super) changed_at: u64,
}

impl RequestTables {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn find(&self, cache: u64, key: &impl KeyQuery) -> Option<&Value> {
        let (_, table) = self.caches.iter().find(|(id, _)| *id == cache)?;
        table.slots[table.slot(key)].as_ref()?.value.as_ref()
    }

    /// Returns the table of a cache, and the change count.
    pub(super) fn table(&mut self, cache: u64) -> (&mut CacheTable, &mut u64) {
        let RequestTables { caches, changes } = self;
        let index = caches.iter().position(|(id, _)| *id == cache).unwrap_or_else(|| {
            caches.push((cache, CacheTable::new()));
            caches.len() - 1
        });
        (&mut caches[index].1, changes)
    }
}

impl CacheTable {
    fn new() -> CacheTable {
        CacheTable { slots: empty_slots(16), used: 0, cleared: Vec::new() }
    }

    /// Returns the index of the slot that holds the key. If no slot holds the key, returns the
    /// index of the free slot in which it belongs.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn slot(&self, key: &impl KeyQuery) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = key.header().hash() as usize & mask;
        while let Some(other) = &self.slots[slot]
            && !(other.header == key.header() && key.matches(key_body(&other.key)))
        {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// Returns the entry of a key. If the key has no entry, adds one without a value.
    pub(super) fn get_or_insert(&mut self, key: &Arc<[u8]>) -> &mut RequestEntry {
        if (self.used + 1) * 2 > self.slots.len() {
            let larger = empty_slots(self.slots.len() * 2);
            for entry in std::mem::replace(&mut self.slots, larger).into_iter().flatten() {
                let slot = self.slot(&&*entry.key);
                self.slots[slot] = Some(entry);
            }
        }
        let slot = self.slot(&&**key);
        let slot = &mut self.slots[slot];
        self.used += usize::from(slot.is_none());
        let header = KeyHeader::read(key);
        slot.get_or_insert_with(|| RequestEntry {
            header,
            key: Arc::clone(key),
            value: None,
            changed_at: last_cleared(&self.cleared, header),
        })
    }

    /// Removes and returns the values of a function, or of all functions if `function` is `None`.
    /// `changes` is the change count right after the removal.
    pub(super) fn clear(&mut self, function: Option<usize>, changes: u64) -> Vec<Value> {
        self.cleared.retain(|(earlier, _)| function.is_some() && *earlier != function);
        self.cleared.push((function, changes));
        let entries = self.slots.iter_mut().flatten();
        let cleared = entries.filter(|entry| is_of(entry.header, function));
        let remove = |entry: &mut RequestEntry| {
            entry.changed_at = changes;
            entry.value.take()
        };
        cleared.filter_map(remove).collect()
    }
}

/// Returns true if the key with this header belongs to the function, or if `function` is `None`.
fn is_of(header: KeyHeader, function: Option<usize>) -> bool {
    function.is_none_or(|index| index == header.index())
}

/// Returns the change count right after all values of the key's function were last removed. Returns
/// 0 if that never happened.
fn last_cleared(cleared: &[(Option<usize>, u64)], header: KeyHeader) -> u64 {
    let matching = cleared.iter().filter(|(function, _)| is_of(header, *function));
    matching.map(|(_, changes)| *changes).max().unwrap_or(0)
}

fn empty_slots(count: usize) -> Vec<Option<RequestEntry>> {
    std::iter::repeat_with(|| None).take(count).collect()
}
