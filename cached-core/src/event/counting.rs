//! Adds each event to the counters of its function.

use super::{Event, EventSubject, EvictionReason, FetchOutcome, FillRefusal};
use crate::stats::Counters;
use crate::tier::Tier;

/// Adds the event to its function's counters. `all` has one element for each cached function; the
/// index is that of the function's `Declaration`.
pub(super) fn count(all: &[Counters], event: &Event<'_>) {
    let of = |entry: &EventSubject<'_>| &all[entry.header.index()];
    match event {
        Event::Hit { entry, tier: Tier::Request } => of(entry).request_hits.add(),
        Event::Hit { entry, tier: Tier::Local } => of(entry).local_hits.add(),
        Event::Hit { entry, tier: Tier::Remote } => of(entry).remote_hits.add(),
        Event::Waited { entry } => of(entry).waits.add(),
        Event::Bypassed { declaration, .. } => {
            // A function that is not cached has no index, and therefore no counters.
            if let Some(counters) = declaration.index().and_then(|index| all.get(index)) {
                counters.bypassed.add();
                counters.fetches.add();
            }
        }
        Event::Cancelled { entry, .. } => of(entry).cancelled.add(),
        Event::FetchStarted { entry } => of(entry).fetches.add(),
        Event::FetchEnded { entry, outcome, took, is_answer } => {
            let counters = of(entry);
            match outcome {
                FetchOutcome::Value => counters.estimate_fetch_time(*took),
                FetchOutcome::Error => counters.fetch_errors.add(),
            }
            // `Stats::read` reads the durations first. They must be recorded after the error, so
            // that a reader never counts a failed fetch as a successful one.
            counters.record_fetch(*took);
            if *is_answer {
                counters.misses.add();
            }
        }
        Event::FetchCancelled { entry, .. } => of(entry).fetches_cancelled.add(),
        Event::NotCached { entry, .. } => of(entry).not_cached.add(),
        Event::LeaseWon { entry } => of(entry).leases_won.add(),
        Event::LeaseBusy { entry } => of(entry).leases_busy.add(),
        Event::LeaseTimedOut { entry } => of(entry).lease_timeouts.add(),
        Event::Filled { entry } => of(entry).fills.add(),
        Event::FillRefused { entry, reason } => {
            let counters = of(entry);
            counters.fills_dropped.add();
            match reason {
                FillRefusal::QueueFull => counters.fills_queue_full.add(),
                FillRefusal::NotStorable => counters.fills_not_storable.add(),
                FillRefusal::TtlTooShort => counters.fills_ttl_too_short.add(),
                FillRefusal::Overtaken => counters.fills_overtaken.add(),
                FillRefusal::Failed => counters.fills_failed.add(),
            }
        }
        Event::StaleServed { entry, .. } => of(entry).stale_answers.add(),
        Event::FetchPaused { entry } => of(entry).paused_answers.add(),
        Event::RefreshStarted { entry } => of(entry).refreshes.add(),
        Event::Overwritten { entry } => of(entry).overwrites.add(),
        Event::Invalidated { entry } => of(entry).invalidations.add(),
        Event::Evicted { entry, reason } => {
            // The tests of the local tier use keys of functions that do not exist.
            let Some(counters) = all.get(entry.header.index()) else { return };
            match reason {
                EvictionReason::Size => counters.evictions_size.add(),
                EvictionReason::Expired => counters.evictions_expired.add(),
                EvictionReason::Replaced => counters.evictions_replaced.add(),
                EvictionReason::Invalidated => counters.evictions_invalidated.add(),
                EvictionReason::Cleared => {
                    counters.evictions_cleared.add();
                    counters.invalidations.add();
                }
            }
        }
        Event::RemoteFailed { entry, .. } => of(entry).remote_errors.add(),
        _ => {}
    }
}
