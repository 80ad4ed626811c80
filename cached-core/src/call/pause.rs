//! The option `error_ttl`: a failed fetch pauses further fetches of its key for a time.
//!
//! During a pause, a call still looks for the value in each tier, so it finds a value that another
//! process has stored. If no tier has the value, the call does not run the function. The call
//! behaves as if the function had failed again with the same error.

use std::sync::Arc;

use super::{AnswerSource, CallPlan, FetchPlan, PendingCall};
use crate::event::StaleServedReason;
use crate::flight::FlightOutcome;
use crate::value::SharedError;

impl PendingCall {
    /// If a failed fetch has paused the fetches of the key, returns that fetch's error. A request
    /// that forces misses ignores the pause.
    pub(crate) fn pause(&self) -> Option<SharedError> {
        let handle = &self.handle;
        if handle.declaration().declared_error_ttl().is_zero() || self.force_miss() {
            return None;
        }
        handle.cache.fetch_pauses().get(&handle.key, handle.now())
    }

    /// Pauses the fetches of the key after `fetch` has failed. Calls `share` to turn the failure
    /// into a shareable error, and returns that error. If the entry was changed during the fetch,
    /// the key is not paused. Without the option `error_ttl`, or if `share` returns `None`, this
    /// method does nothing and returns `None`.
    pub(super) fn begin_pause(
        &self,
        fetch: &FetchPlan,
        share: impl FnOnce() -> Option<SharedError>,
    ) -> Option<SharedError> {
        let handle = &self.handle;
        let ttl = handle.declaration().declared_error_ttl();
        let error = if ttl.is_zero() { None } else { share() }?;
        let pauses = handle.cache.fetch_pauses();
        pauses.begin(&handle.key, Arc::clone(&error), handle.now(), ttl);
        // The fill token is out of date once the entry was changed after the fetch began. An
        // invalidation first makes the token out of date, and then ends the key's pause. An
        // invalidation before `begin` cannot end the new pause, so this method must end it.
        if !handle.is_current(fetch.fill_token) {
            pauses.end(&handle.key);
        }
        Some(error)
    }

    /// Returns the plan to run the function, unless the key is paused. `pause` is the error of the
    /// failed fetch that began the pause, or `None` if there is no pause. During a pause, the plan
    /// is to return a stale value or, without one, this error. The calls that wait for this fetch
    /// receive the same answer.
    pub(super) fn fetch_unless_paused(
        &self,
        fetch: FetchPlan,
        pause: Option<SharedError>,
    ) -> CallPlan {
        let Some(error) = pause else { return CallPlan::Fetch(fetch) };
        if let Some(value) = self.stale_value(&fetch) {
            let (tier, reason) = (fetch.stale_tier(), StaleServedReason::FetchPaused);
            fetch.end_with_stale(Arc::clone(&value), reason);
            return CallPlan::Answer(value, AnswerSource::Expired(tier, reason));
        }
        self.trace(|report| report.is_earlier_error = true);
        fetch.end_without_value(|| FlightOutcome::Paused(Arc::clone(&error)));
        CallPlan::Error(error, AnswerSource::EarlierError)
    }
}
