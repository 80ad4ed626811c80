//! The trace of a call that missed: neither the request tier nor the local tier had the value. A
//! call has a trace only while the log asks for one; see [`MissReport`].

use std::sync::{Arc, Mutex, PoisonError};

use super::PendingCall;
use crate::cache::Cache;
use crate::entry_handle::EntryHandle;
use crate::event::{LocalLookup, MissReport, RequestLookup, logs_misses};
use crate::sync::lock;

/// The collector of the [`MissReport`] of one call. Dropping the trace emits the report, so even a
/// cancelled call has a report.
pub(crate) struct MissTrace {
    cache: Cache,
    key: Arc<[u8]>,
    /// Behind a lock, because the future of a remote read only borrows the call, and adds to the
    /// report.
    report: Mutex<MissReport>,
    is_discarded: bool,
}

impl MissTrace {
    #[cold]
    fn new(handle: &EntryHandle, is_in_request: bool, force_miss: bool) -> Box<MissTrace> {
        let local = match handle.local_tier() {
            None => LocalLookup::NotUsed,
            Some(_) if force_miss => LocalLookup::Skipped,
            Some(local) => match local.remaining_ttl(&handle.key) {
                None => LocalLookup::Absent,
                Some(age) if age.remaining.is_zero() => LocalLookup::Expired(age.ttl),
                Some(_) => LocalLookup::JustFilled,
            },
        };
        let request = match is_in_request {
            true => RequestLookup::Absent,
            false => RequestLookup::NoRequest,
        };
        let before = handle.cache.last_event(&handle.key);
        Box::new(MissTrace {
            cache: handle.cache.clone(),
            key: Arc::clone(&handle.key),
            report: Mutex::new(MissReport::new(request, local, before)),
            is_discarded: false,
        })
    }
}

impl Drop for MissTrace {
    fn drop(&mut self) {
        // A logger that panics during a panic would end the process.
        if !self.is_discarded && !std::thread::panicking() {
            let report = self.report.get_mut().unwrap_or_else(PoisonError::into_inner);
            self.cache.log_miss(&self.key, report);
        }
    }
}

impl PendingCall {
    /// Starts the trace of the call if the log asks for one.
    #[inline]
    pub(crate) fn traced(mut self: Box<Self>) -> Box<Self> {
        if logs_misses() {
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

    /// Ends the trace without a report, because the call is reported in another way.
    pub(super) fn discard_trace(&mut self) {
        if let Some(mut trace) = self.trace.take() {
            trace.is_discarded = true;
        }
    }
}
