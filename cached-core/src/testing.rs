//! Tools for a program's own tests: a cache for one test, a clock that the test advances, and an
//! in-memory memcached. The memcached fails, stalls or lies on demand. The module needs the feature
//! `testing`.
//!
//! ```toml
//! [dev-dependencies]
//! cached-core = { version = "0.1", features = ["testing"] }
//! ```
//!
//! Tests share no entries, need no server and do not sleep:
//!
//! ```
//! # use std::time::Duration;
//! # use cached_core::{coordinator_cached, testing::TestCache};
//! #[coordinator_cached(name = "testing_doc", version = state)]
//! async fn payment(number: &str, state: &str) -> Result<String, std::io::Error> {
//!     Ok(format!("{number} is {state}"))
//! }
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let test = TestCache::new();
//! test.run(async { payment("7", "paid").await?; payment("7", "paid").await }).await?;
//! assert_eq!(test.stats("testing_doc").fetches, 1); // the second call does not fetch
//!
//! test.advance(Duration::from_secs(31 * 60));
//! test.run(payment("7", "paid")).await?;
//! assert_eq!(test.stats("testing_doc").fetches, 2); // after 31 minutes a call fetches
//!
//! # #[cfg(feature = "memcached")]
//! test.memcached().fail();
//! assert!(test.run(payment("8", "paid")).await.is_ok()); // memcached is down, the call succeeds
//! # Ok::<(), std::io::Error>(())
//! # }).unwrap();
//! ```

#[cfg(feature = "memcached")]
mod memcached;

use std::time::Duration;

use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::{CacheBuilder, Config};
use crate::declaration::ledger;
use crate::error::ConfigError;
use crate::round_trip::RoundTripFailures;
use crate::stats::DeclarationStats;
#[cfg(feature = "memcached")]
pub use memcached::TestMemcached;

/// A cache for one test, with its own tiers, clock and counters.
///
/// The documentation of the [module](crate::testing) has an example. A clone shares everything with
/// the original.
#[derive(Debug, Clone)]
pub struct TestCache {
    cache: Cache,
    config: Config,
}

impl TestCache {
    /// Returns a cache with the tiers of a program in production: a local tier and, with the
    /// feature `memcached`, an in-memory memcached.
    ///
    /// ```
    /// # use cached_core::{coordinator_cached, testing::TestCache};
    /// #[coordinator_cached(name = "new_doc", version = edition)]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let test = TestCache::new();
    /// test.run(course(1, 2)).await?;
    /// # #[cfg(feature = "memcached")]
    /// assert_eq!(test.stats("new_doc").fills, 1); // the value is in memcached too
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn new() -> TestCache {
        TestCache::of(Config::default().with_default_server())
    }

    /// Returns a cache with a local tier only, like the cache of a program in development.
    ///
    /// ```
    /// # use cached_core::{coordinator_cached, testing::TestCache};
    /// #[coordinator_cached(name = "local_doc", version = edition)]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let test = TestCache::local();
    /// test.run(async { course(1, 2).await?; course(1, 2).await }).await?;
    /// assert_eq!(test.stats("local_doc").local_hits, 1);
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn local() -> TestCache {
        TestCache::of(Config::default())
    }

    /// Returns a cache with the settings of a builder and the tiers of [`new`](Self::new).
    ///
    /// An in-memory memcached replaces each server that the builder was given. If the builder was
    /// given no server, the cache has one in-memory memcached.
    ///
    /// # Errors
    /// Returns the errors of [`CacheBuilder::build`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cached_core::{Cache, testing::TestCache};
    /// let test = TestCache::with(Cache::builder().default_ttl(Duration::from_secs(60)))?;
    /// # drop(test);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// ```
    pub fn with(builder: CacheBuilder) -> Result<TestCache, ConfigError> {
        Ok(TestCache::of(builder.into_config()?.with_default_server()))
    }

    fn of(config: Config) -> TestCache {
        // A clone of a builder shares the clock of the builder, and each test needs its own clock.
        let round_trip_failures = Some(RoundTripFailures::default());
        let config = Config { clock: Clock::default(), round_trip_failures, ..config };
        let config = config.with_in_memory_servers();
        TestCache { cache: Cache::new(config.clone()), config }
    }

    /// Returns a cache that acts like the cache of another process. The returned cache has its own
    /// local tier and counters, and shares memcached and the clock with this cache.
    ///
    /// ```
    /// # use cached_core::{coordinator_cached, testing::TestCache};
    /// # #[coordinator_cached(name = "another_process_doc", version = state)]
    /// # async fn payment(number: &str, state: &str) -> Result<String, std::io::Error> {
    /// #     Ok(format!("{number} is {state}"))
    /// # }
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let one = TestCache::new();
    /// let other = one.another_process();
    /// one.run(payment("7", "paid")).await?;
    /// other.run(payment("7", "paid")).await?;
    /// # #[cfg(feature = "memcached")]
    /// assert_eq!(other.stats("another_process_doc").remote_hits, 1);
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn another_process(&self) -> TestCache {
        TestCache { cache: Cache::new(self.config.clone()), config: self.config.clone() }
    }

    /// Returns the cache itself, for the attribute's option `cache = …` and for [`Cache::scope`].
    ///
    /// ```
    /// # use cached_core::testing::TestCache;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let test = TestCache::new();
    /// test.cache().scope(async { /* calls here use the cache */ }).await;
    /// # });
    /// ```
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Runs the future with this cache as the current cache, then waits up to 10 seconds for the
    /// background writes to memcached. Tasks that the future spawns do not use this cache.
    ///
    /// # Panics
    /// Panics if a value comes back from memcached changed, for example because a field is
    /// `#[serde(skip)]`. The message names the function. The test cache checks values whose type
    /// implements `Debug` and not `PartialEq`: it compares the `Debug` texts of the original and of
    /// the decoded value. (Values whose type implements `PartialEq` need no such check. In
    /// production too, the cache compares them, and does not store a value in memcached that would
    /// change.)
    ///
    /// Values that are stored outside of `run` are checked when the cache is dropped. A
    /// [`local`](Self::local) cache stores nothing in memcached, so it checks nothing.
    ///
    /// # Cancellation
    /// Dropping the returned future drops the given future. Writes that have begun continue.
    ///
    /// ```
    /// # use cached_core::{coordinator_cached, testing::TestCache};
    /// #[coordinator_cached(name = "run_doc", version = edition)]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// assert_eq!(TestCache::new().run(course(1, 2)).await?, "course 1, edition 2");
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn run<F: Future>(&self, future: F) -> F::Output {
        let output = self.cache.scope(future).await;
        self.cache.flush().await;
        self.panic_on_round_trip_failures();
        output
    }

    /// Panics if a stored value would come back from memcached with another `Debug` text.
    fn panic_on_round_trip_failures(&self) {
        let failures = self.config.round_trip_failures.as_ref().map(RoundTripFailures::take);
        let failures = failures.unwrap_or_default();
        assert!(
            failures.is_empty(),
            "a value comes back from memcached changed; derive `PartialEq` for its type, and such values stay \
             out of memcached; or write the whole value:\n{}",
            failures.join("\n")
        );
    }

    /// Advances the clock without sleeping. The sum of all advances is limited to a hundred years.
    ///
    /// The clock decides when entries expire. The caches of
    /// [`another_process`](Self::another_process) share the clock. Waits for the network
    /// (`remote_timeout`, `lease_wait`) do not use this clock.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cached_core::{coordinator_cached, testing::TestCache};
    /// #[coordinator_cached(name = "advance_doc", version = edition, ttl = "5m")]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let test = TestCache::new();
    /// test.run(course(1, 2)).await?;
    /// test.advance(Duration::from_secs(6 * 60));
    /// test.run(course(1, 2)).await?;
    /// assert_eq!(test.stats("advance_doc").fetches, 2);
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn advance(&self, by: Duration) {
        self.config.clock.advance(by);
    }

    /// Returns the counters of the function with this cache name: `fetches`,
    /// [`hits`](DeclarationStats::hits), `waits` and more.
    ///
    /// # Panics
    /// Panics if no function has the name, so a misspelt name fails the test. Panics also if
    /// several functions share the name.
    ///
    /// ```
    /// # use cached_core::{coordinator_cached, testing::TestCache};
    /// #[coordinator_cached(name = "counters_doc", version = edition)]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let test = TestCache::new();
    /// test.run(async { course(1, 2).await?; course(1, 2).await }).await?;
    /// let stats = test.stats("counters_doc");
    /// assert_eq!((stats.fetches, stats.hits()), (1, 1));
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    #[track_caller]
    #[must_use]
    pub fn stats(&self, name: &str) -> DeclarationStats {
        self.cache.stats().get(name).unwrap_or_else(|| {
            let names: Vec<&str> = ledger().iter().map(|declaration| declaration.name()).collect();
            match names.contains(&name) {
                true => panic!(
                    "the function with the cache name `{name}` is not cached: {:?}",
                    ledger().audit()
                ),
                false => panic!("no function has the cache name `{name}`; the names are {names:?}"),
            }
        })
    }
}

impl Drop for TestCache {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.panic_on_round_trip_failures();
        }
    }
}

impl Default for TestCache {
    fn default() -> TestCache {
        TestCache::new()
    }
}

#[cfg(not(feature = "memcached"))]
impl Config {
    fn with_default_server(self) -> Config {
        self
    }

    fn with_in_memory_servers(self) -> Config {
        self
    }
}
