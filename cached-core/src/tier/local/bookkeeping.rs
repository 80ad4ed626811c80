//! Keeps the index and the eviction policy in step: insertions, evictions, and expired entries.

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::thread;

use super::LocalTier;
use super::entry::{EntryId, EntryPolicyState, LocalEntry};
use super::index::IndexGuard;
use super::policy::KeyFingerprint;
use crate::clock::CoarseInstant;
use crate::event::{Event, EvictionReason};

/// The policy is told of a hit on an entry once, while this fraction of all entries is replaced. That is
/// often enough to show that the entry is in use, long before it could be evicted.
const REPORT_INTERVAL_FRACTION: usize = 2;
/// The interval is computed anew after this many insertions.
const INTERVAL_UPDATE_INSERTIONS: u32 = 256;

/// The most entries that one sweep removes, which bounds its time and memory.
const MAX_SWEPT_ENTRIES: usize = 1 << 16;
/// The most entries that are handled under one read guard, because other garbage waits for it.
const ENTRIES_PER_GUARD: usize = 1 << 8;

/// Decides when the policy is told of a hit.
pub(super) struct HitReportThrottle {
    /// How many entries were inserted since the policy became active.
    insertions: AtomicU32,
    /// A hit on an entry is reported if this many entries were inserted since its last report.
    interval: AtomicU32,
}

impl HitReportThrottle {
    /// Reports no hit until an entry is inserted while the policy is active.
    pub(super) fn new() -> HitReportThrottle {
        HitReportThrottle { insertions: AtomicU32::new(0), interval: AtomicU32::new(u32::MAX) }
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn insertions(&self) -> u32 {
        self.insertions.load(Ordering::Relaxed)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn is_due(&self, state: &EntryPolicyState) -> bool {
        state.is_report_due(self.insertions(), self.interval.load(Ordering::Relaxed))
    }
}

/// An entry that was inserted into the index, and that the policy may have to be told of.
pub(super) struct InsertedEntry {
    pub(super) id: EntryId,
    pub(super) weight: u32,
    /// True if this caller must have the policy admit the entry.
    pub(super) is_admitted: bool,
    /// True if this entry made the policy active. The policy must then be told of all entries.
    pub(super) activates_policy: bool,
    /// True if this entry took the place of another one.
    pub(super) has_replaced_entry: bool,
}

impl LocalTier {
    /// Tells the policy of an insertion, and removes what is evicted for it.
    ///
    /// No lock may be held: moka frees the garbage of all its caches in the program. So another change
    /// of the key may overtake this one, and its entry may then be evicted too early. But no entry
    /// stays in the index that moka does not know.
    pub(super) fn tell_policy(&self, insertion: &InsertedEntry) {
        if insertion.is_admitted {
            self.policy.admit(insertion.id, insertion.weight);
        } else {
            // Pairs with the fence in `admit_all`: either this thread sees that the policy is active,
            // or that one sees the entry in the index.
            fence(Ordering::SeqCst);
            if self.policy.is_active() {
                self.admit(insertion.id);
            }
        }
        if insertion.activates_policy {
            self.admit_all_in_background();
        }
        self.remove_evicted();
    }

    /// Counts an insertion for [`HitReportThrottle`]. Returns the number of insertions.
    pub(super) fn count_insertion(&self) -> u32 {
        let reporting = &self.report_throttle;
        let insertions = reporting.insertions.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        if insertions % INTERVAL_UPDATE_INSERTIONS == 1 {
            let interval = self.index.len() / REPORT_INTERVAL_FRACTION;
            let interval = u32::try_from(interval).unwrap_or(u32::MAX);
            reporting.interval.store(interval, Ordering::Relaxed);
        }
        insertions
    }

    /// Has the policy admit all entries that were inserted before it became active. There may be a
    /// million, so a thread does it.
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
                now < entry.removable_at() && !state.is_admitted()
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

    /// Has the policy admit an entry, unless another caller does.
    fn admit(&self, id: EntryId) {
        let claim = |guard: IndexGuard<'_>| {
            let (_, state) = guard.find_by_id(id)?;
            state.claim_admission().then_some(state.weight)
        };
        if let Some(weight) = self.index_guard().and_then(claim) {
            self.policy.admit(id, weight);
        }
    }

    /// Removes the entries that the policy has evicted from the index.
    pub(super) fn remove_evicted(&self) {
        let evicted = self.policy.take_evicted();
        if !evicted.is_empty()
            && let Some(guard) = self.index_guard()
        {
            for id in evicted {
                if let Some((entry, _)) = guard.find_by_id(id) {
                    self.remove(&guard, entry, EvictionReason::Size);
                }
            }
        }
    }

    /// Removes entries whose stale period is over. Returns true if it has left some for the next sweep.
    pub(super) fn sweep(&self) -> bool {
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
            let removed: Vec<KeyFingerprint> = self.index_guard().map_or_else(Vec::new, |guard| {
                let entries = ids.iter().filter_map(|id| guard.find_by_id(*id));
                let remove = |entry| self.remove(&guard, entry, EvictionReason::Expired);
                let removed = entries.map(|(entry, _)| remove(entry)).collect();
                guard.flush();
                removed
            });
            removed.into_iter().for_each(|fingerprint| self.policy.forget(fingerprint));
        }
        self.remove_evicted();
        has_more
    }

    /// Removes an entry from the index, and reports that unless another caller has removed it.
    ///
    /// The caller must pass the fingerprint to [`EvictionPolicy::forget`] when it holds no lock and no read
    /// guard, unless the policy itself has evicted the entry.
    ///
    /// [`EvictionPolicy::forget`]: super::policy::EvictionPolicy::forget
    pub(super) fn remove(
        &self,
        guard: &IndexGuard<'_>,
        entry: &LocalEntry,
        reason: EvictionReason,
    ) -> KeyFingerprint {
        if let Some(weight) = guard.remove(entry) {
            self.policy.subtract_weight(weight);
            self.events.emit(&Event::Evicted { entry: entry.event_entry(), reason });
        }
        entry.id().fingerprint()
    }
}
