//! The part of a call that follows the lookup in the request tier and the local tier.
//!
//! A *call* is a call of an annotated function.
//!
//! Most calls return the value that the lookup found. A call goes through the [`Phase`]s below in
//! three cases: the lookup found no value, the found value may be due for a refresh, or the call
//! cannot use the cache. `ARCHITECTURE.md` has a picture of the whole path.
//!
//! - To *fetch* is to run the annotated function.
//! - The calls of this process that need one key at the same time form a *flight*. The *leader* of
//!   the flight fetches, and its *followers* wait for the outcome. If the leader is dropped or
//!   seems stuck, a follower takes over the lead; see [`flight`](crate::flight).
//! - A *refresh* fetches a value again before the value expires.
//! - An *item* is what the remote tier (memcached) stores for a key.
//! - A *lease* is one process's exclusive right to write a key of the remote tier. With the lease,
//!   the process fills an absent entry or refreshes an item.
//! - A *permit* is the right to write one key of the remote tier, with or without a lease. The
//!   write fails if another process changes the item first.
//! - A *fill token* is taken before a fetch. If the entry is invalidated or overwritten after that,
//!   the local tier does not store the fetched value.
//! - A *request* is a [`RequestScope`](crate::RequestScope). It keeps the first cached value of
//!   each key for the later calls of the request.
//!
//! A call skips the phases that it does not need:
//!
//! | phase | the phase holds | what ends the phase |
//! |---|---|---|
//! | `Bypass` | a [`BypassingCall`] | The function returns. It runs without the cache. |
//! | `Hit` | a [`LocalHit`] | The call returns the value, and refreshes the entry if a refresh is due. |
//! | `Miss` | a [`PendingCall`] | The call joins the flight of its key. The next phase is `Wait`, or `Decided` if the call need not wait. |
//! | `Wait` | a future that returns the `PendingCall` | The flight's leader or the remote tier answers. |
//! | `Decided` | a `PendingCall` and its [`CallPlan`] | The call returns the value or the error in its plan, or starts to run the function. |
//! | `Fetch` | a `PendingCall` that runs the function | The function returns. Its value fills the tiers, unless the plan is to bypass the cache. |
//! | `Done` | nothing | |

mod fetch;
mod fill;
mod miss_trace;
mod pause;
mod plan;
mod recording;
mod remote_answer;
mod stale;

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::declaration::Declaration;
use crate::entry_handle::EntryHandle;
use crate::event::{AwaitedResult, Event, RemoteFinding, StaleServedReason};
use crate::flight::{
    FlightOutcome, FlightRole, Follower, FollowerOutput, Leader, LeaderWakerCache, poll_work,
};
use crate::telemetry::FetchSpan;
use crate::tier::Tier;
use crate::tier::local::{FillToken, run_deferred_drops};
use crate::tier::remote::WritePermit;
use crate::tier::request::RequestHandle;
use crate::value::Value;
pub(crate) use fetch::FetchEnd;
use miss_trace::MissTrace;
use plan::FillLease;
pub(crate) use plan::{AnswerSource, CallPlan, FetchPlan, FillTarget, RemoteRefresh};
use recording::BypassRecord;
pub(crate) use recording::record_hit;
use remote_answer::RemoteAnswer;

/// The progress of a call. The table above says what each phase holds and what ends it.
pub(crate) enum Phase {
    Bypass(BypassingCall),
    Hit(Box<LocalHit>),
    Miss(Box<PendingCall>),
    Wait(Pin<Box<dyn Future<Output = Box<PendingCall>> + Send>>),
    Decided(Box<PendingCall>),
    Fetch(Box<PendingCall>),
    /// The call has returned its answer. A call is also in this phase during each poll, so a call
    /// whose poll panics stays in this phase.
    Done,
}

/// A call that runs the function without the cache.
pub(crate) struct BypassingCall {
    /// The span of the fetch.
    span: FetchSpan,
    /// `None` if nobody records the outcome of the call.
    record: Option<Box<BypassRecord>>,
}

impl BypassingCall {
    pub(crate) fn begin(declaration: &'static Declaration) -> BypassingCall {
        let record = BypassRecord::begin(declaration);
        BypassingCall { span: FetchSpan::of_bypass(declaration), record }
    }

    /// Polls the future of the function.
    pub(crate) fn poll_fetch<R>(
        &self,
        fetch: Pin<&mut dyn Future<Output = R>>,
        context: &mut Context<'_>,
    ) -> Poll<R> {
        self.span.in_scope(|| fetch.poll(context))
    }

    /// Records that the function has returned.
    pub(crate) fn end(mut self) {
        self.span.end("returned");
        self.record.into_iter().for_each(|record| record.end());
    }
}

/// A value from the local tier, and the handle of its entry. The entry may be due for a refresh.
pub(crate) struct LocalHit {
    pub(crate) value: Value,
    pub(crate) handle: EntryHandle,
    /// True if the outcome of the call must be recorded.
    pub(crate) is_recorded: bool,
}

impl LocalHit {
    /// Records the outcome of the call, if it must be recorded.
    pub(crate) fn record(&self) {
        if self.is_recorded {
            let EntryHandle { cache, key, .. } = &self.handle;
            record_hit(cache, self.handle.declaration(), key, Tier::Local);
        }
    }
}

/// A call that missed: neither the request tier nor the local tier had the value, or the request
/// forces a miss. A refresh in the background also runs as a pending call, and its answer is
/// dropped.
///
/// The type does not depend on the function's return type, so most of its methods are compiled
/// once.
pub(crate) struct PendingCall {
    pub(crate) handle: EntryHandle,
    pub(crate) request: Option<RequestHandle>,
    pub(crate) plan: CallPlan,
    /// When the fetch began. `None` before the fetch begins, after its end is reported, and if the
    /// cache is bypassed.
    fetch_began: Option<Instant>,
    /// True once the statistics have counted this call. A refresh in the background is not a call
    /// and must not be counted, so the refresh sets this field when it starts.
    pub(crate) is_counted: bool,
    /// The span of the fetch, once the function has started to run.
    pub(crate) span: FetchSpan,
    is_fetch_polled: bool,
    waker_cache: LeaderWakerCache,
    /// Collects the facts for the log line about the miss and for the outcome of the call. `None`
    /// if neither is wanted. Dropping this field writes the line. It must be the last field, so
    /// that the flight and the lease are released first.
    pub(crate) trace: Option<Box<MissTrace>>,
}

/// Says what a call waits for after it has joined a flight.
enum WaitTarget {
    /// The call leads the flight, and waits for the remote tier.
    ForRemoteTier(Leader, FillToken),
    /// The call is a follower, and waits for the leader.
    ForLeader(Follower),
}

impl PendingCall {
    #[inline]
    pub(crate) fn new(
        handle: EntryHandle,
        request: Option<RequestHandle>,
        plan: CallPlan,
    ) -> Box<PendingCall> {
        // The call is built inside its box. Moving the call into the box would be slow.
        Box::write(
            Box::new_uninit(),
            PendingCall {
                handle,
                request,
                plan,
                fetch_began: None,
                is_counted: false,
                span: FetchSpan::NONE,
                is_fetch_polled: false,
                waker_cache: None,
                trace: None,
            },
        )
    }

    /// Joins the flight of the key. Returns the phase [`Phase::Decided`], or [`Phase::Wait`] if the
    /// plan depends on an answer that has not arrived yet.
    ///
    /// The future of the wait is boxed, so that the future of the annotated function stays small.
    pub(crate) fn join(mut self: Box<Self>) -> Phase {
        let flights = self.handle.cache.flights();
        let planned = match flights.join(&self.handle.key, self.flight_request_id()) {
            FlightRole::Recursive => ControlFlow::Break(CallPlan::Bypass),
            FlightRole::Leader(leader) => self.plan_as_leader(leader),
            FlightRole::Follower(follower) => {
                ControlFlow::Continue(WaitTarget::ForLeader(follower))
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
                        WaitTarget::ForRemoteTier(leader, fill_token) => {
                            break self.plan_by_remote_tier(leader, fill_token).await;
                        }
                        WaitTarget::ForLeader(follower) => match follower.await {
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

    /// Returns true if the request forces a miss: the call ignores the values of the local tier and
    /// the remote tier.
    fn force_miss(&self) -> bool {
        self.request.as_ref().is_some_and(|request| request.force_miss())
    }

    /// Returns the id of the request if the request forces misses. Such a request has flights of
    /// its own, because it must not receive a value whose fetch began before the request.
    fn flight_request_id(&self) -> Option<u64> {
        self.request.filter(RequestHandle::force_miss).map(|request| request.id())
    }

    /// Stores the value as the request's answer for this key, and returns the value. If the request
    /// already has an answer for the key, keeps and returns the earlier answer.
    fn keep_for_request(&self, value: Value) -> Value {
        match &self.request {
            Some(request) => request.keep(self.handle.cache.id(), &self.handle.key, value),
            None => value,
        }
    }

    /// Reports the source of the call's answer, and marks the call as counted.
    pub(crate) fn report_answer(&mut self, source: AnswerSource) {
        self.is_counted = true;
        if let AnswerSource::Expired(tier, _) = source {
            self.trace(|report| report.serve_stale(tier));
        }
        self.handle.emit(|entry| match source {
            AnswerSource::Tier(tier) => Event::Hit { entry, tier },
            AnswerSource::OtherCall => Event::Waited { entry },
            AnswerSource::Expired(_, reason) => Event::StaleServed { entry, reason },
            AnswerSource::EarlierError => Event::FetchPaused { entry },
        });
    }

    /// Returns the plan of a call that receives the outcome of another call's fetch.
    fn plan_for_outcome(&self, outcome: FlightOutcome) -> CallPlan {
        self.trace(|report| {
            let result = match &outcome {
                FlightOutcome::Found(_, tier, time_left) => {
                    (report.found, report.time_left) = (Some(*tier), *time_left);
                    AwaitedResult::FoundValue
                }
                FlightOutcome::Paused(_) => {
                    report.is_earlier_error = true;
                    AwaitedResult::EarlierError
                }
                FlightOutcome::Cached(_) | FlightOutcome::Uncached(_) => AwaitedResult::Value,
                FlightOutcome::Expired(..) => AwaitedResult::ExpiredValue,
                FlightOutcome::Error(_) => AwaitedResult::Error,
                FlightOutcome::UnsharedError => AwaitedResult::UnsharedError,
            };
            report.waited = Some((report.began.elapsed(), result));
        });
        match outcome {
            FlightOutcome::Found(value, tier, _) => {
                CallPlan::Answer(self.keep_for_request(value), AnswerSource::Tier(tier))
            }
            FlightOutcome::Paused(error) => CallPlan::Error(error, AnswerSource::EarlierError),
            FlightOutcome::Cached(value) => {
                CallPlan::Answer(self.keep_for_request(value), AnswerSource::OtherCall)
            }
            FlightOutcome::Uncached(value) => CallPlan::Answer(value, AnswerSource::OtherCall),
            FlightOutcome::Expired(value, tier, reason) => {
                CallPlan::Answer(value, AnswerSource::Expired(tier, reason))
            }
            FlightOutcome::Error(error) => CallPlan::Error(error, AnswerSource::OtherCall),
            FlightOutcome::UnsharedError => self.plan_alone(),
        }
    }

    /// Returns the plan of a call that has waited for a failed fetch and cannot use the error of
    /// that fetch. This call fetches too. Its value goes into the local tier only.
    fn plan_alone(&self) -> CallPlan {
        let target = match self.handle.remote_tier() {
            Some(_) => FillTarget::LocalWithoutPermit,
            None => FillTarget::LocalOnly,
        };
        CallPlan::Fetch(FetchPlan::new(None, self.handle.fill_token(), target))
    }

    /// Returns `Break` with the plan of a call that has become the leader, or `Continue` if the
    /// leader must first wait for the remote tier.
    fn plan_as_leader(&self, leader: Leader) -> ControlFlow<CallPlan, WaitTarget> {
        let handle = &self.handle;
        // Another caller may have stored the value after this call's first lookup.
        let local = match self.force_miss() {
            true => Err(handle.fill_token()),
            false => handle.local_value_or_fill_token(),
        };
        let fill_token = match local {
            Ok(value) => {
                let value = self.answer_flight(leader, value, Tier::Local, None);
                let source = AnswerSource::Tier(Tier::Local);
                return ControlFlow::Break(CallPlan::Answer(value, source));
            }
            Err(fill_token) => fill_token,
        };
        if handle.remote_tier().is_none() {
            if handle.cache.remote().is_some() {
                self.trace(|report| report.remote.push(RemoteFinding::NotUsed));
            }
            let fetch = FetchPlan::new(Some(leader), fill_token, FillTarget::LocalOnly);
            return ControlFlow::Break(self.fetch_unless_paused(fetch, self.pause()));
        }
        // An earlier leader of this flight may have stored a lease in the flight.
        if let Some(lease) = leader.take_handoff::<FillLease>() {
            let stale = lease.stale.clone();
            lease.permit.renew_here();
            self.trace(|report| report.remote.push(RemoteFinding::LeaseInherited));
            leader.put_handoff(lease);
            let fetch = FetchPlan::new(Some(leader), fill_token, FillTarget::RemoteLease(None));
            return ControlFlow::Break(CallPlan::Fetch(FetchPlan { stale, ..fetch }));
        }
        ControlFlow::Continue(WaitTarget::ForRemoteTier(leader, fill_token))
    }

    /// Answers the followers with a value that was found in `tier`. Returns this call's own answer,
    /// which is an earlier value if the request already has one for the key.
    fn answer_flight(
        &self,
        leader: Leader,
        value: Value,
        tier: Tier,
        time_left: Option<Duration>,
    ) -> Value {
        leader.answer(|| FlightOutcome::Found(Arc::clone(&value), tier, time_left));
        run_deferred_drops();
        self.keep_for_request(value)
    }

    /// Reads the remote tier for the leader of a flight, and returns the plan that follows from the
    /// result. If another leader of the flight finishes first, the plan follows from its outcome.
    #[allow(clippy::manual_async_fn, reason = "an `async fn` would store its arguments twice")]
    fn plan_by_remote_tier(
        &self,
        leader: Leader,
        fill_token: FillToken,
    ) -> impl Future<Output = CallPlan> {
        async move {
            let pause = self.pause();
            let answer = {
                let (mut ask, mut waker_cache) =
                    (std::pin::pin!(self.read_remote_tier(fill_token, pause.is_some())), None);
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
                Ok(RemoteAnswer::Value(value, time_left)) => {
                    let value = self.answer_flight(leader, value, Tier::Remote, Some(time_left));
                    CallPlan::Answer(value, AnswerSource::Tier(Tier::Remote))
                }
                Ok(RemoteAnswer::Stale(value)) => {
                    let (tier, reason) = (Tier::Remote, StaleServedReason::FetchRunsElsewhere);
                    leader.answer(|| FlightOutcome::Expired(Arc::clone(&value), tier, reason));
                    CallPlan::Answer(value, AnswerSource::Expired(tier, reason))
                }
                Ok(RemoteAnswer::Due { value, time_left, target, expires_by }) => {
                    let value = self.answer_flight(leader, value, Tier::Remote, Some(time_left));
                    let fetch = FetchPlan::refresh(fill_token, target);
                    CallPlan::AnswerAndRefresh(value, Box::new(RemoteRefresh { fetch, expires_by }))
                }
                Ok(RemoteAnswer::Fetch { mut target, stale }) => {
                    if let FillTarget::RemoteLease(slot) = &mut target
                        && let Some(lease) = slot.take()
                    {
                        lease.permit.renew_while(leader.monitor());
                        leader.put_handoff(lease);
                    }
                    let fetch = FetchPlan::new(Some(leader), fill_token, target);
                    self.fetch_unless_paused(FetchPlan { stale, ..fetch }, pause)
                }
            }
        }
    }
}

/// Reports cancelled calls and cancelled fetches. A call is cancelled if it is dropped before it is
/// counted: its caller dropped it, or the function panicked. A fetch is cancelled if it has begun
/// and its end is never reported. The call of a cancelled fetch can have got its answer from
/// elsewhere.
impl Drop for PendingCall {
    fn drop(&mut self) {
        let took = self.fetch_began.map(|began| began.elapsed());
        if self.is_counted && took.is_none() {
            return;
        }
        // The plan can contain the lead of a flight. Drop the plan before the events are emitted,
        // so that a slow observer does not hold up the next leader.
        drop(std::mem::replace(&mut self.plan, CallPlan::Bypass));
        if let Some(took) = took {
            self.handle.emit(|entry| Event::FetchCancelled { entry, took });
        }
        if !self.is_counted {
            self.handle.emit(|entry| Event::Cancelled { entry, took });
        }
    }
}
