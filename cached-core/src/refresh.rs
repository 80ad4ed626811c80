//! The option `refresh_ahead`: before an entry expires, a call runs the annotated function again in
//! the background. Until the new value is stored, callers still receive the old value.
//!
//! An entry is *due* for a refresh in the last part of its ttl, the [`refresh_window`]. To refresh
//! an entry, a caller must hold the entry's *claim*. Only one caller at a time can hold it. How a
//! caller gets the claim depends on the tiers:
//!
//! - Without a remote tier, the caller takes a [`LocalRefreshClaim`].
//! - With a remote tier (memcached), a caller can win the claim when it reads the *item*, the
//!   remote tier's copy of the entry. A hit in the local tier therefore starts no refresh. When the
//!   local entry expires, the next call reads the item.
//!
//! The remote tier knows when an item expires, but not with which ttl the item was stored. It
//! cannot compute the refresh window, and might give the claim to a caller before the entry is due.
//! The caller then holds the claim until the entry is due. If the caller gave the claim back at
//! once, the next reader would also win the claim too early.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::cache::Cache;
use crate::call::{
    AnswerSource, CallPlan, FetchEnd, FetchPlan, FillTarget, LocalHit, PendingCall, RemoteRefresh,
};
use crate::current::process_cache_if_unscoped;
use crate::entry_handle::EntryHandle;
use crate::event::{Event, EventSubject};
use crate::refresh_claims::LocalRefreshClaim;
use crate::telemetry::FetchSpan;
use crate::tier::Tier;
use crate::tier::remote::{RemoteStore, Store};
use crate::ttl::refresh_window;
use crate::value::{ReturnOperations, Value, ValueRules};

/// In a test, a task that holds a claim reads the clock this often, because the test may move the
/// clock.
const CLOCK_POLL_INTERVAL: Duration = Duration::from_secs(1);

impl EntryHandle {
    /// Claims the refresh of the local entry. Returns `None` if the entry is not due, if another
    /// caller holds the claim, or if there is a remote tier.
    fn claim_local_refresh(&self) -> Option<LocalRefreshClaim> {
        let declared = self.declaration().declared_refresh_ahead();
        if declared.is_zero() || self.remote_tier().is_some() {
            return None;
        }
        let local = self.local_tier()?;
        let is_due = || {
            let age = local.remaining_ttl(&self.key);
            age.is_some_and(|age| age.remaining < refresh_window(age.ttl, declared))
        };
        if !is_due() {
            return None;
        }
        let claim = self.cache.refresh_claims().take(&self.key, self.counters().fetch_time())?;
        // Another caller may have finished a refresh before this caller took the claim.
        is_due().then_some(claim)
    }

    /// Returns when the entry will be due for a refresh, or `None` if it is due now. The item
    /// expires at `expires_by` or earlier.
    ///
    /// A value can have its own ttl (`ttl_with`, `none_ttl`). If that ttl is shorter than the
    /// function's ttl, the value's refresh window is shorter too, and the claim comes too early.
    fn due_at<V: 'static>(
        &self,
        rules: &ValueRules<'_, V>,
        value: &Value,
        expires_by: Instant,
    ) -> Option<Instant> {
        let decision = rules.decide_stored(value, self.value_operations);
        let shortest_ttl = self.ttls(Some(&decision)).shortest;
        let window = refresh_window(shortest_ttl, self.declaration().declared_refresh_ahead());
        let window = Store::LIMITS.refresh_window(window, shortest_ttl);
        let due = expires_by.checked_sub(window)?;
        (self.now() < due).then_some(due)
    }
}

impl LocalHit {
    /// Refreshes the entry in the background if a refresh is due.
    pub(crate) fn refresh<R, V, F>(
        self,
        returns: ReturnOperations<R, V>,
        fetch: impl FnOnce() -> (ValueRules<'static, V>, Pin<Box<F>>),
    ) where
        R: 'static,
        V: 'static,
        F: Future<Output = R> + Send + 'static,
    {
        if let Some(claim) = self.handle.claim_local_refresh() {
            let target = FillTarget::LocalRefresh { _claim: Box::new(claim) };
            let planned = FetchPlan::refresh(self.handle.fill_token(), target);
            // `fetch` clones the parameters with the program's own code, which can panic. There
            // must be no pending call yet: dropping it would count this call again, and the call is
            // already counted as a hit.
            let (rules, fetch) = fetch();
            let call = PendingCall::new(self.handle, None, CallPlan::Fetch(planned));
            call.fetch_in_background(returns, rules, fetch);
        }
    }
}

impl PendingCall {
    /// Returns the call's answer if the plan is to answer at once and then refresh the entry.
    pub(crate) fn answer_before_refresh<R, V>(
        &mut self,
        returns: &ReturnOperations<R, V>,
    ) -> Option<R> {
        let answer = match &self.plan {
            CallPlan::AnswerAndRefresh(value, _) => returns.rebuild(value)?,
            _ => return None,
        };
        self.report_answer(AnswerSource::Tier(Tier::Remote));
        Some(answer)
    }

    /// Refreshes the entry in the background if the entry is due. If not, holds the claim until the
    /// entry is due, and then gives the claim back.
    pub(crate) fn refresh<R, V, F>(
        mut self: Box<Self>,
        returns: ReturnOperations<R, V>,
        fetch: impl FnOnce() -> (ValueRules<'static, V>, Pin<Box<F>>),
    ) where
        R: 'static,
        V: 'static,
        F: Future<Output = R> + Send + 'static,
    {
        // The caller has its answer, and the refresh is not part of the call.
        self.end_trace();
        let plan = std::mem::replace(&mut self.plan, CallPlan::Bypass);
        let CallPlan::AnswerAndRefresh(value, refresh) = plan else { return };
        let RemoteRefresh { fetch: planned, expires_by } = *refresh;
        let (rules, fetch) = fetch();
        match expires_by.and_then(|expires_by| self.handle.due_at(&rules, &value, expires_by)) {
            None => {
                self.plan = CallPlan::Fetch(planned);
                self.fetch_in_background(returns, rules, fetch);
            }
            Some(due) => self.hold_claim(planned, due),
        }
    }

    /// Spawns a task that runs the function and stores its value. Without a tokio runtime, the
    /// claim is dropped, and a later call may refresh the entry.
    fn fetch_in_background<R, V, F>(
        mut self: Box<Self>,
        returns: ReturnOperations<R, V>,
        rules: ValueRules<'static, V>,
        mut fetch: Pin<Box<F>>,
    ) where
        R: 'static,
        V: 'static,
        F: Future<Output = R> + Send + 'static,
    {
        // A refresh is not a call, so nothing must be counted when this pending call is dropped.
        self.is_counted = true;
        // If `error_ttl` has paused the key's fetches, give up the refresh and its claim. A call
        // after the pause can then refresh the entry.
        if self.pause().is_some() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        // Create the span here: within the spawned task, the caller's span is not the current one.
        self.span = FetchSpan::of_refresh(EventSubject::of(&self.handle.key));
        let refresh = async move {
            self.handle.emit(|entry| Event::RefreshStarted { entry });
            self.begin_fetch();
            let end = poll_fn(|context| self.poll_fetch(fetch.as_mut(), context)).await;
            // No other call waits for a refresh, so none takes over its fetch (`Overtaken`).
            if let FetchEnd::Returned(output) = end {
                self.finish(output, &returns, &rules);
            }
        };
        // A spawned task is outside the caller's `Cache::scope`. The functions that `fetch` calls
        // must use the same cache there as in the caller's task.
        match process_cache_if_unscoped() {
            Some(_) => drop(runtime.spawn(refresh)),
            None => drop(runtime.spawn(Cache::current().scope(refresh))),
        }
    }

    /// Holds the claim in a task until the entry is due, then gives the claim back. The next reader
    /// of the item wins the claim and refreshes the entry. Without a tokio runtime, the claim is
    /// given back at once.
    fn hold_claim(self: Box<Self>, planned: FetchPlan, due: Instant) {
        let Ok(runtime) = Handle::try_current() else { return };
        let clock = self.handle.cache.config().clock.clone();
        runtime.spawn(async move {
            loop {
                let left = due.saturating_duration_since(clock.now());
                if left.is_zero() {
                    break;
                }
                let clock_may_be_moved = cfg!(feature = "testing");
                tokio::time::sleep(if clock_may_be_moved {
                    left.min(CLOCK_POLL_INTERVAL)
                } else {
                    left
                })
                .await;
            }
            drop(planned);
        });
    }
}
