//! The counting of events.

use super::{Event, EventSubject, EvictionReason, FetchOutcome};
use crate::stats::Counters;
use crate::tier::Tier;

/// Counts an event in the counters of the function that the event is about. `all` contains the counters of
/// every function, at the index of the function's declaration.
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
        Event::FetchStarted { entry } => of(entry).fetches.add(),
        Event::FetchEnded { entry, outcome, took } => {
            let counters = of(entry);
            match outcome {
                FetchOutcome::Value => {
                    took.iter().for_each(|took| counters.record_fetch_time(*took))
                }
                FetchOutcome::Error => counters.fetch_errors.add(),
            }
        }
        Event::LeaseTimedOut { entry } => of(entry).lease_timeouts.add(),
        Event::Filled { entry } => of(entry).fills.add(),
        Event::FillRefused { entry, .. } => of(entry).fills_dropped.add(),
        Event::StaleServed { entry, .. } => of(entry).stale_answers.add(),
        Event::FetchPaused { entry } => of(entry).paused_answers.add(),
        Event::RefreshStarted { entry } => of(entry).refreshes.add(),
        Event::Overwritten { entry } => of(entry).overwrites.add(),
        Event::Invalidated { entry } => of(entry).invalidations.add(),
        // The tests of the local tier use keys of functions that do not exist.
        Event::Evicted { entry, reason: EvictionReason::Cleared } => {
            all.get(entry.header.index()).inspect(|counters| counters.invalidations.add());
        }
        Event::RemoteFailed { entry, .. } => of(entry).remote_errors.add(),
        _ => {}
    }
}
