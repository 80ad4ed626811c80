//! Keeps the index and the eviction policy (a moka cache) consistent. The policy is told of
//! insertions and hits, and evicted and expired entries are removed from the index.
//!
//! The policy becomes *active* when the entries weigh more than half of the capacity. Before that,
//! the policy is told nothing. To *admit* an entry, the policy creates a record of the entry.

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::thread;

use super::LocalTier;
use super::entry::{EntryId, EntryPolicyState, KeyBody, LocalEntry};
use super::index::IndexGuard;
use crate::clock::CoarseInstant;
use crate::event::{Event, EventSubject, EvictionReason};
use crate::key::KeyHeader;

/// In each *report interval*, the policy is told of at most one hit on each entry. The interval is
/// a number of insertions: the number of entries in the index, divided by this constant. This is
/// often enough: the policy learns that an entry is in use long before it could evict the entry.
const REPORT_INTERVAL_DIVISOR: usize = 2;
/// The interval is computed again after this many insertions.
const INTERVAL_UPDATE_INSERTIONS: u32 = 256;

/// The most entries that one sweep for expired entries removes. The limit bounds the time and the
/// memory of a sweep.
const MAX_SWEPT_ENTRIES: usize = 1 << 16;
/// The most entries that are handled with one [`IndexGuard`]. A guard must not exist for long,
/// because it keeps removed entries in memory.
const ENTRIES_PER_GUARD: usize = 1 << 8;

/// Decides which hits are reported to the policy: at most one hit on each entry in a report
/// interval.
pub(super) struct HitReportThrottle {
    /// The number of entries that were inserted while the policy was active.
    insertions: AtomicU32,
    /// A hit on an entry is reported if this many entries were inserted since the entry's last
    /// report.
    interval: AtomicU32,
}

impl HitReportThrottle {
    /// Creates a throttle that lets no report pass until an entry is inserted while the policy is
    /// active.
    pub(super) fn new() -> HitReportThrottle {
        HitReportThrottle { insertions: AtomicU32::new(0), interval: AtomicU32::new(u32::MAX) }
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn insertions(&self) -> u32 {
        self.insertions.load(Ordering::Relaxed)
    }

    /// Returns true if a hit on the entry must be reported.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn is_due(&self, state: &EntryPolicyState) -> bool {
        state.is_report_due(self.insertions(), self.interval.load(Ordering::Relaxed))
    }
}

/// An entry that was inserted into the index and must be passed to [`LocalTier::tell_policy`].
pub(super) struct InsertedEntry {
    pub(super) id: EntryId,
    pub(super) weight: u32,
    /// True if the policy was active before the insertion. `tell_policy` must then admit the entry,
    /// because nothing else admits it.
    pub(super) must_admit: bool,
    /// True if this entry made the policy active. Then `tell_policy` makes the policy admit
    /// all earlier entries.
    pub(super) activates_policy: bool,
    /// True if the insertion removed an earlier entry with the same key.
    pub(super) has_replaced_entry: bool,
}

/// An entry that was removed from the index. It must be passed to [`LocalTier::report_removal`] or,
/// if the policy has evicted the entry, to [`LocalTier::emit_removal`].
pub(super) struct RemovedEntry {
    /// A copy of the header and the body of the key. A copy is needed because the entry itself can
    /// be freed as soon as the [`IndexGuard`] is dropped.
    key: (KeyHeader, KeyBody),
    id: EntryId,
    /// False if another caller removed the entry first. Only that caller emits the event.
    is_removed_here: bool,
}

impl RemovedEntry {
    pub(super) fn is_removed_here(&self) -> bool {
        self.is_removed_here
    }
}

impl LocalTier {
    /// Tells the policy of an insertion, and removes the entries that the policy evicts.
    ///
    /// The caller must hold no lock, because moka can drop values of any moka cache in the program,
    /// and their `Drop` can run any code. Without a lock, two insertions with the same key can
    /// reach moka in the wrong order. The later entry might then be evicted too early. Even then,
    /// each entry that stays in the index has a record in moka.
    pub(super) fn tell_policy(&self, insertion: &InsertedEntry) {
        if insertion.must_admit {
            self.policy.admit(insertion.id, insertion.weight);
        } else {
            // Pairs with the fence in `admit_all`. Either this thread sees that the policy is
            // active, or the thread in `admit_all` sees the entry in the index. So one of them
            // admits the entry.
            fence(Ordering::SeqCst);
            if self.policy.is_active() {
                self.admit(insertion.id);
            }
        }
        if insertion.activates_policy {
            self.admit_all_in_background();
        }
        self.remove_evicted();
        // While another thread is inside moka, moka postpones the drop of evicted records. A later
        // insertion would finish this work, but there might be no later insertion.
        if self.policy.has_excess() {
            self.schedule.add_eviction();
        }
    }

    /// Counts an insertion while the policy is active. Returns the number of such insertions.
    pub(super) fn count_insertion(&self) -> u32 {
        let reporting = &self.report_throttle;
        let insertions = reporting.insertions.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        if insertions % INTERVAL_UPDATE_INSERTIONS == 1 {
            let interval = self.index.len() / REPORT_INTERVAL_DIVISOR;
            let interval = u32::try_from(interval).unwrap_or(u32::MAX);
            reporting.interval.store(interval, Ordering::Relaxed);
        }
        insertions
    }

    /// Makes the policy admit all entries that were inserted before the policy became active. A new
    /// thread does this work, because there can be a million entries.
    fn admit_all_in_background(&self) {
        let weak = self.weak.clone();
        let run = move || {
            if let Some(local) = weak.upgrade() {
                local.admit_all();
            }
        };
        if thread::Builder::new().name("cached-filling".to_owned()).spawn(run).is_err() {
            self.admit_all();
        }
    }

    fn admit_all(&self) {
        fence(Ordering::SeqCst);
        let missing = |guard: IndexGuard<'_>| {
            let now = self.now();
            let is_missing = |(entry, state): &(&LocalEntry, &EntryPolicyState)| {
                now < entry.removable_at() && !state.is_admission_claimed()
            };
            let missing = guard.entries().filter(is_missing);
            missing.map(|(entry, _)| entry.id()).collect::<Vec<_>>()
        };
        let missing = self.index_guard().map(missing).unwrap_or_default();
        for ids in missing.chunks(ENTRIES_PER_GUARD) {
            ids.iter().for_each(|id| self.admit(*id));
            self.remove_evicted();
        }
    }

    /// Makes the policy admit an entry. Does nothing if another caller has claimed this work.
    fn admit(&self, id: EntryId) {
        let claim = |guard: IndexGuard<'_>| {
            let (_, state) = guard.find_by_id(id)?;
            state.claim_admission().then_some(state.weight)
        };
        if let Some(weight) = self.index_guard().and_then(claim) {
            self.policy.admit(id, weight);
        }
    }

    /// Removes from the index the entries that the policy has evicted.
    pub(super) fn remove_evicted(&self) {
        let evicted = self.policy.take_evicted();
        for ids in evicted.chunks(ENTRIES_PER_GUARD) {
            for removed in self.remove_by_ids(ids) {
                self.emit_removal(&removed, EvictionReason::Size);
            }
        }
    }

    /// Removes the entries that have these identifiers and are still in the index.
    fn remove_by_ids(&self, ids: &[EntryId]) -> Vec<RemovedEntry> {
        let Some(guard) = self.index_guard() else { return Vec::new() };
        let entries = ids.iter().filter_map(|id| guard.find_by_id(*id));
        entries.map(|(entry, _)| self.remove(&guard, entry)).collect()
    }

    /// Removes at most [`MAX_SWEPT_ENTRIES`] entries that have expired and are no longer kept for
    /// failed fetches. Returns true if the sweep has reached this limit. Another sweep should then
    /// follow at once. If no sweep is due, the expired entries stay.
    pub(super) fn sweep(&self) -> bool {
        if self.schedule.take_eviction() {
            self.evict_excess();
        }
        let now = self.now();
        if !self.schedule.take_due(now) {
            return false;
        }
        let mut next = CoarseInstant::NEVER;
        let removable = self.index_guard().map(|guard| {
            let is_removable = |&(entry, _): &(&LocalEntry, &EntryPolicyState)| {
                let removable_at = entry.removable_at();
                if removable_at > now {
                    next = next.min(removable_at);
                }
                removable_at <= now
            };
            let removable = guard.entries().filter(is_removable).take(MAX_SWEPT_ENTRIES);
            removable.map(|(entry, _)| entry.id()).collect::<Vec<_>>()
        });
        let removable = removable.unwrap_or_default();
        let has_more = removable.len() == MAX_SWEPT_ENTRIES;
        self.schedule.add(if has_more { now } else { next });
        for ids in removable.chunks(ENTRIES_PER_GUARD) {
            let removed: Vec<RemovedEntry> = self.index_guard().map_or_else(Vec::new, |guard| {
                let entries = ids.iter().filter_map(|id| guard.find_by_id(*id));
                let removed = entries.map(|(entry, _)| self.remove(&guard, entry)).collect();
                guard.flush();
                removed
            });
            for removed in removed {
                self.report_removal(&removed, EvictionReason::Expired);
            }
        }
        self.remove_evicted();
        has_more
    }

    /// Evicts entries if the capacity is exceeded. If the entries have become fewer but still
    /// exceed the capacity, schedules another attempt.
    fn evict_excess(&self) {
        let before = self.policy.weight();
        if self.policy.has_excess() {
            self.policy.run_pending_work();
            self.remove_evicted();
        }
        if self.policy.has_excess() && self.policy.weight() != before {
            self.schedule.add_eviction();
        }
    }

    /// Removes an entry from the index.
    ///
    /// The caller must release its locks and drop the guard. After that, it must report the result,
    /// as [`RemovedEntry`] describes.
    pub(super) fn remove(&self, guard: &IndexGuard<'_>, entry: &LocalEntry) -> RemovedEntry {
        let weight = guard.remove(entry);
        weight.into_iter().for_each(|weight| self.policy.subtract_weight(weight));
        RemovedEntry { key: entry.split_key(), id: entry.id(), is_removed_here: weight.is_some() }
    }

    /// Makes the policy forget the removed entry, and emits the event of the removal.
    ///
    /// The caller must hold no lock and no guard, because an observer of the event may use the tier
    /// or block.
    pub(super) fn report_removal(&self, removed: &RemovedEntry, reason: EvictionReason) {
        self.policy.forget(removed.id.fingerprint());
        self.emit_removal(removed, reason);
    }

    /// Emits the event of the removal, unless another caller emits it. Does not tell the policy,
    /// which knows of the removal already. The caller must hold no lock and no guard.
    fn emit_removal(&self, removed: &RemovedEntry, reason: EvictionReason) {
        if removed.is_removed_here {
            let (header, body) = &removed.key;
            let entry = EventSubject::from_parts(*header, body);
            self.events.emit(&Event::Evicted { entry, reason });
        }
    }
}
