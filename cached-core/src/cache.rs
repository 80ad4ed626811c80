//! The one path of a call: lookup → fetch → fill. See `ARCHITECTURE.md` for the picture.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{CacheBuilder, Config};
use crate::declaration::Declaration;
use crate::error::ConfigError;
use crate::flight::{Flights, Followed, Leader, Outcome, Role};
use crate::frame::{self, Opened};
use crate::key::Key;
use crate::stats::{Counters, Stats, all_counters};
use crate::tier::local::{Local, Ticket, Write};
use crate::tier::remote::{
    Condition, Found, Item, LONGEST_TTL, Lease, Remote, RemoteKey, whole_seconds,
};
use crate::tier::request::Request;
use crate::value::{Returns, SharedError, Split, Value, ValueType};

/// What the local tier may keep of a value that is not confirmed to stand in memcached, and by
/// default of one that another process may overwrite.
pub(crate) const UNCONFIRMED: Duration = Duration::from_secs(5);
/// The lease, until fetches are seen to take longer than a quarter of it.
const LEASE: Duration = Duration::from_secs(5);
/// Pauses between two looks at an entry whose lease another process holds.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(100);

/// A tiered cache. A cheap clone shares the same tiers and counters.
///
/// An annotated function uses [`Cache::current`]: the cache of the running [`scope`](Self::scope),
/// else the [`install`](Self::install)ed one, else an embedded local one.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

struct Inner {
    enabled: bool,
    config: Config,
    counters: Box<[Counters]>,
    flights: Arc<Flights>,
    local: Local,
    remote: Option<Arc<Remote>>,
}

impl Cache {
    pub(crate) fn new(config: Config) -> Cache {
        Cache::build(config, true)
    }

    fn build(config: Config, enabled: bool) -> Cache {
        let remote = (!config.servers.is_empty())
            .then(|| Arc::new(Remote::new(&config.servers, config.remote_timeout)));
        Cache {
            inner: Arc::new(Inner {
                enabled,
                counters: all_counters(),
                flights: Arc::new(Flights::new()),
                local: Local::new(config.local_capacity),
                remote,
                config,
            }),
        }
    }

    /// Starts a configuration; see [`CacheBuilder`].
    pub fn builder() -> CacheBuilder {
        CacheBuilder::default()
    }

    /// The cache that the environment variable `CACHE_URL` describes: `local:` (the default),
    /// `memcache://a:11211,b:11211?namespace=shop&timeout=50ms`, or `off`, which is
    /// [`Cache::disabled`]. Further settings: `lease`, `lease_wait`, `ttl` (durations such as
    /// `5s`), `jitter`, `local_capacity` (bytes).
    ///
    /// # Errors
    /// One line that names the part that is wrong. Nothing is dialled.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = cached_core::Cache::from_env().await?;
    /// # drop(cache);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub async fn from_env() -> Result<Cache, ConfigError> {
        let url = match std::env::var("CACHE_URL") {
            Ok(url) => url,
            Err(std::env::VarError::NotPresent) => String::new(),
            Err(std::env::VarError::NotUnicode(_)) => {
                return Err(ConfigError::new("CACHE_URL is not UTF-8"));
            }
        };
        let within = |error: ConfigError| error.within("CACHE_URL");
        match CacheBuilder::from_url(&url).map_err(within)? {
            Some(builder) => builder.build().await.map_err(within),
            None => Ok(Cache::disabled()),
        }
    }

    /// A cache that is off: every call fetches, nothing is stored or shared.
    #[must_use]
    pub fn disabled() -> Cache {
        Cache::build(
            Config {
                local_capacity: 0,
                ..Config::default()
            },
            false,
        )
    }

    /// Waits until the writes to memcached that are under way are done, each of which takes at
    /// most the remote timeout. For a program that ends, and for tests.
    pub async fn flush(&self) {
        if let Some(remote) = &self.inner.remote {
            remote.flush().await;
        }
    }

    /// The counters of every declaration in this cache.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::read(&self.inner.counters)
    }

    /// Tells this cache's answers in a request from another cache's.
    pub(crate) fn id(&self) -> usize {
        Arc::as_ptr(&self.inner).addr()
    }

    #[inline]
    pub(crate) fn is_enabled(&self) -> bool {
        self.inner.enabled
    }

    /// The declaration's counters here; `None` where it shares its name, and so must not cache.
    #[inline]
    pub(crate) fn counters(&self, declaration: &Declaration) -> Option<&Counters> {
        self.inner.counters.get(declaration.index()?)
    }

    #[inline]
    pub(crate) fn local(&self) -> &Local {
        &self.inner.local
    }

    pub(crate) fn key(&self, declaration: &Declaration, bytes: &[u8]) -> Key {
        Key::new(
            self.inner.config.namespace.clone(),
            declaration.name(),
            bytes,
        )
    }

    /// Takes the entry out of this process's tiers, and makes every fetch and read under way keep
    /// its result to itself.
    pub(crate) fn forget(&self, key: &[u8]) {
        self.inner.flights.detach(key);
        self.inner.local.invalidate(key);
        if let Some(request) = Request::current() {
            request.remove(self.id(), key);
        }
    }
}

impl AsRef<Cache> for Cache {
    fn as_ref(&self) -> &Cache {
        self
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("enabled", &self.inner.enabled)
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

/// One key in one cache: what every step of a call, and an entry, work with.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) cache: Cache,
    declaration: &'static Declaration,
    /// The declaration's.
    index: usize,
    pub(crate) key: Arc<[u8]>,
    pub(crate) value_type: &'static ValueType,
    /// The ttl given with this call, where the declaration has none that is fixed.
    pub(crate) ttl: Option<Duration>,
}

/// How long an entry lives in each tier.
#[derive(Clone, Copy)]
pub(crate) struct Lifetime {
    pub(crate) ttl: Duration,
    /// What the local tier may keep once memcached has the value, or where there is no memcached.
    pub(crate) local: Duration,
}

impl Site {
    /// `None` where the cache is off, or the declaration shares its name.
    pub(crate) fn new(
        cache: &Cache,
        declaration: &'static Declaration,
        key: Arc<[u8]>,
        value_type: &'static ValueType,
        ttl: Option<Duration>,
    ) -> Option<Site> {
        let index = declaration.index().filter(|_| cache.is_enabled())?;
        Some(Site {
            cache: cache.clone(),
            declaration,
            index,
            key,
            value_type,
            ttl,
        })
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.cache.inner.counters[self.index]
    }

    pub(crate) fn local(&self) -> &Local {
        &self.cache.inner.local
    }

    /// Where the key lives in memcached, if there is a remote tier.
    pub(crate) fn remote(&self) -> Option<(&Arc<Remote>, RemoteKey)> {
        let remote = self.cache.inner.remote.as_ref()?;
        let key = remote.locate(&self.cache.key(self.declaration, &self.key))?;
        Some((remote, key))
    }

    pub(crate) fn overwritable(&self) -> bool {
        self.declaration.overwrite_reason().is_some()
    }

    pub(crate) fn lifetime(&self) -> Lifetime {
        let config = &self.cache.inner.config;
        let ttl = self
            .ttl
            .or(self.declaration.declared_ttl())
            .unwrap_or(config.default_ttl);
        let ttl = if config.jitter > 0.0 {
            ttl.mul_f64(1.0 - config.jitter * random())
        } else {
            ttl
        };
        let local = match (
            &self.cache.inner.remote,
            whole_seconds(ttl.min(LONGEST_TTL)),
        ) {
            // memcached counts in whole seconds: what lives shorter stays in this process.
            (None, _) | (_, 0) => ttl,
            (Some(_), seconds) => {
                // The server counts on ticks of its own, so an item may live a second less than
                // its ttl; the local entry must not outlive it.
                let remote = Duration::from_secs(u64::from(seconds - 1));
                if self.overwritable() {
                    remote.min(UNCONFIRMED)
                } else {
                    remote
                }
            }
        };
        Lifetime { ttl, local }
    }

    /// The value of a frame, if it is this key's, whole, and of this build's type.
    pub(crate) fn open(&self, frame: &[u8]) -> Frame {
        match frame::open(&self.key, frame) {
            Opened::Corrupt => Frame::Corrupt,
            Opened::Foreign => Frame::Foreign,
            Opened::Payload { shape, payload } => match self.decode(shape, payload) {
                Some(value) => Frame::Value(value, payload.len()),
                None => Frame::Foreign,
            },
        }
    }

    fn decode(&self, shape: u64, payload: &[u8]) -> Option<Value> {
        let value = (self.value_type.decode)(payload)?;
        ((self.value_type.shape)(&value) == Ok(shape)).then_some(value)
    }

    /// The frame of a value, after making sure that it can be read back as what it is.
    ///
    /// # Errors
    /// Why this value has to stay out of memcached.
    pub(crate) fn seal(
        &self,
        value: &Value,
        payload: Option<&[u8]>,
    ) -> Result<Vec<u8>, &'static str> {
        let unstorable = |why: &'static str| {
            if self.declaration.unstorable.set(why).is_ok() {
                log::warn!(
                    "values of `{}` ({}) are kept in this process only: {why}",
                    self.declaration.name(),
                    self.declaration.function()
                );
            }
            why
        };
        let payload = payload.ok_or_else(|| unstorable("the codec cannot write the value"))?;
        let shape = (self.value_type.shape)(value).map_err(|error| unstorable(error.reason()))?;
        if self.decode(shape, payload).is_none() {
            return Err(unstorable(
                "the value does not read back as what was written (an untagged or internally tagged enum, \
                 a flattened or skipped field, or another type that only a self-describing format can read)",
            ));
        }
        Ok(frame::seal(&self.key, shape, payload))
    }
}

pub(crate) enum Frame {
    /// A value, and how many bytes encode it.
    Value(Value, usize),
    /// Perhaps of use to another build.
    Foreign,
    /// Of no use to anybody.
    Corrupt,
}

/// 0 to 1, of no quality but that of not being the same each time.
fn random() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}

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
        let flights = &self.site.cache.inner.flights;
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
        let config = &site.cache.inner.config;
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
