//! Makes the [`Outcome`] of a recorded call when the call ends, and passes it to the recorders. The
//! outcome says how the call got its answer.
//!
//! A call that neither the request tier nor the local tier answers collects facts in its
//! [`MissTrace`](super::miss_trace::MissTrace). `outcome_of` makes the outcome from these facts.
//! The other functions here record the other calls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::Cache;
use crate::declaration::Declaration;
use crate::event::{AwaitedResult, MissReport, RemoteFinding};
use crate::outcome::{CallResult, Outcome, OutcomeRecorder, active_recorders};
use crate::tier::Tier;

/// Records that the running call was a hit, if a recorder is active on this thread.
pub(crate) fn record_hit(cache: &Cache, declaration: &'static Declaration, key: &[u8], tier: Tier) {
    let recorders = active_recorders();
    if recorders.is_empty() {
        return;
    }
    let mut outcome = Outcome::new(declaration, Instant::now(), CallResult::Hit);
    outcome.key = Some(Arc::from(key));
    outcome.tier = Some(tier);
    if tier == Tier::Local {
        read_local_times(cache, key, &mut outcome);
    }
    recorders.iter().for_each(|recorder| recorder.record(&outcome));
}

/// Reads the age and the time left of the entry in the local tier, and adds them to the outcome.
fn read_local_times(cache: &Cache, key: &[u8], outcome: &mut Outcome) {
    if let Some(entry) = cache.local().remaining_ttl(key) {
        outcome.age = Some(entry.ttl.saturating_sub(entry.remaining));
        outcome.time_left = Some(entry.remaining);
    }
}

/// The record of a call that runs the function without the cache.
pub(crate) struct BypassRecord {
    declaration: &'static Declaration,
    began: Instant,
    recorders: Vec<Arc<OutcomeRecorder>>,
}

impl BypassRecord {
    /// Begins the record of a call, if a recorder is active on this thread.
    pub(crate) fn begin(declaration: &'static Declaration) -> Option<Box<BypassRecord>> {
        let recorders = active_recorders();
        if recorders.is_empty() {
            return None;
        }
        Some(Box::new(BypassRecord { declaration, began: Instant::now(), recorders }))
    }

    /// Records the outcome of the call after the function has returned.
    pub(crate) fn end(self) {
        let mut outcome = Outcome::new(self.declaration, self.began, CallResult::Bypassed);
        outcome.fetch_time = Some(self.began.elapsed());
        self.recorders.iter().for_each(|recorder| recorder.record(&outcome));
    }
}

/// Returns the outcome of a call that has its answer, from the facts that the call has collected.
pub(super) fn outcome_of(
    cache: &Cache,
    declaration: &'static Declaration,
    key: &Arc<[u8]>,
    report: &MissReport,
) -> Outcome {
    let (result, tier) = result_of(report);
    let mut outcome = Outcome::new(declaration, report.began, result);
    outcome.tier = tier;
    outcome.fetch_time = report.fetched.map(|(took, _)| took);
    outcome.waited = report.waited.map(|(waited, _)| waited);
    if result == CallResult::Bypassed {
        return outcome;
    }
    outcome.key = Some(Arc::clone(key));
    outcome.time_left = report.time_left;
    outcome.is_stored = report.is_stored;
    match result {
        CallResult::Miss if report.is_stored => outcome.age = Some(Duration::ZERO),
        CallResult::Hit if tier == Some(Tier::Local) => read_local_times(cache, key, &mut outcome),
        CallResult::Waited if has_waited_for_value(report) => {
            read_local_times(cache, key, &mut outcome);
        }
        _ => {}
    }
    outcome
}

fn result_of(report: &MissReport) -> (CallResult, Option<Tier>) {
    match report {
        MissReport { is_bypassed: true, .. } => (CallResult::Bypassed, None),
        MissReport { served_stale: Some(tier), .. } => (CallResult::Stale, Some(*tier)),
        MissReport { fetched: Some(_), .. } => (CallResult::Miss, None),
        MissReport { is_earlier_error: true, .. } => (CallResult::Paused, None),
        MissReport { found: Some(tier), .. } => (CallResult::Hit, Some(*tier)),
        MissReport { waited: Some(_), .. } => (CallResult::Waited, None),
        _ => match report.remote.last() {
            Some(RemoteFinding::Hit) => (CallResult::Hit, Some(Tier::Remote)),
            // The call was about to look in memcached or to fetch for all waiting calls. Then it
            // found the value in the local tier after all.
            _ => (CallResult::Hit, Some(Tier::Local)),
        },
    }
}

fn has_waited_for_value(report: &MissReport) -> bool {
    matches!(report.waited, Some((_, AwaitedResult::Value)))
}
