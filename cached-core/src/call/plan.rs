//! The plan of a call after the lookup in this process has missed. The call returns an answer that
//! it has found elsewhere, or it *fetches*: it runs the annotated function. For a fetch, the plan
//! says which calls wait for the value and which tiers may store it.

use std::time::Instant;

use crate::event::{BypassReason, StaleReason};
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
    /// Runs the function, answers the flight's followers and fills the tiers.
    Fetch(FetchPlan),
    /// Runs the function without the cache.
    Bypass,
}

/// The source of an answer that is not the outcome of the call's own fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerSource {
    Tier(Tier),
    /// Another call of the same flight.
    OtherCall,
    /// An expired value of this tier.
    Expired(Tier, StaleReason),
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

    /// Returns the reason why the cache is bypassed, if a call with this plan runs the function
    /// anyway. Returns `None` if the plan is to fetch.
    pub(super) fn bypass_reason(&self) -> Option<BypassReason<'static>> {
        match self {
            CallPlan::Fetch(_) => None,
            CallPlan::Bypass => Some(BypassReason::Recursion),
            // The call runs the function because the plan's value or error has another type than
            // the call returns.
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
    /// An upper bound of the time at which the item expires. `None` if the refresh is due now,
    /// because an earlier holder gave the claim back.
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

    /// Ends a fetch that has no value to store: gives up the lease and answers the flight.
    pub(super) fn end_without_value(self, outcome: impl FnOnce() -> FlightOutcome) {
        if let Some(leader) = self.leader {
            // A dropped lease is given back by a task on the runtime that polls this call. The drop
            // must come before the answer, so that the next caller can win the lease.
            drop(leader.take_handoff::<FillLease>());
            leader.answer(outcome);
        }
    }
}

/// The tiers that may store a fetched value.
pub(crate) enum FillTarget {
    /// The local tier. The function uses no remote tier, or its ttl is too short for the remote
    /// tier.
    LocalOnly,
    /// The local tier. The fetch refreshes the tier's entry. Dropping this variant ends the claim,
    /// which keeps other calls from refreshing the entry at the same time.
    LocalRefresh { _claim: Box<LocalRefreshClaim> },
    /// Both tiers, because this process holds the lease. This field is `None` while the flight
    /// stores the lease. A caller that takes over the lead also takes the lease from the flight.
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
    /// No tier. The request forces a miss, but the remote tier has a write-once entry, which stays.
    Nowhere,
}

/// A lease from the remote tier, and the expired value, if any, that this process may replace.
///
/// The leader of a flight stores the lease in the flight while the leader fetches. If the leader is
/// cancelled, the caller that takes over the lead finds the lease in the flight.
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
