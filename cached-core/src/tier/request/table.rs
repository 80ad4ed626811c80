//! The table of a request's values: one hash table for each cache that the request uses.

use std::sync::Arc;

use crate::key::{KeyHeader, KeyQuery, key_body};
use crate::value::Value;

/// The values that one request has, in all caches.
#[derive(Default)]
pub(super) struct RequestTables {
    /// The ids of the caches, each with the values from this cache. Most requests use one cache.
    caches: Vec<(u64, ValueTable)>,
    /// The request's *change count*: how often the request has replaced or removed values.
    pub(super) changes: u64,
}

/// The values that one request has in one cache: a hash table with open addressing and linear
/// probing.
///
/// A hit takes fewer instructions than a hit in the standard `HashMap`.
pub(super) struct ValueTable {
    /// The length is a power of two. At most half of the slots are used, so every search ends at a
    /// free slot.
    slots: Vec<Option<RequestEntry>>,
    /// The number of slots that are not free.
    used: usize,
    /// The functions whose values were all removed, each with the request's change count right
    /// after the removal. A function is identified by the index of its declaration, and `None`
    /// stands for all functions.
    cleared: Vec<(Option<usize>, u64)>,
}

/// A key, and the value that the request has for this key.
pub(super) struct RequestEntry {
    header: KeyHeader,
    key: Arc<[u8]>,
    /// `None` after the value was removed. The slot stays used, because the search for another key
    /// may have to pass this slot.
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
    pub(super) fn table(&mut self, cache: u64) -> (&mut ValueTable, &mut u64) {
        let RequestTables { caches, changes } = self;
        let index = caches.iter().position(|(id, _)| *id == cache).unwrap_or_else(|| {
            caches.push((cache, ValueTable::new()));
            caches.len() - 1
        });
        (&mut caches[index].1, changes)
    }
}

impl ValueTable {
    fn new() -> ValueTable {
        ValueTable { slots: empty_slots(16), used: 0, cleared: Vec::new() }
    }

    /// Returns the index of the slot that has the key or, if no slot has it, of the free slot in
    /// which it can be stored.
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

    /// Removes the values of a function, or of all functions, and returns them. `changes` is the
    /// change count right after the removal.
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

/// Returns true if the key with this header belongs to the function, or if `function` stands for
/// all functions.
fn is_of(header: KeyHeader, function: Option<usize>) -> bool {
    function.is_none_or(|index| index == header.index())
}

/// Returns the change count right after the last removal of all values of the key's function, or 0.
fn last_cleared(cleared: &[(Option<usize>, u64)], header: KeyHeader) -> u64 {
    let matching = cleared.iter().filter(|(function, _)| is_of(header, *function));
    matching.map(|(_, changes)| *changes).max().unwrap_or(0)
}

fn empty_slots(count: usize) -> Vec<Option<RequestEntry>> {
    std::iter::repeat_with(|| None).take(count).collect()
}
