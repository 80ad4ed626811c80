//! The cache, built from a configuration: its tiers, its counters and its flights.
//!
//! A *fetch* is a run of the annotated function. A *flight* is a fetch that several callers in this
//! process share. The modules `call` and `entry` look up, fetch and change entries, and reach the
//! tiers through a [`Cache`].

mod clear;
#[cfg(feature = "metrics")]
mod metrics;
mod worth;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::config::{CacheBuilder, Config};
use crate::declaration::warn_if_inventory_is_empty;
use crate::error::{ConfigError, ConfigErrorKind};
use crate::event::{Event, EventDispatcher, EventSubject, MissCause, MissReport};
use crate::fetch_pauses::FetchPauses;
use crate::flight::Flights;
use crate::key::{Key, canonical_bytes};
#[cfg(feature = "memcached")]
use crate::program::find_fingerprint;
use crate::refresh_claims::LocalRefreshClaims;
use crate::stats::{Counters, Health, LocalStats, ServerStats, Stats};
use crate::telemetry::CacheLabels;
use crate::tier::Tier;
use crate::tier::local::{FillToken, LocalTier, run_deferred_drops};
use crate::tier::remote::{RemoteStore, Store};
use crate::tier::request::RequestHandle;
#[cfg(feature = "metrics")]
pub use metrics::MetricsPublisher;

/// A tiered cache. A clone is cheap and shares the tiers and counters of the original.
///
/// An annotated function uses [`Cache::current`], unless its option `cache = …` names a cache.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<CacheInner>,
}

struct CacheInner {
    /// A number that no other cache of this process has ever had.
    id: u64,
    enabled: bool,
    /// When the cache was built, by the cache's own clock.
    built: Instant,
    config: Config,
    events: EventDispatcher,
    flights: Arc<Flights>,
    fetch_pauses: FetchPauses,
    local: Arc<LocalTier>,
    refresh_claims: Arc<LocalRefreshClaims>,
    remote: Option<Arc<Store>>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl CacheBuilder {
    /// Checks the settings and builds the cache.
    ///
    /// The method does not connect to memcached. The first call that needs a server connects to it.
    /// If the cache uses memcached, the method waits until the program's own file has been hashed.
    /// This takes a few hundredths of a second, and is done once in a process. The hash tells
    /// builds of the program apart.
    ///
    /// # Errors
    /// Returns an error for the first wrong setting. The error says what to write instead.
    ///
    /// ```
    /// # use cached_core::Cache;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::builder().build().await?;
    /// cache.scope(async { /* annotated functions called here use `cache` */ }).await;
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub async fn build(self) -> Result<Cache, ConfigError> {
        let config = self.into_config()?;
        warn_if_inventory_is_empty();
        #[cfg(feature = "memcached")]
        if !config.servers.is_empty() {
            find_fingerprint().await;
        }
        Ok(Cache::new(config))
    }
}

impl Cache {
    pub(crate) fn new(config: Config) -> Cache {
        Cache::with_switch(config, true)
    }

    fn with_switch(config: Config, enabled: bool) -> Cache {
        let labels = CacheLabels::new(config.namespace.as_ref());
        let events = EventDispatcher::new(&config.observers).with_labels(labels);
        let remote = Store::new(&config, &events).map(Arc::new);
        let local = LocalTier::new(config.local_capacity, config.clock.clone(), events.clone());
        Cache {
            inner: Arc::new(CacheInner {
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                enabled,
                built: config.clock.now(),
                flights: Arc::new(Flights::new()),
                fetch_pauses: FetchPauses::default(),
                local,
                refresh_claims: LocalRefreshClaims::new(config.clock.clone()),
                remote,
                events,
                config,
            }),
        }
    }

    /// Returns a builder with the default settings.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cached_core::Cache;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::builder().default_ttl(Duration::from_secs(60)).build().await?;
    /// # drop(cache);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn builder() -> CacheBuilder {
        CacheBuilder::default()
    }

    /// Builds the cache that a URL describes.
    ///
    /// | URL | cache |
    /// |---|---|
    /// | empty or `local:` | stores entries in the memory of this process |
    /// | `local:?local_capacity=256MiB` | the same, with a capacity of 256 MiB |
    /// | `memcache://a:11211,b:11211?namespace=shop&timeout=50ms` | stores entries in the memory of this process and in memcached |
    /// | `off` | stores nothing; see [`Cache::disabled`] |
    ///
    /// Each setting is a method of [`CacheBuilder`]. `local_capacity` (bytes, or a number with
    /// `KiB`, `MiB` or `GiB`), `ttl` and `jitter` apply to every cache; `namespace`, `timeout`,
    /// `lease` and `lease_wait` apply to memcached. A duration is written `50ms`, `5s` or `1h30m`.
    ///
    /// The method does not connect to memcached. The first call that needs a server connects to it.
    /// If the URL names memcached servers, the method waits until the program's own file has been
    /// hashed, as [`CacheBuilder::build`] does.
    ///
    /// # Errors
    /// Returns an error for the first wrong part of the URL. The error says what to write instead.
    /// A `memcache://…` URL is an error in a program that is built without the feature `memcached`.
    ///
    /// ```
    /// # use cached_core::Cache;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let reports = Cache::from_url("local:?local_capacity=8MiB&ttl=1h").await?;
    /// let error = Cache::from_url("local:?size=8MiB").await.unwrap_err();
    /// assert!(error.to_string().starts_with("`size` is not a setting of `local:`"));
    /// # drop(reports);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub async fn from_url(url: &str) -> Result<Cache, ConfigError> {
        match CacheBuilder::from_url(url)? {
            Some(builder) => builder.build().await,
            None => Ok(Cache::disabled()),
        }
    }

    /// Builds the cache that the environment variable `CACHE_URL` describes, as
    /// [`from_url`](Self::from_url) does. If the variable is not set, the cache stores entries in
    /// the memory of this process only.
    ///
    /// # Errors
    /// Returns the same errors as [`from_url`](Self::from_url). Also returns an error if the
    /// variable is not UTF-8.
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
                return Err(ConfigError::new(ConfigErrorKind::Url, "CACHE_URL is not UTF-8"));
            }
        };
        Cache::from_url(&url).await.map_err(|error| error.in_variable("CACHE_URL"))
    }

    /// Returns a cache that is off: every call fetches, and nothing is stored or shared.
    ///
    /// While the cache is off, `invalidate` and `overwrite` do nothing: memcached is not contacted,
    /// and keeps its old entries. Before turning the cache on again, change the namespace or empty
    /// memcached.
    ///
    /// ```
    /// # use cached_core::{Cache, coordinator_cached};
    /// #[coordinator_cached(name = "disabled_doc", version = edition)]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// Cache::disabled().scope(course(1, 2)).await?; // runs the body, every time
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn disabled() -> Cache {
        Cache::with_switch(Config { local_capacity: 0, ..Config::default() }, false)
    }

    /// Waits up to 10 seconds for the background writes to memcached. Background writes store
    /// values and release leases.
    ///
    /// Call this method before `std::process::exit`, and in a test that reads from memcached. A
    /// program that ends normally need not call it. If a runtime shuts down while writes are
    /// running, a thread of this library finishes them. The shutdown waits for this thread, for 1
    /// second at most. If several runtimes shut down within 10 seconds, they wait for 1 second in
    /// total. `Runtime::shutdown_background` does not wait.
    ///
    /// # Cancellation
    /// The writes continue if the returned future is dropped.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = cached_core::Cache::builder().build().await?;
    /// cache.flush().await;
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub async fn flush(&self) {
        if let Some(remote) = &self.inner.remote {
            remote.flush().await;
        }
    }

    /// Returns the counters of every annotated function in this cache since the cache was built.
    ///
    /// ```
    /// # use cached_core::{Cache, coordinator_cached};
    /// #[coordinator_cached(name = "stats_doc", version = edition)]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::builder().build().await.unwrap();
    /// cache.scope(course(1, 2)).await?;
    /// cache.scope(course(1, 2)).await?;
    ///
    /// let stats = cache.stats();
    /// println!("{stats}"); // a table
    /// let course = stats.get("stats_doc").expect("the function is declared");
    /// assert_eq!((course.fetches, course.local_hits), (1, 1));
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn stats(&self) -> Stats {
        let (events, tier) = (&self.inner.events, &self.inner.local);
        let local = LocalStats {
            entries: tier.entry_count() as u64,
            bytes: tier.weight(),
            capacity: self.inner.config.local_capacity,
            ..LocalStats::default()
        };
        Stats::read(events.counters(), local, events.observer_stats())
    }

    /// Returns the state and the counters of each memcached server, in the order in which they were
    /// configured. Without memcached the list is empty.
    ///
    /// If `set_memcached` removes a server and later adds it again, the server's counters start
    /// again at zero.
    ///
    /// ```
    /// # use cached_core::Cache;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::builder().build().await?;
    /// for server in cache.servers() {
    ///     println!("{} is {}, {} exchanges failed", server.address, server.state, server.errors);
    /// }
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn servers(&self) -> Vec<ServerStats> {
        self.inner.remote.as_ref().map_or_else(Vec::new, |remote| remote.servers())
    }

    /// Returns [`Health::Up`], or the memcached servers that are *out of rotation*: this process
    /// does not use them at present.
    ///
    /// The method contacts no server, and only returns what this process knows from earlier
    /// exchanges. A server is taken out of rotation after a few failed exchanges in a row. A
    /// program that makes no calls therefore does not notice that a server has failed.
    ///
    /// A cache without some of its servers still answers every call. A health check that a load
    /// balancer reads should therefore report the service as healthy. It can show the text of this
    /// value:
    ///
    /// ```
    /// # use cached_core::Cache;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::builder().build().await?;
    /// let (status, body) = (200, format!("cache: {}", cache.health()));
    /// assert_eq!((status, body.as_str()), (200, "cache: up"));
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn health(&self) -> Health {
        Health::of(&self.servers())
    }

    /// Replaces the memcached servers while the program runs. Servers that stay keep their entries
    /// and connections. Only two kinds of keys move to another server: those of a server that was
    /// removed, and those that a new server takes over.
    ///
    /// Commands that are already running finish on the server where they began. A new server should
    /// be empty. In two cases, this process ignores items that are older than the change:
    ///
    /// - A server that was removed before is added again.
    /// - A server that was added is removed again, and its keys return to the servers that had them
    ///   before.
    ///
    /// Change the servers in all processes within a short time. Until this method has added a
    /// server in a process, invalidations by that process do not reach the server.
    ///
    /// The method needs the feature `memcached`, which is on by default.
    ///
    /// # Errors
    /// Returns an error and changes nothing if no server is given, if an address is malformed or
    /// repeated, or if the cache was built without memcached servers.
    ///
    /// ```
    /// # use cached_core::Cache;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::builder().memcached(["cache-a:11211", "cache-b:11211"]).build().await?;
    /// cache.set_memcached(["cache-a:11211", "cache-c:11211"])?;
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    #[cfg(feature = "memcached")]
    pub fn set_memcached<Address: AsRef<str>>(
        &self,
        servers: impl IntoIterator<Item = Address>,
    ) -> Result<(), ConfigError> {
        let servers: Vec<String> = servers.into_iter().map(|s| s.as_ref().to_owned()).collect();
        crate::config::check_servers(&servers)?;
        if servers.is_empty() {
            let wrong = "no server is given; give one or more";
            return Err(ConfigError::new(ConfigErrorKind::Server, wrong));
        }
        let remote = self.remote().ok_or_else(|| {
            let wrong = "the cache was built without memcached; build it with `.memcached([…])`";
            ConfigError::new(ConfigErrorKind::NoRemoteTier, wrong)
        })?;
        remote.set_servers(&servers);
        Ok(())
    }

    /// Returns a number that no other cache of this process has ever had.
    pub(crate) fn id(&self) -> u64 {
        self.inner.id
    }

    #[inline]
    pub(crate) fn is_enabled(&self) -> bool {
        self.inner.enabled
    }

    /// Returns the counters of the declaration with this index. There must be such a declaration.
    pub(crate) fn counters_at(&self, index: usize) -> &Counters {
        &self.inner.events.counters()[index]
    }

    /// Passes an event to the counters, the log and the observers of this cache.
    pub(crate) fn emit(&self, event: Event<'_>) {
        self.inner.events.emit(&event);
    }

    /// Reports that a lookup found the value of this key in a tier. The inlined lookup of an
    /// annotated function does not call this method, and only counts its hits.
    pub(crate) fn report_hit(&self, key: &[u8], tier: Tier) {
        self.emit(Event::Hit { entry: EventSubject::of(key), tier });
    }

    /// Returns the last known reason why the entry with this key is missing, and how long ago it
    /// arose.
    pub(crate) fn last_miss_cause(&self, key: &[u8]) -> Option<(MissCause, Duration)> {
        self.inner.events.last_miss_cause(&EventSubject::of(key))
    }

    /// Logs a call that neither the request tier nor the local tier could answer.
    pub(crate) fn log_miss(&self, key: &[u8], report: &MissReport) {
        self.inner.events.log_miss(EventSubject::of(key), report);
    }

    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    pub(crate) fn flights(&self) -> &Arc<Flights> {
        &self.inner.flights
    }

    pub(crate) fn fetch_pauses(&self) -> &FetchPauses {
        &self.inner.fetch_pauses
    }

    #[inline]
    pub(crate) fn local(&self) -> &LocalTier {
        &self.inner.local
    }

    pub(crate) fn refresh_claims(&self) -> &Arc<LocalRefreshClaims> {
        &self.inner.refresh_claims
    }

    pub(crate) fn remote(&self) -> Option<&Arc<Store>> {
        self.inner.remote.as_ref()
    }

    /// Returns the key under which memcached stores the entry.
    pub(crate) fn key(&self, name: &'static str, key: &[u8]) -> Key {
        let namespace = self.inner.config.namespace.clone();
        Key::new(namespace, name, &canonical_bytes(name, key))
    }

    /// Removes the entry from the tiers of this process. A fetch or a read that is already running
    /// will not store its result. If the option `error_ttl` delays the key's next fetch, the delay
    /// ends.
    ///
    /// Returns a *fill token*, with which the caller can store a replacement until the entry
    /// changes again. Returns `None` if the token `before` is out of date. In this case another
    /// caller might have changed the entry, and this caller must not store its replacement.
    pub(crate) fn remove_from_process(
        &self,
        key: &Arc<[u8]>,
        before: Option<FillToken>,
    ) -> Option<FillToken> {
        let fill_token = self.inner.local.invalidate(key, before);
        // The key's flight might have found the old value before the removal, so later callers must
        // not join the flight.
        self.inner.flights.detach(key);
        self.inner.fetch_pauses.end(key);
        // The request tier comes last. Until now, another task of the request might have found the
        // old value and put it into the request tier.
        if let Some(request) = RequestHandle::current() {
            request.remove(self.id(), key);
        }
        run_deferred_drops();
        fill_token
    }
}

#[cfg(all(feature = "console", feature = "memcached"))]
impl Cache {
    /// Makes the local tier refuse all values that are being fetched or read now. No later call of
    /// `function` (the index of its declaration, or `None` for all functions) receives such a
    /// value.
    pub(crate) fn refuse_values_under_way(&self, function: Option<usize>) {
        self.inner.local.refuse_earlier_fills();
        self.inner.flights.detach_all(function);
        self.inner.fetch_pauses.end_all(function);
        run_deferred_drops();
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
            .field("local", &self.inner.local)
            .finish_non_exhaustive()
    }
}
