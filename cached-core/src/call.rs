//! The one path of a call: lookup → fetch → fill. `ARCHITECTURE.md` has the picture.

mod acquire;
mod fill;
mod lease_wait;
mod refresh;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::flight::{Followed, Follower, LastWaker, Leader, Outcome, Role, poll_work};
use crate::site::Site;
use crate::stats::Counters;
use crate::tier::local::{Mark, Refresh, Ticket, drop_aside};
use crate::tier::remote::{Cas, Lease, RemoteKey};
use crate::tier::request::Request;
use crate::value::{Returns, SharedError, Split, Value, Weigher};
use acquire::Acquired;

/// A fetch that takes longer is known to the flight, which is more patient with its leader.
const SLOW_FETCH: Duration = Duration::from_secs(15);

/// A call that the request and local tiers did not answer.
pub(crate) struct Missed {
    pub(crate) site: Site,
    pub(crate) request: Option<Request>,
    /// That the local tier was looked in, and had nothing.
    pub(crate) looked: Option<Mark>,
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
    Ask(Leader, Ticket),
    /// What the leader finds.
    Follow(Follower),
}

/// The right to fetch and to store.
struct Fetching {
    /// `None` where nobody waits for it.
    leader: Option<Leader>,
    /// Whether it refreshes an entry that is alive.
    refresh: bool,
    ticket: Ticket,
    right: Right,
    /// What memcached has to serve if the fetch fails.
    stale: Option<Value>,
}

impl Fetching {
    fn new(leader: Option<Leader>, ticket: Ticket, right: Right) -> Fetching {
        Fetching { leader, refresh: false, ticket, right, stale: None }
    }

    fn refresh(ticket: Ticket, right: Right) -> Fetching {
        Fetching { refresh: true, ..Fetching::new(None, ticket, right) }
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
    Replace(Box<(RemoteKey, Cas)>),
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
    lease: Lease,
    /// What memcached has to serve if the fetch fails.
    stale: Option<Value>,
}

/// The result of polling a fetch.
pub(crate) enum Fetched<R> {
    Returned(R),
    /// The lead went from one leader to another and both went on: the other's fetch ended first.
    Overtaken(Outcome),
}

/// A missed call of which only the fetch is left, if that. It is untyped, and what is typed are small
/// functions, compiled for each return type.
pub(crate) struct Begun {
    /// `None` for a call that is not cached.
    missed: Option<Missed>,
    step: Step,
    /// When the fetch began, where there is somebody who may wait for as long.
    began: Option<Instant>,
    waker: LastWaker,
}

/// What begins once another's fetch, or memcached, has answered.
pub(crate) type Waiting = Pin<Box<dyn Future<Output = Box<Begun>> + Send>>;

impl Begun {
    #[inline]
    fn new(missed: Option<Missed>, step: Step) -> Box<Begun> {
        // Written where it stays: what was only just written is slow to move.
        Box::write(Box::new_uninit(), Begun { missed, step, began: None, waker: None })
    }

    /// A call that missed, in the one box that it stays in until it is answered.
    pub(crate) fn missed(missed: Missed) -> Box<Begun> {
        Begun::new(Some(missed), Step::Alone)
    }

    /// Sets how long what is fetched lives.
    pub(crate) fn set_ttl(&mut self, ttl: Duration) {
        if let Some(missed) = &mut self.missed {
            missed.site.ttl = Some(ttl);
        }
    }

    pub(crate) fn set_weigher(&mut self, weigher: Weigher) {
        if let Some(missed) = &mut self.missed {
            missed.site.weigher = Some(weigher);
        }
    }

    /// Takes the next part of the path, as the leader of the key's flight or as its follower. What has
    /// to wait is boxed, so that the future of a function that is hit stays small.
    pub(crate) fn begin(mut self: Box<Self>) -> Result<Box<Begun>, Waiting> {
        let Some(missed) = &self.missed else { return Ok(self) };
        match missed.join() {
            Joined::Step(step) => {
                self.step = step;
                Ok(self)
            }
            mut joined => Err(Box::pin(async move {
                if let Some(missed) = &self.missed {
                    self.step = loop {
                        joined = match joined {
                            Joined::Step(step) => break step,
                            Joined::Ask(leader, ticket) => break missed.ask(leader, ticket).await,
                            Joined::Follow(follower) => missed.follow(follower).await,
                        };
                    };
                }
                self
            })),
        }
    }

    /// The function as it is without the cache.
    pub(crate) fn alone(counters: Option<&Counters>) -> Box<Begun> {
        count_alone(counters);
        Begun::new(None, Step::Alone)
    }

    /// Another's answer, if there is one; else the fetch begins.
    pub(crate) fn answer<R, V>(&mut self, returns: &Returns<R, V>) -> Option<R> {
        let answer = match &self.step {
            Step::Answer(value) | Step::AnswerAndRefresh(value, _) => returns.joined(value),
            Step::Error(error) => returns.errors.clone_of(error),
            Step::Fetch(_) | Step::Alone => None,
        };
        if answer.is_none() {
            self.begin_fetch();
        }
        answer
    }

    /// Counts the fetch, which begins now.
    fn begin_fetch(&mut self) {
        let Some(missed) = &self.missed else { return };
        let counters = missed.site.counters();
        match &mut self.step {
            Step::Fetch(fetching) => {
                counters.fetches.add();
                if let Some(leader) = &fetching.leader
                    && let Some(time) = counters.fetch_time().filter(|time| *time > SLOW_FETCH)
                {
                    leader.expect(time);
                }
                missed.site.number_fetch(&mut fetching.ticket);
            }
            _ => count_alone(Some(counters)),
        }
        self.began = missed.site.remote_tier().map(|_| Instant::now());
    }

    /// Polls the fetch, as the leader where it is one.
    pub(crate) fn poll<R>(
        &mut self,
        fetch: Pin<&mut dyn Future<Output = R>>,
        context: &mut Context<'_>,
    ) -> Poll<Fetched<R>> {
        let leader = match &self.step {
            Step::Fetch(fetching) => fetching.leader.as_ref(),
            _ => None,
        };
        if let Some(outcome) = leader.and_then(|leader| leader.overtaken(context)) {
            return Poll::Ready(Fetched::Overtaken(outcome));
        }
        poll_work(leader, &mut self.waker, fetch, context).map(Fetched::Returned)
    }

    /// Returns the call's answer after another leader's fetch has ended first. Returns `None` if that
    /// outcome is of no use to the call: then its own fetch goes on, for itself.
    #[cold]
    pub(crate) fn settle_overtaken<R, V>(
        &mut self,
        outcome: Outcome,
        returns: &Returns<R, V>,
    ) -> Option<R> {
        if let Step::Fetch(fetching) = &mut self.step {
            fetching.leader.take().into_iter().for_each(Leader::yield_to_outcome);
        }
        let missed = self.missed.as_ref()?;
        match missed.step_of(outcome) {
            Step::Answer(value) => returns.joined(&value),
            Step::Error(error) => returns.errors.clone_of(&error),
            _ => None,
        }
    }

    /// What the call returns, and for the tiers what there is to store. Nothing is awaited here: an
    /// error need not be `Send`.
    pub(crate) fn settle<R, V>(self: Box<Self>, returned: R, returns: &Returns<R, V>) -> R {
        let Begun { missed: Some(missed), step: Step::Fetch(fetching), began, .. } = *self else {
            return returned;
        };
        let counters = missed.site.counters();
        match (returns.split)(returned, &returns.rules) {
            Split::Value(value, verdict) => {
                let coarsely = || fetching.leader.as_ref().map(Leader::lasted);
                match began.map(|began| began.elapsed()) {
                    Some(took) => counters.observe(took),
                    // Without memcached only the bound of a stuck leader depends on it.
                    None => coarsely()
                        .filter(|took| *took > SLOW_FETCH)
                        .into_iter()
                        .for_each(|took| counters.observe(took)),
                }
                let value = missed.fill(fetching, value, verdict);
                // The type is the one that was split, so this is always there.
                match returns.joined(&value) {
                    Some(returned) => returned,
                    None => unreachable!("a value is of the type it was made from"),
                }
            }
            Split::Error(returned) => {
                counters.fetch_errors.add();
                if let Some(value) = missed.stale_for(&fetching)
                    && let Some(stale) = returns.joined(&value)
                {
                    counters.stale_answers.add();
                    fetching.answer(Outcome::Uncached(value));
                    return stale;
                }
                fetching.answer(
                    returns.errors.share(&returned).map_or(Outcome::Unshared, Outcome::Error),
                );
                returned
            }
        }
    }
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
        self.site.counters().waits.add();
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
                Step::Fetch(Fetching::new(None, self.site.ticket(), right))
            }
        }
    }

    /// A request that wants a fresh answer takes none from a fetch that began before it.
    fn flight_of(&self) -> Option<u64> {
        self.request.filter(Request::force_miss).map(|request| request.id())
    }

    fn lead(&self, leader: Leader) -> Joined {
        let site = &self.site;
        let looked = match self.force_miss() {
            true => Err(site.ticket()),
            // Between this call's look and its lead another may have fetched.
            false => site.look_locally_or_ticket(self.looked),
        };
        let ticket = match looked {
            Ok(value) => {
                site.counters().local_hits.add();
                return Joined::Step(Step::Answer(self.serve(leader, value)));
            }
            Err(ticket) => ticket,
        };
        let fetch = |leader, right| Fetching::new(Some(leader), ticket, right);
        if site.remote_tier().is_none() {
            return Joined::Step(Step::Fetch(fetch(leader, Right::LocalOnly)));
        }
        // The leader before this one had won the right to fill.
        if let Some(won) = leader.unstow::<Won>() {
            let stale = won.stale.clone();
            won.lease.renew_here();
            leader.stow(won);
            let fetching = fetch(leader, Right::Lease(None));
            return Joined::Step(Step::Fetch(Fetching { stale, ..fetching }));
        }
        Joined::Ask(leader, ticket)
    }

    /// Answers everybody with what a tier has.
    fn serve(&self, leader: Leader, value: Value) -> Value {
        leader.answer(|| Outcome::Cached(Arc::clone(&value)));
        drop_aside();
        self.keep(value)
    }

    fn ask(&self, leader: Leader, ticket: Ticket) -> impl Future<Output = Step> {
        let counters = self.site.counters();
        async move {
            let acquired = {
                let (mut acquire, mut waker) = (std::pin::pin!(self.acquire(ticket)), None);
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
                    counters.remote_hits.add();
                    Step::Answer(self.serve(leader, value))
                }
                Acquired::Stale(value) => {
                    counters.stale_answers.add();
                    leader.answer(|| Outcome::Uncached(Arc::clone(&value)));
                    Step::Answer(value)
                }
                Acquired::Due(value, right, expires) => {
                    counters.remote_hits.add();
                    let answer = self.serve(leader, value);
                    let fetching = Fetching::refresh(ticket, right);
                    Step::AnswerAndRefresh(answer, Box::new((fetching, expires)))
                }
                Acquired::Right { mut right, stale } => {
                    if let Right::Lease(won) = &mut right
                        && let Some(won) = won.take()
                    {
                        won.lease.follow(leader.pulse());
                        leader.stow(won);
                    }
                    Step::Fetch(Fetching { stale, ..Fetching::new(Some(leader), ticket, right) })
                }
            }
        }
    }
}

/// Counts a function that runs as it is without the cache.
fn count_alone(counters: Option<&Counters>) {
    if let Some(counters) = counters {
        counters.bypassed.add();
        counters.fetches.add();
    }
}
