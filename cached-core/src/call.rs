//! The path of a call that this process's tiers did not answer at once. `ARCHITECTURE.md` has the picture.
//!
//! A call passes through the [`Phase`]s in order, and skips those that it does not need:
//!
//! | phase | holds | ends when |
//! |---|---|---|
//! | `Bypass` | nothing | the function returns, which runs without the cache |
//! | `Hit` | a [`LocalHit`] | at once, with the value; a refresh may follow |
//! | `Miss` | a [`MissedCall`] | the call has joined its key's flight |
//! | `Wait` | a future that returns the `MissedCall` | the flight's leader, or the remote tier, has answered |
//! | `Decided` | a `MissedCall` and its [`Plan`] | at once: the call returns another's answer, or starts to fetch |
//! | `Fetch` | a `MissedCall` and its fetch | the function returns, and its value fills the tiers |
//! | `Done` | nothing | |

mod acquire;
mod fetch;
mod fill;
mod stale;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::event::{Event, StaleReason};
use crate::flight::{
    FlightOutcome, Follower, FollowerOutput, Leader, LeaderWakerCache, Role, poll_work,
};
use crate::refresh::{LocalRefreshClaim, RemoteRefresh};
use crate::site::Site;
use crate::tier::Tier;
use crate::tier::local::{FillToken, run_deferred_drops};
use crate::tier::remote::{Permit, WritePermit};
use crate::tier::request::RequestHandle;
use crate::value::{SharedError, Value};
use acquire::Acquired;
pub(crate) use fetch::FetchEnd;

/// How far a call is. The table above says what each phase holds and what ends it.
pub(crate) enum Phase {
    Bypass,
    Hit(Box<LocalHit>),
    Miss(Box<MissedCall>),
    Wait(Pin<Box<dyn Future<Output = Box<MissedCall>> + Send>>),
    Decided(Box<MissedCall>),
    Fetch(Box<MissedCall>),
    /// Also the phase during a poll, so that a call whose poll panics is not polled again.
    Done,
}

/// A value of the local tier whose entry may be due for a refresh.
pub(crate) struct LocalHit {
    pub(crate) value: Value,
    pub(crate) site: Site,
}

/// A call that the request tier and the local tier did not answer. It stays in one box until it is
/// answered. It knows nothing of the function's return type, so its code is compiled once.
pub(crate) struct MissedCall {
    pub(crate) site: Site,
    pub(crate) request: Option<RequestHandle>,
    pub(crate) plan: Plan,
    /// When the fetch began. It is only measured if there is a remote tier.
    pub(crate) fetch_began: Option<Instant>,
    waker_cache: LeaderWakerCache,
}

/// How a missed call goes on.
pub(crate) enum Plan {
    /// Returns a value that somebody else fetched.
    Answer(Value),
    /// Returns the error of another caller's fetch.
    Error(SharedError),
    /// Returns a value, and replaces it in the background.
    AnswerAndRefresh(Value, Box<RemoteRefresh>),
    /// Runs the function, answers the flight and fills the tiers.
    Fetch(Fetching),
    /// Runs the function without the cache.
    Bypass,
}

/// What a call waits for after it has joined a flight.
enum Wait {
    /// The call leads, and asks the remote tier.
    RemoteTier(Leader, FillToken),
    /// The call follows.
    Leader(Follower),
}

/// A fetch that a call may run: who waits for it, and where its value may be stored.
pub(crate) struct Fetching {
    /// `None` if no follower can wait for the fetch.
    leader: Option<Leader>,
    /// True if the fetch refreshes an entry that is alive.
    is_refresh: bool,
    fill_token: FillToken,
    right: Right,
    /// An expired value of the remote tier, which is served if the fetch fails.
    stale: Option<Value>,
}

impl Fetching {
    fn new(leader: Option<Leader>, fill_token: FillToken, right: Right) -> Fetching {
        Fetching { leader, is_refresh: false, fill_token, right, stale: None }
    }

    pub(crate) fn refresh(fill_token: FillToken, right: Right) -> Fetching {
        Fetching { is_refresh: true, ..Fetching::new(None, fill_token, right) }
    }

    /// Ends the fetch without a value to store.
    fn end_without_value(self, outcome: FlightOutcome) {
        if let Some(leader) = self.leader {
            // The lease is given back while there is a runtime, and before others ask again.
            drop(leader.take_handoff::<Won>());
            leader.answer(|| outcome);
        }
    }
}

/// Where the value of a fetch may be stored.
pub(crate) enum Right {
    /// In the local tier alone. There is no remote tier, or it does not keep values that live so
    /// briefly.
    LocalOnly,
    /// In the local tier, as the refresh of an entry that is alive.
    LocalRefresh { _until_dropped: Box<LocalRefreshClaim> },
    /// In the remote tier under a lease, to fill an absent entry or to replace an expired one. A leader
    /// leaves the lease on its flight, so that a successor has it too.
    Lease(Option<Box<Won>>),
    /// In the remote tier in the place of an item that was read, if it is still that item.
    Replace(Box<Permit>),
    /// In the local tier for a moment, because the remote tier could not be reached.
    Unasked,
    /// In the local tier as if there were no remote tier, because that refuses every command.
    Unshared,
    /// In the local tier for a moment, because somebody else holds the lease or the remote item is of
    /// another build.
    Nothing,
    /// Nowhere. The remote tier has a write-once entry that stays.
    Leave,
}

/// A lease that a leader keeps on its flight.
pub(crate) struct Won {
    permit: Permit,
    /// An expired value of the remote tier, which is served if the fetch fails.
    stale: Option<Value>,
}

impl MissedCall {
    #[inline]
    pub(crate) fn new(site: Site, request: Option<RequestHandle>, plan: Plan) -> Box<MissedCall> {
        // The value is written in its final place, because moving what was just written is slow.
        Box::write(
            Box::new_uninit(),
            MissedCall { site, request, plan, fetch_began: None, waker_cache: None },
        )
    }

    /// Joins the key's flight as its leader or as a follower.
    ///
    /// A wait is boxed, so that the future of the annotated function stays small.
    pub(crate) fn join(mut self: Box<Self>) -> Phase {
        let flights = self.site.cache.flights();
        let planned = match flights.join(&self.site.key, self.request_of_flight()) {
            Role::Recursive => Ok(Plan::Bypass),
            Role::Leader(leader) => self.lead(leader),
            Role::Follower(follower) => Err(Wait::Leader(follower)),
        };
        match planned {
            Ok(plan) => {
                self.plan = plan;
                Phase::Decided(self)
            }
            Err(mut wait) => Phase::Wait(Box::pin(async move {
                self.plan = loop {
                    let planned = match wait {
                        Wait::RemoteTier(leader, fill_token) => {
                            break self.ask(leader, fill_token).await;
                        }
                        Wait::Leader(follower) => match follower.await {
                            FollowerOutput::Outcome(outcome) => Ok(self.plan_for(outcome)),
                            FollowerOutput::Lead(leader) => self.lead(leader),
                        },
                    };
                    match planned {
                        Ok(plan) => break plan,
                        Err(next) => wait = next,
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
    fn request_of_flight(&self) -> Option<u64> {
        self.request.filter(RequestHandle::force_miss).map(|request| request.id())
    }

    /// Keeps the value for the rest of the request. Returns the value that the request has, which is
    /// another one if an earlier call of the request stored it.
    fn keep(&self, value: Value) -> Value {
        match &self.request {
            Some(request) => request.keep(self.site.cache.id(), &self.site.key, value),
            None => value,
        }
    }

    /// Returns the plan of a call that receives the outcome of another caller's fetch.
    fn plan_for(&self, outcome: FlightOutcome) -> Plan {
        self.site.emit(Event::Waited { entry: self.site.event_entry() });
        match outcome {
            FlightOutcome::Cached(value) => Plan::Answer(self.keep(value)),
            FlightOutcome::Uncached(value) => Plan::Answer(value),
            FlightOutcome::Error(error) => Plan::Error(error),
            // The call fetches for itself, and its value may still serve later callers.
            FlightOutcome::UnsharedError => {
                let right = match self.site.remote_tier() {
                    Some(_) => Right::Nothing,
                    None => Right::LocalOnly,
                };
                Plan::Fetch(Fetching::new(None, self.site.fill_token(), right))
            }
        }
    }

    /// Plans the call of a new leader, or says what it has to wait for.
    fn lead(&self, leader: Leader) -> Result<Plan, Wait> {
        let site = &self.site;
        // Another caller may have fetched after this call missed and before it took the lead.
        let local = match self.force_miss() {
            true => Err(site.fill_token()),
            false => site.look_locally_or_fill_token(),
        };
        let fill_token = match local {
            Ok(value) => {
                site.emit(Event::Hit { entry: site.event_entry(), tier: Tier::Local });
                return Ok(Plan::Answer(self.answer_flight(leader, value)));
            }
            Err(fill_token) => fill_token,
        };
        if site.remote_tier().is_none() {
            return Ok(Plan::Fetch(Fetching::new(Some(leader), fill_token, Right::LocalOnly)));
        }
        // An earlier leader of this flight may have won a lease.
        if let Some(won) = leader.take_handoff::<Won>() {
            let stale = won.stale.clone();
            won.permit.renew_here();
            leader.put_handoff(won);
            let fetching = Fetching::new(Some(leader), fill_token, Right::Lease(None));
            return Ok(Plan::Fetch(Fetching { stale, ..fetching }));
        }
        Err(Wait::RemoteTier(leader, fill_token))
    }

    /// Answers the followers with a value that a tier had. Returns the value for this call.
    fn answer_flight(&self, leader: Leader, value: Value) -> Value {
        leader.answer(|| FlightOutcome::Cached(Arc::clone(&value)));
        run_deferred_drops();
        self.keep(value)
    }

    /// Asks the remote tier, and plans the leader's call by its answer.
    fn ask(&self, leader: Leader, fill_token: FillToken) -> impl Future<Output = Plan> {
        let (site, entry) = (&self.site, self.site.event_entry());
        async move {
            let acquired = {
                let (mut acquire, mut waker) = (std::pin::pin!(self.acquire(fill_token)), None);
                poll_fn(|context: &mut Context<'_>| match leader.outcome_of_other_leader(context) {
                    Some(outcome) => Poll::Ready(Err(outcome)),
                    None => poll_work(Some(&leader), &mut waker, acquire.as_mut(), context).map(Ok),
                })
                .await
            };
            match acquired {
                Err(outcome) => {
                    leader.accept_outcome();
                    self.plan_for(outcome)
                }
                Ok(Acquired::Value(value)) => {
                    site.emit(Event::Hit { entry, tier: Tier::Remote });
                    Plan::Answer(self.answer_flight(leader, value))
                }
                Ok(Acquired::Stale(value)) => {
                    let reason = StaleReason::FetchedElsewhere;
                    site.emit(Event::StaleServed { entry, reason });
                    leader.answer(|| FlightOutcome::Uncached(Arc::clone(&value)));
                    Plan::Answer(value)
                }
                Ok(Acquired::Due(value, right, expires)) => {
                    site.emit(Event::Hit { entry, tier: Tier::Remote });
                    let value = self.answer_flight(leader, value);
                    let fetch = Fetching::refresh(fill_token, right);
                    Plan::AnswerAndRefresh(value, Box::new(RemoteRefresh { fetch, expires }))
                }
                Ok(Acquired::Right { mut right, stale }) => {
                    if let Right::Lease(won) = &mut right
                        && let Some(won) = won.take()
                    {
                        won.permit.hold_while(leader.monitor());
                        leader.put_handoff(won);
                    }
                    Plan::Fetch(Fetching {
                        stale,
                        ..Fetching::new(Some(leader), fill_token, right)
                    })
                }
            }
        }
    }
}
