//! The option `error_ttl`: a failed fetch pauses the next fetches of its key for a time.
//!
//! A pause holds off the fetch, and nothing before it: a call still looks for the value in each
//! tier, so it returns a value that another process has stored in the meantime. Only where the call
//! would run the function does the error of the failed fetch stand in for the function.

use std::sync::Arc;

use super::{CallPlan, PendingCall, PlannedFetch};
use crate::event::Event;
use crate::flight::FlightOutcome;
use crate::value::SharedError;

impl PendingCall {
    /// Returns the error of the failed fetch if the fetches of the key are paused. A request that
    /// forces misses ignores the pause.
    pub(crate) fn pause(&self) -> Option<SharedError> {
        let handle = &self.handle;
        if handle.declaration().declared_error_ttl().is_zero() || self.force_miss() {
            return None;
        }
        handle.cache.fetch_pauses().get(&handle.key, handle.now())
    }

    /// Pauses the fetches of the key after `fetch` has failed, unless the entry was changed during
    /// the fetch. Returns the error that `share` returns. Does nothing if the function does not
    /// declare `error_ttl`.
    pub(super) fn begin_pause(
        &self,
        fetch: &PlannedFetch,
        share: impl FnOnce() -> Option<SharedError>,
    ) -> Option<SharedError> {
        let handle = &self.handle;
        let ttl = handle.declaration().declared_error_ttl();
        let error = if ttl.is_zero() { None } else { share() }?;
        let pauses = handle.cache.fetch_pauses();
        pauses.begin(&handle.key, Arc::clone(&error), handle.now(), ttl);
        // An invalidation makes the token out of date before it ends the pause. So either the
        // invalidation ends this pause, or this check does.
        if !handle.is_current(fetch.fill_token) {
            pauses.end(&handle.key);
        }
        Some(error)
    }

    /// Returns the plan to run the function. If `pause` is the error of an earlier fetch, returns
    /// the plan that follows if the function fails with this error.
    pub(super) fn fetch_unless_paused(
        &self,
        fetch: PlannedFetch,
        pause: Option<SharedError>,
    ) -> CallPlan {
        let Some(error) = pause else { return CallPlan::Fetch(fetch) };
        if let Some(value) = self.stale_value(&fetch) {
            self.serve_stale(fetch, Arc::clone(&value));
            return CallPlan::Answer(value);
        }
        self.handle.emit(|entry| Event::FetchPaused { entry });
        self.trace(|report| report.is_paused = true);
        fetch.end_without_value(|| FlightOutcome::Error(Arc::clone(&error)));
        CallPlan::Error(error)
    }
}
