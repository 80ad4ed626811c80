//! The one path of a call: lookup → fetch → fill. `ARCHITECTURE.md` has the picture.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::cache::Cache;
use crate::flight::{Followed, Leader, Outcome, Role};
use crate::site::{Frame, Lifetime, Site, UNCONFIRMED};
use crate::stats::Counters;
use crate::tier::local::{Refresh, Ticket, Write};
use crate::tier::remote::{Condition, Found, Item, Lease, whole_seconds};
use crate::tier::request::Request;
use crate::value::{Returns, SharedError, Split, Value, Verdict};

/// The lease, until fetches are seen to take longer than a quarter of it.
const LEASE: Duration = Duration::from_secs(5);
/// Pauses between two looks at an entry whose lease another process holds.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(100);

/// A call that the request and local tiers did not answer.
pub(crate) struct Missed {
    pub(crate) site: Site,
    pub(crate) request: Option<Arc<Request>>,
}

/// How a missed call goes on.
enum Step {
    /// With another's answer.
    Answer(Value),
    Error(SharedError),
    /// With an answer that is to be refreshed.
    AnswerAndRefresh(Value, Box<Fetching>),
    /// With its own fetch, which then answers others and fills the tiers.
    Fetch(Box<Fetching>),
    /// With its own fetch, for itself.
    Alone,
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
            drop(leader.unstow::<Lease>());
            leader.answer(outcome);
        }
    }
}

/// What a fetch may store.
enum Right {
    /// There is no remote tier.
    LocalOnly,
    /// There is none, and the entry is refreshed.
    LocalRefresh { _until_dropped: Refresh },
    /// A lease was won, to fill what is missing or to replace what has expired. A leader stows it
    /// on its flight, so that whoever takes its lead over need not wait for it.
    Lease(Option<Lease>),
    /// An item may be replaced, if it is still what was read.
    Replace(u64),
    /// Not in memcached: it could not be asked, or somebody else has the lease.
    Nothing,
    /// Nowhere: memcached has an entry that stays.
    Leave,
}

/// What the remote tier answers a leader.
enum Acquired {
    Value(Value),
    /// A value that is to be refreshed.
    Due(Value, Right),
    Right {
        right: Right,
        stale: Option<Value>,
    },
}

impl Acquired {
    fn without_stale(right: Right) -> Acquired {
        Acquired::Right { right, stale: None }
    }
}

/// What comes of an item that was read.
enum Taken {
    Now(Acquired),
    /// Another caller has won the right to replace it.
    Later(Acquired),
}

impl Missed {
    /// The rest of the path, as the leader of the key's flight or as its follower.
    pub(crate) async fn run<R, V, F>(self, returns: Returns<R, V>, fetch: Pin<&mut F>) -> R
    where
        F: Future<Output = R>,
    {
        let step = self.step().await;
        self.take_step(step, &returns, fetch).await
    }

    /// The same for a function that declares `refresh_ahead`: an entry that is about to expire
    /// answers, and is refreshed by the fetch, which goes on by itself.
    pub(crate) async fn run_ahead<R, V, F>(
        self,
        returns: Returns<R, V>,
        mut fetch: Pin<Box<F>>,
    ) -> R
    where
        R: 'static,
        V: 'static,
        F: Future<Output = R> + Send + 'static,
    {
        let step = self.step().await;
        if let Step::AnswerAndRefresh(value, fetching) = step {
            if let Some(returned) = (returns.join)(&value) {
                self.refresh(returns, *fetching, fetch);
                return returned;
            }
            return alone(Some(self.site.counters()), fetch.as_mut()).await;
        }
        self.take_step(step, &returns, fetch.as_mut()).await
    }

    /// Fetches in the background, and stores what comes of it. Without a runtime it is left to a
    /// later call.
    fn refresh<R, V, F>(self, returns: Returns<R, V>, fetching: Fetching, mut fetch: Pin<Box<F>>)
    where
        R: 'static,
        V: 'static,
        F: Future<Output = R> + Send + 'static,
    {
        let Ok(runtime) = Handle::try_current() else { return };
        // The body's own calls use the cache that they would have used here.
        let refresh = Cache::current().scope(async move {
            self.site.counters().refreshes.add();
            let fetched = Step::Fetch(Box::new(fetching));
            self.take_step(fetched, &returns, fetch.as_mut()).await;
        });
        runtime.spawn(refresh);
    }

    /// Refreshes what the local tier answered with, where that is due.
    pub(crate) fn refresh_local<R, V, F>(self, returns: Returns<R, V>, fetch: Pin<Box<F>>)
    where
        R: 'static,
        V: 'static,
        F: Future<Output = R> + Send + 'static,
    {
        if let Some(refresh) = self.site.refresh_locally() {
            let right = Right::LocalRefresh { _until_dropped: refresh };
            let fetching = Fetching::refresh(self.site.ticket(), right);
            self.refresh(returns, fetching, fetch);
        }
    }

    async fn take_step<R, V, F>(
        &self,
        step: Step,
        returns: &Returns<R, V>,
        mut fetch: Pin<&mut F>,
    ) -> R
    where
        F: Future<Output = R>,
    {
        let counters = self.site.counters();
        let Step::Fetch(fetching) = step else {
            // What is returned need not be `Send`, so none of it is held across an await.
            if let Some(returned) = answer_of(step, returns) {
                return returned;
            }
            return alone(Some(counters), fetch).await;
        };
        let began = Instant::now();
        counters.fetches.add();
        let returned = match &fetching.leader {
            Some(leader) => leader.run(fetch.as_mut()).await,
            None => fetch.await,
        };
        // From here on nothing is awaited: an error need not be `Send`.
        match (returns.split)(returned, &returns.rules) {
            Split::Value(value, verdict) => {
                counters.observe(began.elapsed());
                let value = self.fill(*fetching, value, verdict);
                // The type is the one that was split, so this is always there.
                match (returns.join)(&value) {
                    Some(returned) => returned,
                    None => unreachable!("a value is of the type it was made from"),
                }
            }
            Split::Error(returned) => {
                counters.fetch_errors.add();
                if let Some(value) = self.stale_for(&fetching)
                    && let Some(stale) = (returns.join)(&value)
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
        fetching.stale.clone().or_else(|| self.site.look_for_stale())
    }

    async fn step(&self) -> Step {
        let flights = self.site.cache.flights();
        match flights.join(&self.flight_key()) {
            Role::Recursive => Step::Alone,
            Role::Leader(leader) => self.lead(leader).await,
            Role::Follower(follower) => match follower.await {
                Followed::Lead(leader) => self.lead(leader).await,
                Followed::Outcome(outcome) => {
                    self.site.counters().waits.add();
                    match outcome {
                        Outcome::Cached(value) => Step::Answer(self.keep(value)),
                        Outcome::Uncached(value) => Step::Answer(value),
                        Outcome::Error(error) => Step::Error(error),
                        // For itself; but what it gets may serve others.
                        Outcome::Unshared => {
                            let right = match self.site.remote() {
                                Some(_) => Right::Nothing,
                                None => Right::LocalOnly,
                            };
                            let fetching = Fetching::new(None, self.site.ticket(), right);
                            Step::Fetch(Box::new(fetching))
                        }
                    }
                }
            },
        }
    }

    /// A request that wants a fresh answer takes none from a fetch that began before it.
    fn flight_key(&self) -> Arc<[u8]> {
        match &self.request {
            Some(request) if request.force_miss() => {
                let request = Arc::as_ptr(request).addr().to_ne_bytes();
                [&self.site.key[..], &request[..]].concat().into()
            }
            _ => Arc::clone(&self.site.key),
        }
    }

    async fn lead(&self, leader: Leader) -> Step {
        let site = &self.site;
        let ticket = site.ticket();
        // Between this call's look and its lead another may have fetched.
        if !self.force_miss()
            && let Some(value) = site.look_locally()
        {
            site.counters().local_hits.add();
            leader.answer(Outcome::Cached(Arc::clone(&value)));
            return Step::Answer(self.keep(value));
        }
        // The leader before this one had won the right to fill.
        if let Some(lease) = leader.unstow::<Lease>() {
            leader.stow(lease);
            let fetching = Fetching::new(Some(leader), ticket, Right::Lease(None));
            return Step::Fetch(Box::new(fetching));
        }
        let acquired = {
            let acquire = std::pin::pin!(self.acquire(ticket));
            leader.run(acquire).await
        };
        match acquired {
            Acquired::Value(value) => {
                site.counters().remote_hits.add();
                leader.answer(Outcome::Cached(Arc::clone(&value)));
                Step::Answer(self.keep(value))
            }
            Acquired::Due(value, right) => {
                site.counters().remote_hits.add();
                leader.answer(Outcome::Cached(Arc::clone(&value)));
                let refresh = Box::new(Fetching::refresh(ticket, right));
                Step::AnswerAndRefresh(self.keep(value), refresh)
            }
            Acquired::Right { mut right, stale } => {
                if let Right::Lease(lease) = &mut right
                    && let Some(lease) = lease.take()
                {
                    leader.stow(lease);
                }
                let fetching = Fetching { stale, ..Fetching::new(Some(leader), ticket, right) };
                Step::Fetch(Box::new(fetching))
            }
        }
    }

    /// Asks memcached for the value, or for the right to fill it.
    async fn acquire(&self, ticket: Ticket) -> Acquired {
        let site = &self.site;
        let lifetime = site.lifetime(None);
        let Some((remote, key)) = site.remote().filter(|_| whole_seconds(lifetime.ttl) > 0) else {
            return Acquired::without_stale(Right::LocalOnly);
        };
        let counters = site.counters();
        let config = site.cache.config();
        let observed = counters.fetch_time();
        let lease = config.lease.unwrap_or(observed.map_or(LEASE, |time| LEASE.max(time * 4)));
        let wait = config.lease_wait.unwrap_or(observed.map_or(lease, |time| time * 2));
        let give_up = Instant::now() + wait;
        let mut pause = FIRST_LOOK;
        let mut passed_by = Acquired::without_stale(Right::Nothing);
        loop {
            match key.read_or_lease(lease, lifetime.kept + lifetime.ahead).await {
                Err(error) => {
                    log::debug!("{error}");
                    counters.remote_errors.add();
                    return Acquired::without_stale(Right::Nothing);
                }
                Ok(Found::Item(item)) => match self.take(item, lifetime, ticket) {
                    Taken::Now(acquired) => return acquired,
                    // Another replaces it; in case that does not happen, this call will.
                    Taken::Later(acquired) => passed_by = acquired,
                },
                Ok(Found::Lease(cas)) => {
                    let lease = Lease::new(remote, key, cas);
                    return Acquired::without_stale(Right::Lease(Some(lease)));
                }
                Ok(Found::Nothing) => return Acquired::without_stale(Right::Nothing),
                Ok(Found::Busy(_)) => {}
            }
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() || self.force_miss() {
                counters.lease_timeouts.add();
                return passed_by;
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }

    /// What an item is worth to this call.
    fn take(&self, item: Item, lifetime: Lifetime, ticket: Ticket) -> Taken {
        let site = &self.site;
        let replace = Right::Replace(item.cas);
        let (value, weight) = match site.open(&item.frame) {
            // An item that nobody can read may be replaced by anybody.
            Frame::Corrupt => return Taken::Now(Acquired::without_stale(replace)),
            Frame::Foreign => return Taken::Now(Acquired::without_stale(Right::Nothing)),
            Frame::Value(value, weight) => (value, weight),
        };
        if self.force_miss() {
            let right = if site.overwritable() { replace } else { Right::Leave };
            return Taken::Now(Acquired::without_stale(right));
        }
        let Some(fresh) = lifetime.left_of(&item) else {
            let stale = Some(value);
            return match (item.won, site.remote()) {
                (true, Some((remote, key))) => {
                    let right = Right::Lease(Some(Lease::of_item(remote, key, &item)));
                    Taken::Now(Acquired::Right { right, stale })
                }
                _ => Taken::Later(Acquired::Right { right: replace, stale }),
            };
        };
        let life = lifetime.local_life(fresh.min(lifetime.local));
        site.publish(ticket, Write::Once, &value, weight, life);
        Taken::Now(match (item.won, site.remote()) {
            (true, Some((remote, key))) => {
                Acquired::Due(value, Right::Lease(Some(Lease::of_item(remote, key, &item))))
            }
            _ => Acquired::Value(value),
        })
    }

    /// Stores what was fetched in every tier that may have it, and answers everybody. The caller
    /// does not wait for memcached.
    fn fill(&self, fetching: Fetching, value: Value, verdict: Verdict) -> Value {
        let Fetching { leader, refresh, ticket, mut right, .. } = fetching;
        if let (Right::Lease(lease @ None), Some(leader)) = (&mut right, &leader) {
            *lease = leader.unstow();
        }
        let answer = |outcome| {
            if let Some(leader) = leader {
                leader.answer(outcome);
            }
        };
        let site = &self.site;
        if !site.keeps(&verdict) {
            answer(Outcome::Uncached(Arc::clone(&value)));
            return value;
        }
        let payload = (site.value_type.encode)(&value);
        let weight = site.weight(&value, payload.as_deref());
        let lifetime = site.lifetime(Some(&verdict));
        let fresh = match right {
            Right::LocalOnly | Right::LocalRefresh { .. } => lifetime.local,
            // Longer once the fill is confirmed.
            Right::Lease(_) | Right::Replace(_) => lifetime.local.min(UNCONFIRMED),
            Right::Nothing => lifetime.ttl.min(UNCONFIRMED),
            Right::Leave => Duration::ZERO,
        };
        // A refresh needs a declared reason, so it is of an overwritable entry.
        let asked_for = self.force_miss() || refresh;
        let replaces = asked_for && site.overwritable();
        let write = if replaces { Write::Replace } else { Write::Once };
        site.publish(ticket, write, &value, weight, lifetime.local_life(fresh));
        answer(Outcome::Cached(Arc::clone(&value)));
        self.fill_remote(right, ticket, Arc::clone(&value), payload, lifetime);
        self.keep(value)
    }

    fn fill_remote(
        &self,
        right: Right,
        ticket: Ticket,
        value: Value,
        payload: Option<Vec<u8>>,
        lifetime: Lifetime,
    ) {
        let (cas, lease) = match right {
            Right::Lease(Some(lease)) => (lease.cas(), Some(lease)),
            Right::Replace(cas) => (cas, None),
            _ => return,
        };
        let Some((remote, key)) = self.site.remote() else { return };
        let key = key.in_background();
        let site = self.site.clone();
        let confirmed = lifetime.local_life(lifetime.local);
        let started = remote.in_background(async move {
            let condition = Condition::Unchanged(cas);
            let stored = match site.seal(&value, payload.as_deref()) {
                Ok(frame) => key.write(&frame, lifetime.ttl, lifetime.kept, condition).await,
                Err(_) => Ok(false),
            };
            if let Err(error) = &stored {
                log::debug!("{error}");
                site.counters().remote_errors.add();
            }
            if stored != Ok(true) {
                // The lease, dropped, is given back: nobody need wait for a fill that does not come.
                site.counters().fills_dropped.add();
                return;
            }
            site.counters().fills.add();
            lease.into_iter().for_each(Lease::used);
            site.extend(ticket, &value, confirmed);
        });
        if !started {
            self.site.counters().fills_dropped.add();
        }
    }
}

/// What a step answers, if it does.
fn answer_of<R, V>(step: Step, returns: &Returns<R, V>) -> Option<R> {
    match step {
        Step::Answer(value) | Step::AnswerAndRefresh(value, _) => (returns.join)(&value),
        Step::Error(error) => returns.errors.clone_of(&error),
        Step::Fetch(_) | Step::Alone => None,
    }
}

/// The function as it is without the cache.
pub(crate) async fn alone<F: Future>(counters: Option<&Counters>, fetch: Pin<&mut F>) -> F::Output {
    if let Some(counters) = counters {
        counters.bypassed.add();
        counters.fetches.add();
    }
    fetch.await
}
