//! Configuration: the settings of a cache, the builder that collects them, and `CACHE_URL`.
//!
//! This module collects and checks the settings in a [`Config`]. The module `cache` builds a cache
//! from it.

#[cfg(feature = "memcached")]
mod memcached;
mod quantity;
mod url;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::error::{ConfigError, ConfigErrorKind};
use crate::event::{Observer, ObserverList};
use crate::round_trip::RoundTripFailures;
#[cfg(feature = "memcached")]
pub(crate) use memcached::check_servers;

/// The time to live of an entry if neither the function nor the builder sets one.
const DEFAULT_TTL: Duration = Duration::from_secs(30 * 60);

/// The settings of one cache.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) namespace: Option<Arc<str>>,
    pub(crate) local_capacity: u64,
    #[cfg(feature = "memcached")]
    pub(crate) servers: Vec<String>,
    #[cfg(feature = "memcached")]
    pub(crate) remote_timeout: Duration,
    pub(crate) lease: Option<Duration>,
    #[cfg(feature = "memcached")]
    pub(crate) lease_wait: Option<Duration>,
    pub(crate) jitter: f64,
    pub(crate) default_ttl: Duration,
    pub(crate) clock: Clock,
    pub(crate) observers: ObserverList,
    /// In tests, collects a message for each value whose `Debug` output differs after it was
    /// encoded and decoded.
    pub(crate) round_trip_failures: Option<RoundTripFailures>,
    /// In tests, the servers that replace memcached.
    #[cfg(all(feature = "memcached", feature = "testing"))]
    pub(crate) in_memory_servers: Option<crate::tier::remote::memory::InMemoryServers>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            namespace: None,
            local_capacity: 64 << 20,
            #[cfg(feature = "memcached")]
            servers: Vec::new(),
            #[cfg(feature = "memcached")]
            remote_timeout: Duration::from_millis(100),
            lease: None,
            #[cfg(feature = "memcached")]
            lease_wait: None,
            jitter: 0.0,
            default_ttl: DEFAULT_TTL,
            clock: Clock::default(),
            observers: ObserverList::default(),
            round_trip_failures: None,
            #[cfg(all(feature = "memcached", feature = "testing"))]
            in_memory_servers: None,
        }
    }
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        #[cfg(feature = "memcached")]
        self.check_memcached()?;
        let invalid = |message: String| Err(ConfigError::new(ConfigErrorKind::Value, message));
        if !(0.0..=1.0).contains(&self.jitter) {
            return invalid(format!("the jitter {} is not a fraction; write 0 to 1", self.jitter));
        }
        if self.default_ttl.is_zero() {
            return invalid(
                "the default ttl is zero; write for example 30m, or turn the cache off".into(),
            );
        }
        Ok(())
    }
}

/// A builder that collects the settings of a [`Cache`](crate::Cache).
///
/// [`Cache::builder`](crate::Cache::builder) returns a builder with the default settings, which
/// build a local cache of 64 MiB. The method `build` checks all settings together.
///
/// ```
/// # use std::time::Duration;
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let cache = cached_core::Cache::builder()
///     .local_capacity(256 << 20)
///     .default_ttl(Duration::from_secs(60))
///     .build()
///     .await?;
/// # drop(cache);
/// # Ok::<(), cached_core::ConfigError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until `.build().await`"]
pub struct CacheBuilder {
    config: Config,
}

impl CacheBuilder {
    /// Sets the memory, in bytes, that the entries of the local tier may take. The default is
    /// 64 MiB; 0 turns the local tier off.
    ///
    /// An entry counts as its key, its value and 540 bytes for the tier's own records. A value
    /// counts as its `size_of` plus the memory that it owns on the heap: strings, and the elements
    /// of sequences and maps. The library finds strings and elements through the value's
    /// `Serialize`. If several entries share a value behind an `Arc`, the value counts once for
    /// each entry.
    ///
    /// Some kinds of values take more memory than this estimate:
    ///
    /// - values with a large field under `#[serde(skip)]`
    /// - sequences that hold only `None` or only small variants of an enum
    /// - values with unused capacity, or with many small boxes
    /// - values without serde (`remote = false`) that own more than one block on the heap
    ///
    /// If a function returns such values, declare its option `weight = |value| …`. This closure
    /// returns the size of the value in bytes, and replaces the estimate.
    ///
    /// In measurements with eight kinds of values, a process with one thread grew by 104 to 127
    /// percent of this setting. The program's allocator keeps some freed memory for later, and more
    /// of it if many threads allocate large values.
    ///
    /// If a value is evicted to make room, a later call frees the value. The thread
    /// `cached-sweeper` removes an expired value within seconds. Threads free removed values in
    /// batches: each thread can hold a few dozen of them until it removes more.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = cached_core::Cache::builder().local_capacity(256 << 20).build().await?;
    /// # drop(cache);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn local_capacity(mut self, bytes: u64) -> CacheBuilder {
        self.config.local_capacity = bytes;
        self
    }

    /// Shortens the time to live of each entry by a random amount, up to this fraction (0 to 1) of
    /// the time to live. The default is 0.
    ///
    /// With jitter, entries that are stored together do not expire together.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// // An entry with a ttl of 30 minutes lives 27 to 30 minutes.
    /// let cache = cached_core::Cache::builder().jitter(0.1).build().await?;
    /// # drop(cache);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn jitter(mut self, fraction: f64) -> CacheBuilder {
        self.config.jitter = fraction;
        self
    }

    /// Sets the time to live for functions that declare no `ttl`. The default is 30 minutes.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let ttl = Duration::from_secs(60);
    /// let cache = cached_core::Cache::builder().default_ttl(ttl).build().await?;
    /// # drop(cache);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn default_ttl(mut self, ttl: Duration) -> CacheBuilder {
        self.config.default_ttl = ttl;
        self
    }

    /// Adds an observer, which receives the events of the cache. By default there is none.
    ///
    /// The method may be called several times, and each observer receives every event. A slow or
    /// panicking observer harms no call: see [`Observer`]. Most hits in the process's own memory
    /// emit no event; the module [`event`](crate::event) says why, and has examples.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use cached_core::{Cache, Event, Observer};
    /// struct LogMisses;
    ///
    /// impl Observer for LogMisses {
    ///     fn event(&self, event: &Event<'_>) {
    ///         if let Event::FetchEnded { entry, took, .. } = event {
    ///             println!("fetched `{}` in {took:?}", entry.name());
    ///         }
    ///     }
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::builder().observer(Arc::new(LogMisses)).build().await?;
    /// # drop(cache);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> CacheBuilder {
        self.config.observers.push(observer);
        self
    }

    /// Checks all settings and returns them.
    pub(crate) fn into_config(self) -> Result<Config, ConfigError> {
        self.config.check()?;
        Ok(self.config)
    }
}
