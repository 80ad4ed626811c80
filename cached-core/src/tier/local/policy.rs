//! Decides which entries the local tier evicts when its capacity is exceeded.
//!
//! A cache of the crate `moka` makes this decision. It evicts the least recently used entry, and
//! admits a new one only if TinyLFU counts enough lookups of its key. The moka cache holds no
//! values, only a [`MokaRecord`] for each entry. When moka drops a record, the entry's id is
//! queued. The local tier then removes the entry from the index, its own table of all entries.
//!
//! moka's eviction listener is not used, because it makes a miss take twice as long. With a
//! listener, moka adds a lock to a map for each insertion and each removal, and removes the lock
//! again.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use moka::sync::Cache;

use super::entry::EntryId;
use crate::key::{KeyHeader, PrecomputedBuildHasher, key_body};
use crate::sync::lock;

/// The policy becomes active when the weight of all entries exceeds the capacity divided by this
/// number. Before that, nothing has to be evicted, and moka is told nothing. This saves memory:
/// moka's record of an entry takes twice as much memory as the index needs for that entry.
const ACTIVATION_DIVISOR: u64 = 2;

/// The entries in the index may weigh more than the capacity. The allowed excess is the capacity
/// divided by this number. The excess comes from entries that moka has evicted but whose records
/// moka has not dropped yet.
const SLACK_DIVISOR: u64 = 32;
/// moka frees memory with the crate `crossbeam-epoch`, which counts epochs. A record that moka has
/// removed is dropped this many epochs later.
const EPOCHS_UNTIL_DROP: usize = 3;

/// The eviction policy of one local tier.
pub(super) struct EvictionPolicy {
    moka: Cache<KeyFingerprint, MokaRecord, PrecomputedBuildHasher>,
    evicted: Arc<EvictionQueue>,
    capacity: u64,
    /// The weight of all entries in the index.
    weight: AtomicU64,
    /// The weight of the records that were inserted into moka after its pending work last ran. moka
    /// counts the weight of a new record only when it runs this work.
    pending_weight: AtomicU64,
    /// Set when the weight first exceeds the limit that [`ACTIVATION_DIVISOR`] describes, and never
    /// cleared.
    is_active: AtomicBool,
}

/// Two independent hashes of a key. moka uses this pair in place of the key. The first hash is
/// taken from the key's header.
///
/// Two keys hardly ever share a fingerprint. If two keys do, moka holds a record of only one of
/// them, and the entry of the other key is evicted.
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

/// moka's record of an entry. When the record that moka stores is dropped, the entry counts as
/// evicted.
///
/// moka stores a clone of the record that is inserted, and a lookup returns a clone of the stored
/// record. A [`RecordCopyKind`] tells these three records apart. (With an `Arc` around the record there
/// would be only one record, but each entry would need another allocation.)
struct MokaRecord {
    /// The entry's id, with the role stored in the id's spare bits. This saves eight bytes for each
    /// entry.
    id_and_role: EntryId,
    weight: u32,
    evicted: Arc<EvictionQueue>,
}

/// The role of a [`MokaRecord`]: the inserted record, the clone that moka stores, or a returned
/// clone.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum RecordCopyKind {
    /// The record that was passed to moka for insertion. If another thread inserts the same key at
    /// the same time, moka can clone this record a second time and drop the first clone. The entry
    /// is then evicted too early.
    Original = 0,
    /// The clone that moka stores.
    Stored = 1,
    /// A clone that a lookup in moka returned.
    Returned = 2,
}

impl MokaRecord {
    fn new(
        id: EntryId,
        role: RecordCopyKind,
        weight: u32,
        evicted: Arc<EvictionQueue>,
    ) -> MokaRecord {
        MokaRecord { id_and_role: id.with_bits(role as u8), weight, evicted }
    }

    fn id_and_role(&self) -> (EntryId, RecordCopyKind) {
        let (id, role) = self.id_and_role.split_bits();
        let role = match role {
            0 => RecordCopyKind::Original,
            1 => RecordCopyKind::Stored,
            _ => RecordCopyKind::Returned,
        };
        (id, role)
    }
}

impl Clone for MokaRecord {
    fn clone(&self) -> MokaRecord {
        let (id, role) = self.id_and_role();
        let role = match role {
            RecordCopyKind::Original => RecordCopyKind::Stored,
            RecordCopyKind::Stored | RecordCopyKind::Returned => RecordCopyKind::Returned,
        };
        MokaRecord::new(id, role, self.weight, Arc::clone(&self.evicted))
    }
}

impl Drop for MokaRecord {
    fn drop(&mut self) {
        let (id, role) = self.id_and_role();
        if role == RecordCopyKind::Stored && !self.evicted.is_closed.load(Ordering::Relaxed) {
            self.evicted.push(id);
        }
    }
}

/// The ids of entries that moka has evicted and that must be removed from the index. The entries
/// are not removed at once, because moka may hold locks while it drops a record.
#[derive(Default)]
struct EvictionQueue {
    ids: Mutex<Vec<EntryId>>,
    /// The length of `ids`. It changes while `ids` is locked.
    count: AtomicUsize,
    /// Set when the policy is dropped. The drop of the moka cache then drops all records, and their
    /// ids need not be queued.
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
    /// Set while a [`MokaReentryGuard`] exists on this thread.
    static IS_IN_MOKA: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as running moka's code, until the guard is dropped. A thread that has a guard
/// gets no second guard, and must not call moka again.
///
/// While moka holds locks, it can drop values of any moka cache in the program. The `Drop` of such
/// a value might use this tier. If the tier then called moka, the thread could wait for a lock that
/// it holds itself.
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
            pending_weight: AtomicU64::new(0),
            is_active: AtomicBool::new(false),
        }
    }

    /// Adds the weight of an entry that is inserted into the index. Returns true if this entry
    /// makes the policy active. Only one call returns true.
    pub(super) fn add_weight(&self, weight: u32) -> bool {
        let total = self.weight.fetch_add(weight.into(), Ordering::Relaxed) + u64::from(weight);
        total > self.capacity / ACTIVATION_DIVISOR
            && !self.is_active()
            && !self.is_active.swap(true, Ordering::SeqCst)
    }

    /// Subtracts the weight of an entry that was removed from the index.
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

    /// Returns true if moka must be told of entries and of lookups; see [`ACTIVATION_DIVISOR`].
    pub(super) fn is_active(&self) -> bool {
        self.is_active.load(Ordering::SeqCst)
    }

    /// Inserts a record of an entry into moka. moka drops the record of an earlier entry with the
    /// same key. The entry must be in the index already, because moka may evict the entry at once.
    ///
    /// If moka's code has called this method through a `Drop`, the entry is evicted instead.
    pub(super) fn admit(&self, id: EntryId, weight: u32) {
        let Some(_guard) = MokaReentryGuard::enter() else { return self.evicted.push(id) };
        let evicted = Arc::clone(&self.evicted);
        let record = MokaRecord::new(id, RecordCopyKind::Original, weight, evicted);
        self.moka.insert(id.fingerprint(), record);
        let slack = self.capacity / SLACK_DIVISOR;
        let pending = self.pending_weight.fetch_add(weight.into(), Ordering::Relaxed);
        // Right after the policy has become active, moka has few records and has evicted no entry.
        // The condition in parentheses then avoids useless work.
        if self.has_excess()
            && (pending + u64::from(weight) > slack
                || self.moka.weighted_size() >= self.capacity - slack)
        {
            self.run_pending_work();
        }
    }

    /// Returns true if the entries weigh more than the capacity allows.
    pub(super) fn has_excess(&self) -> bool {
        self.weight() > self.capacity.saturating_add(self.capacity / SLACK_DIVISOR)
    }

    /// Makes moka evict entries until the rest fits the capacity. Then makes `crossbeam-epoch` free
    /// the memory that moka has retired, because only this drops the evicted records.
    #[cold]
    pub(super) fn run_pending_work(&self) {
        self.pending_weight.store(0, Ordering::Relaxed);
        self.moka.run_pending_tasks();
        for _ in 0..EPOCHS_UNTIL_DROP {
            crossbeam_epoch::pin().flush();
        }
    }

    #[cfg(test)]
    pub(super) fn moka_weight(&self) -> u64 {
        self.moka.weighted_size()
    }

    /// Makes moka drop the record of an entry that was removed from the index.
    ///
    /// If moka's code has called this method through a `Drop`, nothing happens. moka evicts the
    /// record at some later time.
    pub(super) fn forget(&self, fingerprint: KeyFingerprint) {
        if self.is_active()
            && let Some(_guard) = MokaReentryGuard::enter()
        {
            self.moka.invalidate(&fingerprint);
        }
    }

    /// Tells moka that a key is looked up, whether or not the key has an entry. When the capacity
    /// is reached, moka admits a new entry only if the key was looked up often enough.
    pub(super) fn record_lookup(&self, fingerprint: KeyFingerprint) {
        if let Some(_guard) = MokaReentryGuard::enter() {
            self.moka.get(&fingerprint);
        }
    }

    /// Returns the ids of the entries that moka has evicted since the last call.
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
