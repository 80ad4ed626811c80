//! Stale-if-error: an expired value is kept for a while and is served if the fetch fails.

use std::sync::Arc;

use super::{Fetching, MissedCall, Right};
use crate::event::{Event, StaleReason};
use crate::flight::FlightOutcome;
use crate::tier::local::run_deferred_drops;
use crate::tier::remote::WritePermit;
use crate::value::Value;

impl MissedCall {
    /// Returns the expired value that may be served in place of an error, if there is one.
    pub(super) fn stale_value(&self, fetching: &Fetching) -> Option<Value> {
        let keeps_expired = !self.site.lifetime(None).kept.is_zero();
        if fetching.is_refresh || !keeps_expired || self.force_miss() {
            return None;
        }
        match fetching.right {
            Right::LocalOnly | Right::Unasked | Right::Unshared => self.site.look_for_stale(),
            // The local value does not count: another process may have invalidated an entry that
            // the remote tier does not have.
            _ => fetching.stale.clone(),
        }
    }

    /// Answers the followers with an expired value.
    pub(super) fn serve_stale(&self, fetching: Fetching, value: Value) {
        let reason = StaleReason::FetchFailed;
        self.site.emit(Event::StaleServed { entry: self.site.event_entry(), reason });
        fetching.end_without_value(FlightOutcome::Uncached(value));
    }

    /// Ends a fetch whose value is not cached. The upstream works and this is its answer, so an
    /// expired value that was kept for errors is removed.
    #[cold]
    pub(super) fn end_uncached(&self, fetching: Fetching, value: &Value) {
        let Fetching { leader, fill_token, right, stale, .. } = fetching;
        self.site.remove_expired(fill_token);
        if let Some(leader) = leader {
            leader.answer(|| FlightOutcome::Uncached(Arc::clone(value)));
        }
        match right {
            Right::Lease(Some(won)) if stale.is_some() => won.permit.discard(),
            Right::Replace(permit) if stale.is_some() => permit.discard(),
            _ => {}
        }
        run_deferred_drops();
    }
}
