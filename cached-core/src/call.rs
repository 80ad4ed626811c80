//! The one path of a call: lookup → fetch → fill. `ARCHITECTURE.md` has the picture.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::flight::{Followed, Leader, Outcome, Role};
use crate::site::{Frame, Lifetime, Site, UNCONFIRMED};
use crate::stats::Counters;
use crate::tier::local::{Ticket, Write};
use crate::tier::remote::{Condition, Found, Item, Lease, whole_seconds};
use crate::tier::request::Request;
use crate::value::{Returns, SharedError, Split, Value};

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
    /// With its own fetch, which then answers others and fills the tiers.
    Fetch(Box<Fetching>),
    /// With its own fetch, for itself.
    Alone,
}

/// The right to fetch for everybody.
struct Fetching {
    leader: Leader,
    ticket: Ticket,
    right: Right,
}

/// What a fetch may store.
enum Right {
    /// There is no remote tier.
    LocalOnly,
    /// The lease was won.
    Lease(Lease),
    /// An item may be replaced, if it is still what was read.
    Replace(u64),
    /// Not in memcached: it could not be asked, or somebody else has the lease.
    Nothing,
}

/// What the remote tier answers a leader.
enum Acquired {
    Value(Value),
    Right(Right),
}

impl Missed {
    /// The rest of the path, as the leader of the key's flight or as its follower.
    pub(crate) async fn run<R, F>(self, returns: Returns<R>, mut fetch: Pin<&mut F>) -> R
    where
        F: Future<Output = R>,
    {
        let counters = self.site.counters();
        let fetching = match self.step().await {
            Step::Fetch(fetching) => fetching,
            Step::Answer(value) => match (returns.join)(&self.keep(value)) {
                Some(returned) => return returned,
                None => return alone(Some(counters), fetch).await,
            },
            Step::Error(error) => {
                return match returns
                    .errors
                    .0
                    .as_ref()
                    .and_then(|errors| (errors.clone)(&error))
                {
                    Some(returned) => returned,
                    None => alone(Some(counters), fetch).await,
                };
            }
            Step::Alone => return alone(Some(counters), fetch).await,
        };
        let began = Instant::now();
        counters.fetches.add();
        let returned = fetching.leader.run(fetch.as_mut()).await;
        // From here on nothing is awaited: an error need not be `Send`.
        counters.observe(began.elapsed());
        match (returns.split)(returned) {
            Split::Value(value) => {
                let value = self.fill(*fetching, value);
                // The type is the one that was split, so this is always there.
                match (returns.join)(&value) {
                    Some(returned) => returned,
                    None => unreachable!("a value is of the type it was made from"),
                }
            }
            Split::Error(returned) => {
                counters.fetch_errors.add();
                let shared = returns
                    .errors
                    .0
                    .as_ref()
                    .and_then(|errors| (errors.share)(&returned));
                fetching
                    .leader
                    .answer(shared.map_or(Outcome::Unshared, Outcome::Error));
                returned
            }
        }
    }

    /// Skips what the tiers hold.
    fn force_miss(&self) -> bool {
        self.request
            .as_ref()
            .is_some_and(|request| request.force_miss())
    }

    /// Keeps the answer for the rest of the request; returns the request's answer.
    fn keep(&self, value: Value) -> Value {
        match &self.request {
            Some(request) if !(self.site.value_type.is_absent)(&value) => {
                request.keep(self.site.cache.id(), &self.site.key, value)
            }
            _ => value,
        }
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
                        Outcome::Value(value) => Step::Answer(value),
                        Outcome::Error(error) => Step::Error(error),
                        Outcome::Unshared => Step::Alone,
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
        let ticket = site.local().ticket(&site.key);
        // Between this call's look and its lead another may have fetched.
        if !self.force_miss()
            && let Some(value) = site.local().get(&site.key)
        {
            site.counters().local_hits.add();
            leader.answer(Outcome::Value(Arc::clone(&value)));
            return Step::Answer(value);
        }
        let acquired = {
            let acquire = std::pin::pin!(self.acquire(ticket));
            leader.run(acquire).await
        };
        match acquired {
            Acquired::Value(value) => {
                site.counters().remote_hits.add();
                leader.answer(Outcome::Value(Arc::clone(&value)));
                Step::Answer(value)
            }
            Acquired::Right(right) => Step::Fetch(Box::new(Fetching {
                leader,
                ticket,
                right,
            })),
        }
    }

    /// Asks memcached for the value, or for the right to fill it.
    async fn acquire(&self, ticket: Ticket) -> Acquired {
        let site = &self.site;
        let Some((remote, key)) = site.remote() else {
            return Acquired::Right(Right::LocalOnly);
        };
        if whole_seconds(site.lifetime().ttl) == 0 {
            return Acquired::Right(Right::LocalOnly);
        }
        let counters = site.counters();
        let config = site.cache.config();
        let observed = counters.fetch_time();
        let lease = config
            .lease
            .unwrap_or_else(|| observed.map_or(LEASE, |time| LEASE.max(time * 4)));
        let wait = config
            .lease_wait
            .unwrap_or_else(|| observed.map_or(lease, |time| time * 2));
        let mut pause = FIRST_LOOK;
        let give_up = Instant::now() + wait;
        loop {
            let found = match key.read_or_lease(lease).await {
                Ok(found) => found,
                Err(error) => {
                    log::debug!("{error}");
                    counters.remote_errors.add();
                    return Acquired::Right(Right::Nothing);
                }
            };
            match found {
                Found::Item(item) => return self.take(item, ticket),
                Found::Lease(cas) => {
                    return Acquired::Right(Right::Lease(Lease::new(remote, key, cas)));
                }
                Found::Nothing => return Acquired::Right(Right::Nothing),
                Found::Busy(_) => {}
            }
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() || self.force_miss() {
                counters.lease_timeouts.add();
                return Acquired::Right(Right::Nothing);
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }

    /// What an item is worth to this call.
    fn take(&self, item: Item, ticket: Ticket) -> Acquired {
        let site = &self.site;
        let frame = site.open(&item.frame);
        match frame {
            // An item that nobody can read may be replaced by anybody.
            Frame::Corrupt => Acquired::Right(Right::Replace(item.cas)),
            _ if self.force_miss() && site.overwritable() => {
                Acquired::Right(Right::Replace(item.cas))
            }
            _ if self.force_miss() => Acquired::Right(Right::Nothing),
            Frame::Foreign => Acquired::Right(Right::Nothing),
            Frame::Value(value, weight) => {
                let expires = item.expires.min(Instant::now() + site.lifetime().local);
                site.local()
                    .publish(&site.key, ticket, Write::Once, &value, weight, expires);
                Acquired::Value(value)
            }
        }
    }

    /// Stores what was fetched in every tier that may have it, and answers everybody. The caller
    /// does not wait for memcached.
    fn fill(&self, fetching: Fetching, value: Value) -> Value {
        let Fetching {
            leader,
            ticket,
            right,
        } = fetching;
        let site = &self.site;
        if (site.value_type.is_absent)(&value) {
            leader.answer(Outcome::Value(Arc::clone(&value)));
            return value;
        }
        let payload = (site.value_type.encode)(&value);
        // What the codec cannot write is as heavy as a page: it is not free, and not much else is known.
        let weight = payload.as_ref().map_or(4096, Vec::len);
        let lifetime = site.lifetime();
        let fetched = Instant::now();
        let local = match right {
            Right::LocalOnly => lifetime.local,
            // Longer once the fill is confirmed.
            Right::Lease(_) | Right::Replace(_) => lifetime.local.min(UNCONFIRMED),
            Right::Nothing => lifetime.ttl.min(UNCONFIRMED),
        };
        let write = if self.force_miss() && site.overwritable() {
            Write::Replace
        } else {
            Write::Once
        };
        site.local()
            .publish(&site.key, ticket, write, &value, weight, fetched + local);
        leader.answer(Outcome::Value(Arc::clone(&value)));
        self.fill_remote(
            right,
            ticket,
            Arc::clone(&value),
            payload,
            lifetime,
            fetched + lifetime.local,
        );
        self.keep(value)
    }

    fn fill_remote(
        &self,
        right: Right,
        ticket: Ticket,
        value: Value,
        payload: Option<Vec<u8>>,
        lifetime: Lifetime,
        expires: Instant,
    ) {
        let cas = match right {
            Right::LocalOnly | Right::Nothing => return,
            Right::Lease(lease) => lease.take(),
            Right::Replace(cas) => Some(cas),
        };
        let (Some(cas), Some((remote, key))) = (cas, self.site.remote()) else {
            return;
        };
        let site = self.site.clone();
        let started = remote.in_background(async move {
            let stored = match site.seal(&value, payload.as_deref()) {
                Ok(frame) => {
                    key.write(&frame, lifetime.ttl, Condition::Unchanged(cas))
                        .await
                }
                Err(_) => Ok(false),
            };
            if let Err(error) = &stored {
                log::debug!("{error}");
                site.counters().remote_errors.add();
            }
            if stored == Ok(true) {
                site.counters().fills.add();
                site.local().extend(&site.key, ticket, &value, expires);
            } else {
                site.counters().fills_dropped.add();
                // Nobody need wait for a fill that does not come.
                let _ = key.delete(Some(cas)).await;
            }
        });
        if !started {
            self.site.counters().fills_dropped.add();
        }
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
