//! Decides which entries are evicted when the capacity is exceeded.
//!
//! moka decides that, by TinyLFU in front of an LRU. It holds no values, only a [`MokaRecord`] for each
//! entry. When moka drops a record, the entry is removed from the index.
//!
//! moka also offers an eviction listener. It is not used, because it makes a miss take twice as long:
//! moka then puts a lock into a map, and takes it out again, for each entry that comes or goes.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use moka::sync::Cache;

use super::entry::EntryId;
use crate::key::{KeyHeader, PrecomputedBuildHasher, key_body};
use crate::sync::lock;

/// moka is told of entries and of lookups once the entries take this fraction of the capacity. moka's
/// record of an entry takes twice the memory of the index's, and is of no use before.
const ACTIVE_FROM_FRACTION: u64 = 2;

/// The fraction of the capacity by which the index may exceed it. That much belongs to entries that moka
/// has evicted and whose records it has not dropped yet.
const SLACK_FRACTION: u64 = 32;
/// How often the epoch of `crossbeam-epoch` must advance before a record that moka removed is dropped.
const EPOCHS_UNTIL_DROP: usize = 3;

/// The eviction policy.
pub(super) struct EvictionPolicy {
    moka: Cache<KeyFingerprint, MokaRecord, PrecomputedBuildHasher>,
    evicted: Arc<EvictionQueue>,
    capacity: u64,
    /// The weight of all entries in the index.
    weight: AtomicU64,
    /// Set when the entries exceed [`ACTIVE_FROM_FRACTION`] for the first time, and never cleared.
    is_active: AtomicBool,
}

/// Stands for a key in moka: the hash in the key's header, and a second, independent one.
///
/// Two keys hardly ever share a fingerprint. If they do, moka holds a record of one of them only, and
/// the entry of the other is evicted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyFingerprint {
    hash: u32,
    second_hash: u32,
}

impl KeyFingerprint {
    pub(super) fn of(key: &[u8]) -> KeyFingerprint {
        let header = KeyHeader::read(key);
        let mut hasher = DefaultHasher::new();
        hasher.write_usize(header.index());
        hasher.write(key_body(key));
        KeyFingerprint { hash: header.hash(), second_hash: hasher.finish() as u32 }
    }
}

impl Hash for KeyFingerprint {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u32(self.hash);
    }
}

/// moka's record of an entry. When the copy that moka stores is dropped, the entry counts as evicted.
///
/// moka stores a clone of the record that it is given, and returns clones of that one. [`RecordRole`]
/// tells them apart. (Sharing the record in an `Arc` would cost each entry another allocation.)
struct MokaRecord {
    id: EntryId,
    weight: u32,
    role: RecordRole,
    evicted: Arc<EvictionQueue>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RecordRole {
    /// Passed to moka, which stores a clone. If another insertion interferes, moka clones it again and
    /// drops the first clone: then the entry is evicted too early.
    Original,
    Stored,
    /// A clone that moka returned.
    Returned,
}

impl Clone for MokaRecord {
    fn clone(&self) -> MokaRecord {
        let role = match self.role {
            RecordRole::Original => RecordRole::Stored,
            RecordRole::Stored | RecordRole::Returned => RecordRole::Returned,
        };
        MokaRecord { id: self.id, weight: self.weight, role, evicted: Arc::clone(&self.evicted) }
    }
}

impl Drop for MokaRecord {
    fn drop(&mut self) {
        if self.role == RecordRole::Stored && !self.evicted.is_closed.load(Ordering::Relaxed) {
            self.evicted.push(self.id);
        }
    }
}

/// Entries whose records moka has dropped, until they are removed from the index. They wait here because
/// moka holds its own locks while it drops a record.
#[derive(Default)]
struct EvictionQueue {
    ids: Mutex<Vec<EntryId>>,
    /// The length of `ids`. It changes while `ids` is locked.
    count: AtomicUsize,
    /// Set when the index is dropped.
    is_closed: AtomicBool,
}

impl EvictionQueue {
    fn push(&self, id: EntryId) {
        let mut ids = lock(&self.ids);
        ids.push(id);
        self.count.store(ids.len(), Ordering::Relaxed);
    }
}

thread_local! {
    static IS_IN_MOKA: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as one that runs moka's code, until the guard is dropped.
///
/// moka takes its own locks, and may free the garbage of any moka cache of the program. A value in
/// that garbage may change an entry when it is dropped, and would deadlock if that called moka again.
struct MokaReentryGuard;

impl MokaReentryGuard {
    /// Returns `None` if this thread runs moka's code already.
    fn enter() -> Option<MokaReentryGuard> {
        (!IS_IN_MOKA.replace(true)).then(|| MokaReentryGuard)
    }
}

impl Drop for MokaReentryGuard {
    fn drop(&mut self) {
        IS_IN_MOKA.set(false);
    }
}

impl EvictionPolicy {
    pub(super) fn new(capacity: u64) -> EvictionPolicy {
        let moka = Cache::builder()
            .max_capacity(capacity)
            .weigher(|_: &KeyFingerprint, record: &MokaRecord| record.weight)
            .build_with_hasher(PrecomputedBuildHasher);
        EvictionPolicy {
            moka,
            evicted: Arc::default(),
            capacity,
            weight: AtomicU64::new(0),
            is_active: AtomicBool::new(false),
        }
    }

    /// Counts an entry that is inserted into the index. Returns true to the one caller whose entry
    /// makes the policy active.
    pub(super) fn add_weight(&self, weight: u32) -> bool {
        let total = self.weight.fetch_add(weight.into(), Ordering::Relaxed) + u64::from(weight);
        total > self.capacity / ACTIVE_FROM_FRACTION
            && !self.is_active()
            && !self.is_active.swap(true, Ordering::SeqCst)
    }

    /// Counts an entry that was removed from the index.
    pub(super) fn subtract_weight(&self, weight: u32) {
        self.weight.fetch_sub(weight.into(), Ordering::Relaxed);
    }

    /// Returns the weight of all entries in the index.
    pub(super) fn weight(&self) -> u64 {
        self.weight.load(Ordering::Relaxed)
    }

    pub(super) fn has_no_capacity(&self) -> bool {
        self.capacity == 0
    }

    /// Returns true if moka must be told of entries and of lookups.
    pub(super) fn is_active(&self) -> bool {
        self.is_active.load(Ordering::SeqCst)
    }

    /// Tells moka of an entry. The entry must be in the index already, because moka may evict it at
    /// once. moka drops the record of an earlier entry with the same key.
    ///
    /// On a thread that runs moka's code the entry is evicted instead.
    pub(super) fn admit(&self, id: EntryId, weight: u32) {
        let Some(_guard) = MokaReentryGuard::enter() else { return self.evicted.push(id) };
        let evicted = Arc::clone(&self.evicted);
        let record = MokaRecord { id, weight, role: RecordRole::Original, evicted };
        self.moka.insert(id.fingerprint(), record);
        let slack = self.capacity / SLACK_FRACTION;
        // Right after the policy became active, moka knows few entries and has evicted none.
        if self.weight() > self.capacity.saturating_add(slack)
            && self.moka.weighted_size() >= self.capacity - slack
        {
            self.run_pending_work();
        }
    }

    /// Has moka evict what exceeds the capacity. Then collects the garbage of moka's tables, because the
    /// evicted records are dropped there.
    #[cold]
    pub(super) fn run_pending_work(&self) {
        self.moka.run_pending_tasks();
        for _ in 0..EPOCHS_UNTIL_DROP {
            crossbeam_epoch::pin().flush();
        }
    }

    #[cfg(test)]
    pub(super) fn moka_weight(&self) -> u64 {
        self.moka.weighted_size()
    }

    /// Has moka drop its record of an entry that was removed from the index.
    ///
    /// On a thread that runs moka's code nothing happens: moka evicts the record at some later time.
    pub(super) fn forget(&self, fingerprint: KeyFingerprint) {
        if self.is_active()
            && let Some(_guard) = MokaReentryGuard::enter()
        {
            self.moka.invalidate(&fingerprint);
        }
    }

    /// Tells moka that a key is looked up, whether or not there is an entry. moka admits a new entry
    /// only if its key is looked up often enough.
    pub(super) fn record_lookup(&self, fingerprint: KeyFingerprint) {
        if let Some(_guard) = MokaReentryGuard::enter() {
            self.moka.get(&fingerprint);
        }
    }

    /// Takes the entries that moka has evicted since the last call.
    pub(super) fn take_evicted(&self) -> Vec<EntryId> {
        if self.evicted.count.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let mut ids = lock(&self.evicted.ids);
        self.evicted.count.store(0, Ordering::Relaxed);
        std::mem::take(&mut ids)
    }
}

impl Drop for EvictionPolicy {
    fn drop(&mut self) {
        self.evicted.is_closed.store(true, Ordering::Relaxed);
    }
}
