//! The one path of a call: lookup → fetch → fill. `ARCHITECTURE.md` has the picture.

mod acquire;
mod begun;
mod fill;
mod refresh;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::event::{Event, StaleReason};
use crate::flight::{Followed, Follower, Leader, Outcome, Role, poll_work};
use crate::site::Site;
use crate::tier::Tier;
use crate::tier::local::{FillToken, Refresh, run_deferred_drops};
use crate::tier::remote::{Permit, WritePermit};
use crate::tier::request::RequestHandle;
use crate::value::{SharedError, Value};
use acquire::Acquired;
pub(crate) use begun::{Begun, Fetched, Waiting};

/// A fetch that takes longer is known to the flight, which is more patient with its leader.
const SLOW_FETCH: Duration = Duration::from_secs(15);

/// A call that the request and local tiers did not answer.
pub(crate) struct Missed {
    pub(crate) site: Site,
    pub(crate) request: Option<RequestHandle>,
}

/// How a missed call goes on.
enum Step {
    /// With another's answer.
    Answer(Value),
    Error(SharedError),
    /// With an answer that is to be refreshed; and see [`Acquired::Due`].
    AnswerAndRefresh(Value, Box<(Fetching, Option<Instant>)>),
    /// With its own fetch, which then answers others and fills the tiers.
    Fetch(Fetching),
    /// With its own fetch, for itself.
    Alone,
}

/// How a call goes on at once, or what it waits for.
enum Joined {
    Step(Step),
    /// What memcached says to the leader.
    Ask(Leader, FillToken),
    /// What the leader finds.
    Follow(Follower),
}

/// The right to fetch and to store.
struct Fetching {
    /// `None` where nobody waits for it.
    leader: Option<Leader>,
    /// Whether it refreshes an entry that is alive.
    refresh: bool,
    fill_token: FillToken,
    right: Right,
    /// What memcached has to serve if the fetch fails.
    stale: Option<Value>,
}

impl Fetching {
    fn new(leader: Option<Leader>, fill_token: FillToken, right: Right) -> Fetching {
        Fetching { leader, refresh: false, fill_token, right, stale: None }
    }

    fn refresh(fill_token: FillToken, right: Right) -> Fetching {
        Fetching { refresh: true, ..Fetching::new(None, fill_token, right) }
    }

    /// Ends the fetch with nothing to store.
    fn answer(self, outcome: Outcome) {
        if let Some(leader) = self.leader {
            // Given back here, where there is a runtime, and before others look again.
            drop(leader.unstow::<Won>());
            leader.answer(|| outcome);
        }
    }
}

/// What a fetch may store.
enum Right {
    /// There is no remote tier, or none for what lives so short.
    LocalOnly,
    /// There is none, and the entry is refreshed.
    LocalRefresh { _until_dropped: Box<Refresh> },
    /// A lease was won, to fill what is missing or to replace what has expired. A leader stows it
    /// on its flight, so that whoever takes its lead over need not wait for it.
    Lease(Option<Box<Won>>),
    /// An item may be replaced, where it was read and if it is still what was read.
    Replace(Box<Permit>),
    /// Not in memcached, which could not be asked.
    Unasked,
    /// Not in memcached, which refuses what it is asked. Nothing is shared through it, so this process
    /// keeps the value as if there were no memcached.
    Unshared,
    /// Not in memcached: somebody else has the lease, or it has what only another build reads.
    Nothing,
    /// Nowhere: memcached has an entry that stays.
    Leave,
}

/// What a leader leaves to whoever takes its lead over.
struct Won {
    permit: Permit,
    /// What memcached has to serve if the fetch fails.
    stale: Option<Value>,
}

impl Missed {
    fn join(&self) -> Joined {
        match self.site.cache.flights().join(&self.site.key, self.flight_of()) {
            Role::Recursive => Joined::Step(Step::Alone),
            Role::Leader(leader) => self.lead(leader),
            Role::Follower(follower) => Joined::Follow(follower),
        }
    }

    /// Skips what the tiers hold.
    fn force_miss(&self) -> bool {
        self.request.as_ref().is_some_and(|request| request.force_miss())
    }

    /// Keeps the answer for the rest of the request; returns the request's answer.
    fn keep(&self, value: Value) -> Value {
        match &self.request {
            Some(request) => request.keep(self.site.cache.id(), &self.site.key, value),
            None => value,
        }
    }

    /// What there is to serve in place of an error, where the function declares that.
    fn stale_for(&self, fetching: &Fetching) -> Option<Value> {
        if fetching.refresh || self.site.lifetime(None).kept.is_zero() || self.force_miss() {
            return None;
        }
        match fetching.right {
            Right::LocalOnly | Right::Unasked | Right::Unshared => self.site.look_for_stale(),
            // What memcached was asked for and does not have, another process may have invalidated.
            _ => fetching.stale.clone(),
        }
    }

    async fn follow(&self, follower: Follower) -> Joined {
        let outcome = match follower.await {
            Followed::Outcome(outcome) => outcome,
            Followed::Lead(leader) => return self.lead(leader),
        };
        Joined::Step(self.step_of(outcome))
    }

    /// How a call goes on with the outcome of another's fetch.
    fn step_of(&self, outcome: Outcome) -> Step {
        self.site.emit(Event::Waited { entry: self.site.event_entry() });
        match outcome {
            Outcome::Cached(value) => Step::Answer(self.keep(value)),
            Outcome::Uncached(value) => Step::Answer(value),
            Outcome::Error(error) => Step::Error(error),
            // For itself; but what it gets may serve others.
            Outcome::Unshared => {
                let right = match self.site.remote_tier() {
                    Some(_) => Right::Nothing,
                    None => Right::LocalOnly,
                };
                Step::Fetch(Fetching::new(None, self.site.fill_token(), right))
            }
        }
    }

    /// A request that wants a fresh answer takes none from a fetch that began before it.
    fn flight_of(&self) -> Option<u64> {
        self.request.filter(RequestHandle::force_miss).map(|request| request.id())
    }

    fn lead(&self, leader: Leader) -> Joined {
        let site = &self.site;
        let looked = match self.force_miss() {
            true => Err(site.fill_token()),
            // Between this call's look and its lead another may have fetched.
            false => site.look_locally_or_fill_token(),
        };
        let fill_token = match looked {
            Ok(value) => {
                site.emit(Event::Hit { entry: site.event_entry(), tier: Tier::Local });
                return Joined::Step(Step::Answer(self.serve(leader, value)));
            }
            Err(fill_token) => fill_token,
        };
        let fetch = |leader, right| Fetching::new(Some(leader), fill_token, right);
        if site.remote_tier().is_none() {
            return Joined::Step(Step::Fetch(fetch(leader, Right::LocalOnly)));
        }
        // The leader before this one had won the right to fill.
        if let Some(won) = leader.unstow::<Won>() {
            let stale = won.stale.clone();
            won.permit.renew_here();
            leader.stow(won);
            let fetching = fetch(leader, Right::Lease(None));
            return Joined::Step(Step::Fetch(Fetching { stale, ..fetching }));
        }
        Joined::Ask(leader, fill_token)
    }

    /// Answers everybody with what a tier has.
    fn serve(&self, leader: Leader, value: Value) -> Value {
        leader.answer(|| Outcome::Cached(Arc::clone(&value)));
        run_deferred_drops();
        self.keep(value)
    }

    fn ask(&self, leader: Leader, fill_token: FillToken) -> impl Future<Output = Step> {
        let (site, entry) = (&self.site, self.site.event_entry());
        async move {
            let acquired = {
                let (mut acquire, mut waker) = (std::pin::pin!(self.acquire(fill_token)), None);
                let acquire = |context: &mut Context<'_>| match leader.overtaken(context) {
                    Some(outcome) => Poll::Ready(Err(outcome)),
                    None => poll_work(Some(&leader), &mut waker, acquire.as_mut(), context).map(Ok),
                };
                poll_fn(acquire).await
            };
            let acquired = match acquired {
                Ok(acquired) => acquired,
                Err(outcome) => {
                    leader.yield_to_outcome();
                    return self.step_of(outcome);
                }
            };
            match acquired {
                Acquired::Value(value) => {
                    site.emit(Event::Hit { entry, tier: Tier::Remote });
                    Step::Answer(self.serve(leader, value))
                }
                Acquired::Stale(value) => {
                    site.emit(Event::StaleServed { entry, reason: StaleReason::FetchedElsewhere });
                    leader.answer(|| Outcome::Uncached(Arc::clone(&value)));
                    Step::Answer(value)
                }
                Acquired::Due(value, right, expires) => {
                    site.emit(Event::Hit { entry, tier: Tier::Remote });
                    let answer = self.serve(leader, value);
                    let fetching = Fetching::refresh(fill_token, right);
                    Step::AnswerAndRefresh(answer, Box::new((fetching, expires)))
                }
                Acquired::Right { mut right, stale } => {
                    if let Right::Lease(won) = &mut right
                        && let Some(won) = won.take()
                    {
                        won.permit.hold_while(leader.pulse());
                        leader.stow(won);
                    }
                    Step::Fetch(Fetching {
                        stale,
                        ..Fetching::new(Some(leader), fill_token, right)
                    })
                }
            }
        }
    }
}
