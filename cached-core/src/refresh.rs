//! Refreshing: an entry that is about to expire is fetched again in the background, while callers are
//! still answered with it (`refresh_ahead`).
//!
//! An entry is due in the last part of its life, the [`refresh_window`]. One caller at a time refreshes it:
//!
//! - Without a remote tier the caller takes a [`LocalRefreshClaim`].
//! - With one, the remote tier lets one process claim the refresh when it reads the item. The local
//!   tier's entry is younger, so it is never refreshed by itself.
//!
//! A remote tier knows how long an item has left, not how long it lives in all. Therefore it may give
//! out the claim before the entry is due. The claim is then held until the entry is due, because the
//! next reader would win a claim that is given back at once.

mod claims;

use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::cache::Cache;
use crate::call::{CallPlan, FetchEnd, FillTarget, LocalHit, PendingCall, PlannedFetch};
use crate::current::process_cache_if_unscoped;
use crate::entry_handle::EntryHandle;
use crate::event::Event;
use crate::value::{ReturnType, Value};
pub(crate) use claims::{LocalRefreshClaim, LocalRefreshClaims};

/// A remote claim whose holder has not replaced the item after this long is abandoned. It is longer if
/// fetches of the function take more than a quarter of it.
const ABANDONED_AFTER: Duration = Duration::from_secs(5);
/// A remote claim is abandoned after this long at the latest.
const ABANDONED_AFTER_AT_MOST: Duration = Duration::from_secs(120);

/// How often a claim that is held reads the clock, because a test may have moved it.
const CLOCK_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Returns how long before its end an entry with this time to live is due, if `declared` is the option
/// `refresh_ahead`. In the first third of its life an entry is never due.
pub(crate) fn refresh_window(ttl: Duration, declared: Duration) -> Duration {
    declared.min(ttl / 3 * 2)
}

/// A refresh that the remote tier let this call claim.
pub(crate) struct RemoteRefresh {
    pub(crate) fetch: PlannedFetch,
    /// When the item expires, if the claim may have come before the entry is due. It comes too early
    /// once at most.
    pub(crate) expires: Option<Instant>,
}

impl EntryHandle {
    /// Claims the refresh of the local entry, if it is due and nobody else refreshes it.
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
        // Another caller may have finished a refresh before this one took the claim.
        is_due().then_some(claim)
    }

    /// Returns when an entry is due whose value was stored in the remote tier and expires at `expires`.
    /// Returns `None` if it is due now.
    fn due_at<R, V: 'static>(
        &self,
        returns: &ReturnType<R, V>,
        value: &Value,
        expires: Instant,
    ) -> Option<Instant> {
        let decision = returns.rules.decide_stored(value, self.value_type);
        let declared = self.declaration().declared_refresh_ahead();
        let window = refresh_window(self.ttls(Some(&decision)).remote, declared);
        let due = expires.checked_sub(window)?;
        (window < declared && self.now() < due).then_some(due)
    }

    /// Returns after how long a remote claim is abandoned, because its holder was probably killed.
    pub(crate) fn claim_abandoned_after(&self) -> Duration {
        let fetch_time = self.counters().fetch_time().unwrap_or_default();
        let by_fetch_time =
            fetch_time.saturating_mul(4).clamp(ABANDONED_AFTER, ABANDONED_AFTER_AT_MOST);
        self.cache.config().lease.unwrap_or(by_fetch_time)
    }
}

impl LocalHit {
    /// Refreshes the entry in the background, if it is due.
    pub(crate) fn refresh<R, V, F>(self, returns: ReturnType<R, V>, fetch: Pin<Box<F>>)
    where
        R: 'static,
        V: 'static,
        F: Future<Output = R> + Send + 'static,
    {
        if let Some(claim) = self.handle.claim_local_refresh() {
            let target = FillTarget::LocalRefresh { _until_dropped: Box::new(claim) };
            let planned = PlannedFetch::refresh(self.handle.fill_token(), target);
            let call = PendingCall::new(self.handle, None, CallPlan::Fetch(planned));
            call.fetch_in_background(returns, fetch);
        }
    }
}

impl PendingCall {
    /// Returns the answer, if the call's plan is to refresh that.
    pub(crate) fn answer_before_refresh<R, V>(&self, returns: &ReturnType<R, V>) -> Option<R> {
        match &self.plan {
            CallPlan::AnswerAndRefresh(value, _) => returns.rebuild(value),
            _ => None,
        }
    }

    /// Refreshes the entry in the background, or holds the claim until the entry is due.
    pub(crate) fn refresh<R, V, F>(
        mut self: Box<Self>,
        returns: ReturnType<R, V>,
        fetch: Pin<Box<F>>,
    ) where
        R: 'static,
        V: 'static,
        F: Future<Output = R> + Send + 'static,
    {
        let plan = std::mem::replace(&mut self.plan, CallPlan::Bypass);
        let CallPlan::AnswerAndRefresh(value, refresh) = plan else { return };
        let RemoteRefresh { fetch: planned, expires } = *refresh;
        match expires.and_then(|expires| self.handle.due_at(&returns, &value, expires)) {
            None => {
                self.plan = CallPlan::Fetch(planned);
                self.fetch_in_background(returns, fetch);
            }
            Some(due) => self.hold_claim(planned, due),
        }
    }

    /// Spawns the fetch, and stores its value. Without a runtime a later call refreshes the entry.
    fn fetch_in_background<R, V, F>(
        mut self: Box<Self>,
        returns: ReturnType<R, V>,
        mut fetch: Pin<Box<F>>,
    ) where
        R: 'static,
        V: 'static,
        F: Future<Output = R> + Send + 'static,
    {
        let Ok(runtime) = Handle::try_current() else { return };
        let refresh = async move {
            self.handle.emit(|entry| Event::RefreshStarted { entry });
            self.begin_fetch();
            // A background fetch is timed also without a remote tier, because no caller pays for it.
            self.fetch_began = Some(Instant::now());
            let end = poll_fn(|context| self.poll_fetch(fetch.as_mut(), context)).await;
            // The fetch leads no flight, so no other leader can overtake it.
            if let FetchEnd::Returned(output) = end {
                self.finish(output, &returns);
            }
        };
        // Calls in the function's body use the cache that this call used.
        match process_cache_if_unscoped() {
            Some(_) => drop(runtime.spawn(refresh)),
            None => drop(runtime.spawn(Cache::current().scope(refresh))),
        }
    }

    /// Holds a claim until the entry is due. Whoever wins the claim after that refreshes the entry.
    fn hold_claim(self: Box<Self>, planned: PlannedFetch, due: Instant) {
        let Ok(runtime) = Handle::try_current() else { return };
        let clock = self.handle.cache.config().clock.clone();
        runtime.spawn(async move {
            loop {
                let left = due.saturating_duration_since(clock.now());
                if left.is_zero() {
                    break;
                }
                let is_test = cfg!(feature = "testing");
                tokio::time::sleep(if is_test { left.min(CLOCK_POLL_INTERVAL) } else { left })
                    .await;
            }
            drop(planned);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_not_due_in_the_first_third_of_its_life() {
        let seconds = Duration::from_secs;
        assert_eq!(refresh_window(seconds(600), seconds(120)), seconds(120));
        assert_eq!(refresh_window(seconds(90), seconds(120)), seconds(60));
    }
}
