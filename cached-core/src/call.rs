//! The path of a call that has no inlined hit. `ARCHITECTURE.md` has a picture of it.
//!
//! A call passes through the [`Phase`]s in order, and skips those that it does not need:
//!
//! | phase | holds | ends when |
//! |---|---|---|
//! | `Bypass` | nothing | the function returns, which runs without the cache |
//! | `Hit` | a [`LocalHit`] | at once, with the value; a refresh may follow |
//! | `Miss` | a [`PendingCall`] | the call has joined its key's flight |
//! | `Wait` | a future that returns the `PendingCall` | the flight's leader, or the remote tier, has answered |
//! | `Decided` | a `PendingCall` and its [`CallPlan`] | at once: the call returns another's answer, or starts to fetch |
//! | `Fetch` | a `PendingCall` and its fetch | the function returns, and its value fills the tiers |
//! | `Done` | nothing | |

mod fetch;
mod fill;
mod remote_answer;
mod stale;

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::entry_handle::EntryHandle;
use crate::event::{Event, StaleReason};
use crate::flight::{
    FlightOutcome, FlightRole, Follower, FollowerOutput, Leader, LeaderWakerCache, poll_work,
};
use crate::refresh::{LocalRefreshClaim, RemoteRefresh};
use crate::tier::Tier;
use crate::tier::local::{FillToken, run_deferred_drops};
use crate::tier::remote::{Permit, WritePermit};
use crate::tier::request::RequestHandle;
use crate::value::{SharedError, Value};
pub(crate) use fetch::FetchEnd;
use remote_answer::RemoteAnswer;

/// The phase that a call is in. The table above says what each phase holds and what ends it.
pub(crate) enum Phase {
    Bypass,
    Hit(Box<LocalHit>),
    Miss(Box<PendingCall>),
    Wait(Pin<Box<dyn Future<Output = Box<PendingCall>> + Send>>),
    Decided(Box<PendingCall>),
    Fetch(Box<PendingCall>),
    /// A call is in this phase also while it is polled, so that a call whose poll panics stays here.
    Done,
}

/// A value of the local tier whose entry may be due for a refresh.
pub(crate) struct LocalHit {
    pub(crate) value: Value,
    pub(crate) handle: EntryHandle,
}

/// A call that the request tier and the local tier did not answer.
///
/// It stays in one box until it is answered. It does not depend on the function's return type, so its
/// code is compiled once.
pub(crate) struct PendingCall {
    pub(crate) handle: EntryHandle,
    pub(crate) request: Option<RequestHandle>,
    pub(crate) plan: CallPlan,
    /// When the fetch began. It is only measured if there is a remote tier.
    pub(crate) fetch_began: Option<Instant>,
    waker_cache: LeaderWakerCache,
}

/// How a missed call goes on.
pub(crate) enum CallPlan {
    /// Returns a value that somebody else fetched.
    Answer(Value),
    /// Returns the error of another caller's fetch.
    Error(SharedError),
    /// Returns a value, and replaces it in the background.
    AnswerAndRefresh(Value, Box<RemoteRefresh>),
    /// Runs the function, answers the flight and fills the tiers.
    Fetch(PlannedFetch),
    /// Runs the function without the cache.
    Bypass,
}

/// The wait of a call that has joined a flight.
enum FlightWait {
    /// The call leads, and waits for the answer of the remote tier.
    ForRemoteTier(Leader, FillToken),
    /// The call follows, and waits for the leader.
    ForLeader(Follower),
}

/// A fetch that a call may run: who waits for it, and where its value may be stored.
pub(crate) struct PlannedFetch {
    /// `None` if no follower can wait for the fetch.
    leader: Option<Leader>,
    /// True if the fetch refreshes an entry that is alive.
    is_refresh: bool,
    fill_token: FillToken,
    target: FillTarget,
    /// An expired value of the remote tier, which is served if the fetch fails.
    stale: Option<Value>,
}

impl PlannedFetch {
    fn new(leader: Option<Leader>, fill_token: FillToken, target: FillTarget) -> PlannedFetch {
        PlannedFetch { leader, is_refresh: false, fill_token, target, stale: None }
    }

    pub(crate) fn refresh(fill_token: FillToken, target: FillTarget) -> PlannedFetch {
        PlannedFetch { is_refresh: true, ..PlannedFetch::new(None, fill_token, target) }
    }

    /// Ends the fetch without a value to store.
    fn end_without_value(self, outcome: FlightOutcome) {
        if let Some(leader) = self.leader {
            // The lease is given back while there is a runtime, and before others ask again.
            drop(leader.take_handoff::<FillLease>());
            leader.answer(|| outcome);
        }
    }
}

/// The place where the value of a fetch may be stored.
pub(crate) enum FillTarget {
    /// In the local tier alone. There is no remote tier, or it does not keep values that live so
    /// briefly.
    LocalOnly,
    /// In the local tier, as the refresh of an entry that is alive.
    LocalRefresh { _until_dropped: Box<LocalRefreshClaim> },
    /// In the remote tier under a lease, to fill an absent entry or to replace an expired one. A leader
    /// leaves the lease on its flight, so that a successor has it too.
    RemoteLease(Option<Box<FillLease>>),
    /// In the remote tier in the place of an item that was read, if it is still that item.
    RemoteItem(Box<Permit>),
    /// In the local tier for a moment, because the remote tier could not be reached.
    LocalWhileUnreachable,
    /// In the local tier as if there were no remote tier, because that refuses every command.
    LocalWhileUnusable,
    /// In the local tier for a moment, because somebody else holds the lease or the remote item is of
    /// another build.
    LocalWithoutPermit,
    /// Nowhere. The remote tier has a write-once entry that stays.
    Nowhere,
}

/// The permit of a leader to fill the remote tier. It stays on the flight for a successor.
pub(crate) struct FillLease {
    permit: Permit,
    /// An expired value of the remote tier, which is served if the fetch fails.
    stale: Option<Value>,
}

impl PendingCall {
    #[inline]
    pub(crate) fn new(
        handle: EntryHandle,
        request: Option<RequestHandle>,
        plan: CallPlan,
    ) -> Box<PendingCall> {
        // The value is written in its final place, because moving what was just written is slow.
        Box::write(
            Box::new_uninit(),
            PendingCall { handle, request, plan, fetch_began: None, waker_cache: None },
        )
    }

    /// Joins the key's flight as its leader or as a follower.
    ///
    /// A wait is boxed, so that the future of the annotated function stays small.
    pub(crate) fn join(mut self: Box<Self>) -> Phase {
        let flights = self.handle.cache.flights();
        let planned = match flights.join(&self.handle.key, self.flight_request_id()) {
            FlightRole::Recursive => ControlFlow::Break(CallPlan::Bypass),
            FlightRole::Leader(leader) => self.plan_as_leader(leader),
            FlightRole::Follower(follower) => {
                ControlFlow::Continue(FlightWait::ForLeader(follower))
            }
        };
        match planned {
            ControlFlow::Break(plan) => {
                self.plan = plan;
                Phase::Decided(self)
            }
            ControlFlow::Continue(mut wait) => Phase::Wait(Box::pin(async move {
                self.plan = loop {
                    let planned = match wait {
                        FlightWait::ForRemoteTier(leader, fill_token) => {
                            break self.plan_by_remote_tier(leader, fill_token).await;
                        }
                        FlightWait::ForLeader(follower) => match follower.await {
                            FollowerOutput::Outcome(outcome) => {
                                break self.plan_for_outcome(outcome);
                            }
                            FollowerOutput::Lead(leader) => self.plan_as_leader(leader),
                        },
                    };
                    match planned {
                        ControlFlow::Break(plan) => break plan,
                        ControlFlow::Continue(next) => wait = next,
                    }
                };
                self
            })),
        }
    }

    /// Returns true if the running request skips what the tiers hold.
    fn force_miss(&self) -> bool {
        self.request.as_ref().is_some_and(|request| request.force_miss())
    }

    /// Returns the request that the call's flight is for. A request that forces misses must not take
    /// the outcome of a fetch that began before it.
    fn flight_request_id(&self) -> Option<u64> {
        self.request.filter(RequestHandle::force_miss).map(|request| request.id())
    }

    /// Keeps the value for the rest of the request. Returns the value that the request has, which is
    /// another one if an earlier call of the request stored it.
    fn keep_for_request(&self, value: Value) -> Value {
        match &self.request {
            Some(request) => request.keep(self.handle.cache.id(), &self.handle.key, value),
            None => value,
        }
    }

    /// Returns the plan of a call that receives the outcome of another caller's fetch.
    fn plan_for_outcome(&self, outcome: FlightOutcome) -> CallPlan {
        self.handle.emit(|entry| Event::Waited { entry });
        match outcome {
            FlightOutcome::Cached(value) => CallPlan::Answer(self.keep_for_request(value)),
            FlightOutcome::Uncached(value) => CallPlan::Answer(value),
            FlightOutcome::Error(error) => CallPlan::Error(error),
            // The call fetches for itself, and its value may still serve later callers.
            FlightOutcome::UnsharedError => {
                let target = match self.handle.remote_tier() {
                    Some(_) => FillTarget::LocalWithoutPermit,
                    None => FillTarget::LocalOnly,
                };
                CallPlan::Fetch(PlannedFetch::new(None, self.handle.fill_token(), target))
            }
        }
    }

    /// Plans the call of a new leader, or says what it has to wait for.
    fn plan_as_leader(&self, leader: Leader) -> ControlFlow<CallPlan, FlightWait> {
        let handle = &self.handle;
        // Another caller may have fetched after this call missed and before it took the lead.
        let local = match self.force_miss() {
            true => Err(handle.fill_token()),
            false => handle.local_value_or_fill_token(),
        };
        let fill_token = match local {
            Ok(value) => {
                handle.emit(|entry| Event::Hit { entry, tier: Tier::Local });
                return ControlFlow::Break(CallPlan::Answer(self.answer_flight(leader, value)));
            }
            Err(fill_token) => fill_token,
        };
        if handle.remote_tier().is_none() {
            return ControlFlow::Break(CallPlan::Fetch(PlannedFetch::new(
                Some(leader),
                fill_token,
                FillTarget::LocalOnly,
            )));
        }
        // An earlier leader of this flight may have left a lease.
        if let Some(lease) = leader.take_handoff::<FillLease>() {
            let stale = lease.stale.clone();
            lease.permit.renew_here();
            leader.put_handoff(lease);
            let fetch = PlannedFetch::new(Some(leader), fill_token, FillTarget::RemoteLease(None));
            return ControlFlow::Break(CallPlan::Fetch(PlannedFetch { stale, ..fetch }));
        }
        ControlFlow::Continue(FlightWait::ForRemoteTier(leader, fill_token))
    }

    /// Answers the followers with a value that a tier had. Returns the value for this call.
    fn answer_flight(&self, leader: Leader, value: Value) -> Value {
        leader.answer(|| FlightOutcome::Cached(Arc::clone(&value)));
        run_deferred_drops();
        self.keep_for_request(value)
    }

    /// Asks the remote tier, and plans the leader's call by its answer.
    fn plan_by_remote_tier(
        &self,
        leader: Leader,
        fill_token: FillToken,
    ) -> impl Future<Output = CallPlan> {
        let handle = &self.handle;
        async move {
            let answer = {
                let (mut ask, mut waker_cache) =
                    (std::pin::pin!(self.read_remote_tier(fill_token)), None);
                poll_fn(|context: &mut Context<'_>| match leader.outcome_of_other_leader(context) {
                    Some(outcome) => Poll::Ready(Err(outcome)),
                    None => {
                        poll_work(Some(&leader), &mut waker_cache, ask.as_mut(), context).map(Ok)
                    }
                })
                .await
            };
            match answer {
                Err(outcome) => {
                    leader.accept_outcome();
                    self.plan_for_outcome(outcome)
                }
                Ok(RemoteAnswer::Value(value)) => {
                    handle.emit(|entry| Event::Hit { entry, tier: Tier::Remote });
                    CallPlan::Answer(self.answer_flight(leader, value))
                }
                Ok(RemoteAnswer::Stale(value)) => {
                    let reason = StaleReason::FetchedElsewhere;
                    handle.emit(|entry| Event::StaleServed { entry, reason });
                    leader.answer(|| FlightOutcome::Uncached(Arc::clone(&value)));
                    CallPlan::Answer(value)
                }
                Ok(RemoteAnswer::Due(value, target, expires)) => {
                    handle.emit(|entry| Event::Hit { entry, tier: Tier::Remote });
                    let value = self.answer_flight(leader, value);
                    let fetch = PlannedFetch::refresh(fill_token, target);
                    CallPlan::AnswerAndRefresh(value, Box::new(RemoteRefresh { fetch, expires }))
                }
                Ok(RemoteAnswer::Fetch { mut target, stale }) => {
                    if let FillTarget::RemoteLease(slot) = &mut target
                        && let Some(lease) = slot.take()
                    {
                        lease.permit.hold_while(leader.monitor());
                        leader.put_handoff(lease);
                    }
                    CallPlan::Fetch(PlannedFetch {
                        stale,
                        ..PlannedFetch::new(Some(leader), fill_token, target)
                    })
                }
            }
        }
    }
}
