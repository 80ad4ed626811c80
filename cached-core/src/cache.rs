//! The cache: its tiers, its flights, its counters. What happens in it is in `call` and `entry`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::{CacheBuilder, Config};
use crate::declaration::Declaration;
use crate::error::ConfigError;
use crate::flight::Flights;
use crate::key::{Key, canonical_bytes};
use crate::stats::{Counters, Stats, all_counters};
use crate::tier::local::{Local, Ticket, drop_aside};
use crate::tier::remote::Remote;
use crate::tier::request::Request;

/// A tiered cache. A cheap clone shares the same tiers and counters.
///
/// An annotated function uses [`Cache::current`]: the cache of the running [`scope`](Self::scope),
/// else the [`install`](Self::install)ed one, else an embedded local one.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

struct Inner {
    /// Tells this cache from every other of the process, also from those that are gone.
    id: u64,
    enabled: bool,
    config: Config,
    counters: Box<[Counters]>,
    flights: Arc<Flights>,
    local: Arc<Local>,
    remote: Option<Arc<Remote>>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Cache {
    pub(crate) fn new(config: Config) -> Cache {
        Cache::build(config, true)
    }

    fn build(config: Config, enabled: bool) -> Cache {
        let remote = Remote::new(&config).map(Arc::new);
        Cache {
            inner: Arc::new(Inner {
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                enabled,
                counters: all_counters(),
                flights: Arc::new(Flights::new()),
                local: Local::new(config.local_capacity, config.clock.clone()),
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
    /// `5s`), `jitter`, `local_capacity` (bytes). In a program that is built without the feature
    /// `memcached` a `memcache://…` is a mistake.
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

    /// A cache that is off: every call fetches, nothing is stored or shared. What `invalidate` and
    /// `overwrite` are asked meanwhile nobody is told: take another namespace, or empty memcached,
    /// before it is turned on again.
    #[must_use]
    pub fn disabled() -> Cache {
        Cache::build(Config { local_capacity: 0, ..Config::default() }, false)
    }

    /// Waits until the writes to memcached that are under way are done, 10 s at most: fills, and leases
    /// that are given back. A program that calls `std::process::exit` calls this before, and so does a test that
    /// looks at memcached.
    ///
    /// When a runtime ends with such writes under way, as when `main` returns, a thread of this library
    /// carries them out. The runtime's end waits for that: a second at most, for all runtimes that end within
    /// ten seconds. `Runtime::shutdown_background` does not wait.
    ///
    /// # Cancellation
    /// The writes go on.
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

    /// The counters of every declaration in this cache.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::read(&self.inner.counters)
    }

    /// Tells this cache's answers in a request from another cache's.
    pub(crate) fn id(&self) -> u64 {
        self.inner.id
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

    /// The counters of the declaration with this index.
    pub(crate) fn counters_at(&self, index: usize) -> &Counters {
        &self.inner.counters[index]
    }

    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    pub(crate) fn flights(&self) -> &Arc<Flights> {
        &self.inner.flights
    }

    #[inline]
    pub(crate) fn local(&self) -> &Local {
        &self.inner.local
    }

    pub(crate) fn remote(&self) -> Option<&Arc<Remote>> {
        self.inner.remote.as_ref()
    }

    /// The key of an entry as it stands in memcached.
    pub(crate) fn key(&self, name: &'static str, key: &[u8]) -> Key {
        let namespace = self.inner.config.namespace.clone();
        Key::new(namespace, name, &canonical_bytes(name, key))
    }

    /// Takes the entry out of this process's tiers, and makes every fetch and read under way keep
    /// its result to itself.
    ///
    /// Returns a ticket for what replaces it; `None` where somebody else changed the entry since
    /// `before`, and what replaces it is theirs to say.
    pub(crate) fn remove_from_process(
        &self,
        key: &Arc<[u8]>,
        before: Option<Ticket>,
    ) -> Option<Ticket> {
        if let Some(request) = Request::current() {
            request.remove(self.id(), key);
        }
        let ticket = self.inner.local.invalidate(key, before);
        // After that: a leader that found the old value before is not joined by anybody who asks
        // once this has returned.
        self.inner.flights.detach(key);
        drop_aside();
        ticket
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
