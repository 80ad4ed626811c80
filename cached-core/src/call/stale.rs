//! Stale-if-error: if a fetch fails, a call can return an expired value that a tier has kept.
//!
//! A *fetch* is a run of the annotated function. The *followers* of a fetch are the other calls of
//! this process that wait for its outcome.

use std::sync::Arc;

use super::{FetchPlan, FillTarget, PendingCall};
use crate::event::StaleServedReason;
use crate::flight::FlightOutcome;
use crate::tier::Tier;
use crate::tier::local::run_deferred_drops;
use crate::tier::remote::WritePermit;
use crate::value::Value;

impl FetchPlan {
    /// Returns the tier whose expired value the call can return if this fetch fails.
    ///
    /// If the call reached the remote tier, this is the remote tier. Another process might have
    /// invalidated the value, and this process's local tier would not know.
    pub(super) fn stale_tier(&self) -> Tier {
        match self.target {
            FillTarget::LocalOnly
            | FillTarget::LocalWhileUnreachable
            | FillTarget::LocalWhileUnusable => Tier::Local,
            _ => Tier::Remote,
        }
    }

    /// Ends a fetch that has failed or may not run now, and answers its followers with `value`.
    /// `value` must be the expired value of the tier [`stale_tier`](Self::stale_tier).
    pub(super) fn end_with_stale(self, value: Value, reason: StaleServedReason) {
        let tier = self.stale_tier();
        self.end_without_value(|| FlightOutcome::Expired(value, tier, reason));
    }
}

impl PendingCall {
    /// Returns the expired value that the call can return in place of the fetch's error. Returns
    /// `None` if there is no such value.
    pub(super) fn stale_value(&self, fetch: &FetchPlan) -> Option<Value> {
        let keeps_expired = !self.handle.ttls(None).stale.is_zero();
        if fetch.is_refresh || !keeps_expired || self.force_miss() {
            return None;
        }
        match fetch.stale_tier() {
            Tier::Local => self.handle.local_value_or_stale(),
            _ => fetch.stale.clone(),
        }
    }

    /// Ends a fetch whose value must not be cached, and answers the followers with the value.
    ///
    /// The tiers might have kept an expired value in case the fetch fails. The fetch did not fail,
    /// so this method removes the expired value.
    #[cold]
    pub(super) fn end_uncached(&self, fetch: FetchPlan, value: &Value) {
        let FetchPlan { leader, fill_token, target, stale, .. } = fetch;
        self.handle.remove_expired(fill_token);
        if let Some(leader) = leader {
            leader.answer(|| FlightOutcome::Uncached(Arc::clone(value)));
        }
        match target {
            FillTarget::RemoteLease(Some(lease)) if stale.is_some() => lease.permit.remove_item(),
            FillTarget::RemoteItem(permit) if stale.is_some() => permit.remove_item(),
            _ => {}
        }
        run_deferred_drops();
    }
}
