//! Removes all entries of the local tier, or all entries of one function.
//!
//! The keys are divided into *stripes* by their hash. A stripe's *epoch* is a number that each
//! invalidation and each clearing raises. A *fill*, which stores a value, is refused if the epoch
//! has been raised since the value was obtained.
//!
//! A clearing first raises the epoch of every stripe. Then it removes, in small steps, the entries
//! whose values were obtained in earlier epochs. Values that are obtained during the clearing stay.

use std::sync::atomic::Ordering;

use super::bookkeeping::RemovedEntry;
use super::deferred_drops::run_all_deferred_drops;
use super::entry::LocalEntry;
use super::{LocalTier, STRIPE_COUNT};
use crate::event::EvictionReason;
use crate::sync::lock;

/// The most entries that are removed with one `IndexGuard`. A guard must not exist for long,
/// because it keeps removed entries in memory. There must not be too many guards either, because
/// with each new guard the search begins again at the start of the table.
const MAX_REMOVED_PER_GUARD: usize = 1 << 14;

/// A clearing that has begun: fills of older values are refused, but the entries are not removed
/// yet.
#[must_use = "the entries are not removed before `finish`"]
pub(crate) struct Clearing<'t> {
    local: &'t LocalTier,
    /// The function's index in the list of declarations. `None` stands for all functions.
    function: Option<usize>,
    /// The epoch that this clearing has given to each stripe.
    epochs: Vec<u64>,
}

impl LocalTier {
    /// Begins to clear the function whose declaration has this index, or all functions. From now on
    /// the tier refuses values of older fetches. [`finish`](Clearing::finish) removes the entries.
    ///
    /// All functions share the epochs. A fetch that is under way for another function therefore
    /// stores nothing either.
    pub(crate) fn begin_clearing(&self, function: Option<usize>) -> Clearing<'_> {
        let raise_epoch = |stripe: &super::KeyStripe| {
            // A fill holds this lock while it checks the epoch and inserts its entry. An insertion
            // is therefore complete before the epoch is raised.
            let _locked = lock(&stripe.lock);
            stripe.epoch.fetch_add(1, Ordering::Release) + 1
        };
        Clearing { local: self, function, epochs: self.stripes.iter().map(raise_epoch).collect() }
    }

    /// Refuses each later fill whose value may have been obtained before this call. Removes no
    /// entries.
    #[cfg(all(feature = "console", feature = "memcached"))]
    pub(crate) fn refuse_earlier_fills(&self) {
        // Only `finish` removes entries. Dropping the `Clearing` removes none.
        let Clearing { .. } = self.begin_clearing(None);
    }
}

impl Clearing<'_> {
    /// Removes the entries, and returns how many this call has removed. Values are dropped in this
    /// call, so the caller must hold no lock. With a million entries the call takes a second or
    /// two.
    pub(crate) fn finish(self) -> usize {
        let mut total = 0;
        loop {
            let removed = self.remove_some();
            let is_last = removed.len() < MAX_REMOVED_PER_GUARD;
            total += removed.iter().filter(|removed| removed.is_removed_here()).count();
            for removed in removed {
                self.local.report_removal(&removed, EvictionReason::Cleared);
            }
            // The values are dropped here, so that no later call of a function must drop them.
            run_all_deferred_drops();
            if is_last {
                return total;
            }
        }
    }

    /// Removes up to [`MAX_REMOVED_PER_GUARD`] entries.
    fn remove_some(&self) -> Vec<RemovedEntry> {
        let Some(guard) = self.local.index_guard() else { return Vec::new() };
        let outdated = guard.entries().filter(|(entry, _)| self.is_outdated(entry));
        let outdated = outdated.take(MAX_REMOVED_PER_GUARD);
        let removed = outdated.map(|(entry, _)| self.local.remove(&guard, entry)).collect();
        guard.flush();
        removed
    }

    fn is_outdated(&self, entry: &LocalEntry) -> bool {
        let header = entry.header();
        self.function.is_none_or(|function| function == header.index())
            && entry.epoch < self.epochs[header.hash() as usize % STRIPE_COUNT]
    }
}
