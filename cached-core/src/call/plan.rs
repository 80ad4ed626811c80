//! The plan of a call that has found no value in this process's memory. The call either returns an
//! answer from elsewhere, or it *fetches*: it runs the annotated function. For a fetch, the plan
//! says which calls wait for the value and which tiers may store it.
//!
//! The *local tier* is this process's memory, and the *remote tier* is memcached. A *flight* is one
//! fetch, together with all calls in this process that wait for it. The fetching call is the
//! flight's *leader*, and the waiting calls are its *followers*.

use std::time::Instant;

use crate::event::{BypassReason, StaleServedReason};
use crate::flight::{FlightOutcome, Leader};
use crate::refresh_claims::LocalRefreshClaim;
use crate::tier::Tier;
use crate::tier::local::FillToken;
use crate::tier::remote::Permit;
use crate::value::{SharedError, Value};

/// How a pending call gets its answer.
pub(crate) enum CallPlan {
    /// Returns a value that a tier has or that another caller has fetched.
    Answer(Value, AnswerSource),
    /// Returns the error of another caller's fetch, or of an earlier fetch.
    Error(SharedError, AnswerSource),
    /// Returns a value from the remote tier, and refreshes its entry in the background.
    AnswerAndRefresh(Value, Box<RemoteRefresh>),
    /// Runs the function, passes the result to the flight's followers, and stores the value in the
    /// tiers.
    Fetch(FetchPlan),
    /// Runs the function without the cache.
    Bypass,
}

/// The source of an answer that does not come from the call's own fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerSource {
    Tier(Tier),
    /// Another call of the same flight.
    OtherCall,
    /// An expired value of this tier.
    Expired(Tier, StaleServedReason),
    /// The error of an earlier fetch of this process, which the option `error_ttl` keeps.
    EarlierError,
}

impl CallPlan {
    /// Returns the source of the planned answer, or `None` if the plan is to run the function.
    pub(super) fn answer_source(&self) -> Option<AnswerSource> {
        match self {
            CallPlan::Answer(_, source) | CallPlan::Error(_, source) => Some(*source),
            CallPlan::AnswerAndRefresh(..) => Some(AnswerSource::Tier(Tier::Remote)),
            CallPlan::Fetch(_) | CallPlan::Bypass => None,
        }
    }

    /// Returns why a call that did not use the planned answer runs the function without the cache.
    /// Either the plan is a bypass, or the answer has a type that the call does not return. Returns
    /// `None` if the plan is to fetch, because a fetch uses the cache.
    pub(super) fn bypass_reason(&self) -> Option<BypassReason<'static>> {
        match self {
            CallPlan::Fetch(_) => None,
            CallPlan::Bypass => Some(BypassReason::Recursion),
            // The call runs the function because the plan has a value or an error of a type that
            // the call does not return.
            CallPlan::Answer(..) | CallPlan::AnswerAndRefresh(..) | CallPlan::Error(..) => {
                Some(BypassReason::OtherType)
            }
        }
    }
}

/// A planned refresh. When the call read the item from the remote tier, it won the *claim*, which
/// is the right to refresh the item.
pub(crate) struct RemoteRefresh {
    pub(crate) fetch: FetchPlan,
    /// The latest time at which the item can expire, from which the start of the refresh is
    /// computed. `None` if the refresh is due now, because an earlier holder gave the claim back.
    pub(crate) expires_by: Option<Instant>,
}

/// The plan of a fetch: which flight waits for the value, and which tiers may store it. The call
/// keeps the plan until the fetch has ended.
pub(crate) struct FetchPlan {
    /// Set if the call leads a flight. `None` if no other call can wait for the fetch.
    pub(super) leader: Option<Leader>,
    /// True if the fetch refreshes an entry before the entry expires.
    pub(super) is_refresh: bool,
    pub(super) fill_token: FillToken,
    pub(super) target: FillTarget,
    /// An expired value of the remote tier, to serve if the fetch fails.
    pub(super) stale: Option<Value>,
}

impl FetchPlan {
    pub(super) fn new(
        leader: Option<Leader>,
        fill_token: FillToken,
        target: FillTarget,
    ) -> FetchPlan {
        FetchPlan { leader, is_refresh: false, fill_token, target, stale: None }
    }

    pub(crate) fn refresh(fill_token: FillToken, target: FillTarget) -> FetchPlan {
        FetchPlan { is_refresh: true, ..FetchPlan::new(None, fill_token, target) }
    }

    /// Ends a fetch that has no value to store: gives up the lease (the right to fill the remote
    /// tier), and passes the outcome to the flight's followers.
    pub(super) fn end_without_value(self, outcome: impl FnOnce() -> FlightOutcome) {
        if let Some(leader) = self.leader {
            // When a lease is dropped, a task on this call's runtime gives the lease back. The
            // lease must be dropped before the followers get the outcome, so that the next caller
            // can win it.
            drop(leader.take_handoff::<FillLease>());
            leader.answer(outcome);
        }
    }
}

/// The tiers that may store a fetched value.
pub(crate) enum FillTarget {
    /// Only the local tier, because the function uses no remote tier, or its ttl is too short for
    /// the remote tier.
    LocalOnly,
    /// The local tier, whose entry the fetch refreshes. The claim keeps other calls from refreshing
    /// the entry at the same time. It ends when this variant is dropped.
    LocalRefresh { _claim: Box<LocalRefreshClaim> },
    /// Both tiers, because this process holds the lease. `None` while the flight keeps the lease
    /// for a possible new leader. A caller that becomes the new leader takes the lease from the
    /// flight.
    RemoteLease(Option<Box<FillLease>>),
    /// Both tiers. The remote tier stores the value only if the item that this call read is
    /// unchanged.
    RemoteItem(Box<Permit>),
    /// The local tier for a few seconds, because the remote tier could not be reached.
    LocalWhileUnreachable,
    /// The local tier for the full local ttl, because the remote tier refused the read.
    LocalWhileUnusable,
    /// The local tier for a few seconds, because this call has no permit to write to the remote
    /// tier. Either the remote tier gave no lease, or the call waited for another call's fetch,
    /// which failed with an error that cannot be shared.
    LocalWithoutPermit,
    /// No tier. The current request is set to force misses, but the remote tier has an entry that
    /// must not be overwritten.
    Nowhere,
}

/// A lease from the remote tier, and the expired value, if any, that this process may replace.
///
/// The leader of a flight stores the lease in the flight while the leader fetches. If the leader is
/// cancelled, the caller that becomes the new leader finds the lease in the flight.
pub(crate) struct FillLease {
    pub(super) permit: Permit,
    /// An expired value of the remote tier, to serve if the fetch fails.
    pub(super) stale: Option<Value>,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_answer_of_another_type_is_not_recursion() {
        let is_other_type =
            |plan: CallPlan| matches!(plan.bypass_reason(), Some(BypassReason::OtherType));
        assert!(is_other_type(CallPlan::Answer(Arc::new(1), AnswerSource::OtherCall)));
        assert!(is_other_type(CallPlan::Error(Arc::new(1), AnswerSource::OtherCall)));
        let recursive = CallPlan::Bypass.bypass_reason();
        assert!(matches!(recursive, Some(BypassReason::Recursion)));
    }
}
