//! The trace of a call that missed: neither the request tier nor the local tier had the value. A
//! call has a trace if the log asks for one (see [`MissReport`]), or if its outcome is recorded.

use std::sync::{Arc, Mutex, PoisonError};

use super::PendingCall;
use super::recording::outcome_of;
use crate::cache::Cache;
use crate::declaration::Declaration;
use crate::entry_handle::EntryHandle;
use crate::event::{LocalLookupResult, MissReport, RequestLookupResult};
use crate::outcome::{OutcomeRecorder, active_recorders};
use crate::sync::lock;
use crate::telemetry::accepts_miss_lines;

/// Collects the [`MissReport`] of one call. Dropping the trace writes the report to the log, so
/// even a cancelled call has a report. If the call was answered, dropping the trace also records
/// the outcome of the call.
pub(crate) struct MissTrace {
    cache: Cache,
    declaration: &'static Declaration,
    key: Arc<[u8]>,
    /// Needs a lock, because a remote read adds to the report while it borrows the call immutably.
    report: Mutex<MissReport>,
    /// True if the log asks for the report.
    is_logged: bool,
    /// True if the request forces the call to miss.
    is_forced: bool,
    recorders: Vec<Arc<OutcomeRecorder>>,
}

impl MissTrace {
    #[cold]
    fn new(handle: &EntryHandle, is_in_request: bool, force_miss: bool) -> Box<MissTrace> {
        let local = match handle.local_tier() {
            None => LocalLookupResult::NotUsed,
            Some(_) if force_miss => LocalLookupResult::Skipped,
            Some(local) => match local.remaining_ttl(&handle.key) {
                None => LocalLookupResult::Absent,
                Some(age) if age.remaining.is_zero() => LocalLookupResult::Expired(age.ttl),
                Some(_) => LocalLookupResult::JustFilled,
            },
        };
        let request = match is_in_request {
            true => RequestLookupResult::Absent,
            false => RequestLookupResult::NoRequest,
        };
        let before = handle.cache.last_miss_cause(&handle.key);
        Box::new(MissTrace {
            cache: handle.cache.clone(),
            declaration: handle.declaration(),
            key: Arc::clone(&handle.key),
            report: Mutex::new(MissReport::new(request, local, before)),
            is_logged: accepts_miss_lines(),
            is_forced: force_miss,
            recorders: active_recorders(),
        })
    }
}

impl Drop for MissTrace {
    fn drop(&mut self) {
        // A logger that panics during a panic would end the process.
        if std::thread::panicking() {
            return;
        }
        let report = self.report.get_mut().unwrap_or_else(PoisonError::into_inner);
        if report.is_answered && !self.recorders.is_empty() {
            let mut outcome = outcome_of(&self.cache, self.declaration, &self.key, report);
            outcome.is_forced = self.is_forced && outcome.key.is_some();
            self.recorders.iter().for_each(|recorder| recorder.record(&outcome));
        }
        // A call that bypasses the cache is logged in another way.
        if self.is_logged && !report.is_bypassed {
            self.cache.log_miss(&self.key, report);
        }
    }
}

impl PendingCall {
    /// Starts the trace of the call if the log asks for one, or if the outcome is recorded.
    #[inline]
    pub(crate) fn traced(mut self: Box<Self>, is_recorded: bool) -> Box<Self> {
        if is_recorded || accepts_miss_lines() {
            let is_in_request = self.request.is_some();
            self.trace = Some(MissTrace::new(&self.handle, is_in_request, self.force_miss()));
        }
        self
    }

    /// Adds to the report of the call if the call has a trace.
    #[inline]
    pub(super) fn trace(&self, add: impl FnOnce(&mut MissReport)) {
        if let Some(trace) = &self.trace {
            add(&mut lock(&trace.report));
        }
    }

    /// Ends the trace of a call that has its answer.
    pub(crate) fn end_trace(&mut self) {
        self.trace(|report| report.is_answered = true);
        self.trace = None;
    }
}
