//! For a program's own tests: a cache of the test's own, with a clock that the test moves and a
//! memcached in memory that fails, stalls or lies when it is told to. Needs the feature `testing`.
//!
//! ```toml
//! [dev-dependencies]
//! cached-core = { version = "0.1", features = ["testing"] }
//! ```
//!
//! Tests do not share entries, need no server and do not sleep:
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
//! assert_eq!(test.stats("testing_doc").fetches, 2); // after 31 minutes it does
//!
//! # #[cfg(feature = "memcached")]
//! test.memcached().fail();
//! assert!(test.run(payment("8", "paid")).await.is_ok()); // with memcached down it still answers
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
use crate::stats::DeclarationStats;
#[cfg(feature = "memcached")]
pub use memcached::TestMemcached;

/// A cache for one test: its tiers, its clock, its counters.
///
/// See [the module's example](crate::testing). A clone is the same cache.
#[derive(Debug, Clone)]
pub struct TestCache {
    cache: Cache,
    config: Config,
}

impl TestCache {
    /// With the tiers of a program in production: a local tier and, in a build with the feature
    /// `memcached`, a memcached in memory.
    #[must_use]
    pub fn new() -> TestCache {
        TestCache::of(Config::default().on_servers())
    }

    /// With a local tier alone, as a program in development has.
    #[must_use]
    pub fn local() -> TestCache {
        TestCache::of(Config::default())
    }

    /// With the settings of a builder, and the tiers of [`new`](Self::new): a memcached in memory
    /// stands at each address that the builder was given, and one where it was given none.
    ///
    /// # Errors
    /// As of [`CacheBuilder::build`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cached_core::{Cache, testing::TestCache};
    /// let test = TestCache::with(Cache::builder().default_ttl(Duration::from_secs(60)))?;
    /// # drop(test);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// ```
    pub fn with(builder: CacheBuilder) -> Result<TestCache, ConfigError> {
        Ok(TestCache::of(builder.into_config()?.on_servers()))
    }

    fn of(config: Config) -> TestCache {
        // A clock of its own, whatever else was made of a clone of the builder.
        let config = Config { clock: Clock::default(), ..config }.networked();
        TestCache { cache: Cache::new(config.clone()), config }
    }

    /// Another process of the same fleet: a local tier and counters of its own, the same memcached,
    /// the same time.
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

    /// The cache itself: for `cache = …`, or [`Cache::scope`].
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Runs the future with this cache as the current one, then waits until what it wrote to
    /// memcached is there, 10 s at most. Tasks that it spawns are outside of it.
    pub async fn run<F: Future>(&self, future: F) -> F::Output {
        let output = self.cache.scope(future).await;
        self.cache.flush().await;
        output
    }

    /// Moves the clock that the tiers count lifetimes by, also that of the other processes; at
    /// most by a hundred years in all. Nothing sleeps. What waits for a network (`remote_timeout`,
    /// `lease_wait`) goes by the runtime's time.
    pub fn advance(&self, by: Duration) {
        self.config.clock.advance(by);
    }

    /// What the function of this cache name did here: `fetches`, [`hits`](DeclarationStats::hits),
    /// `waits`, and more.
    ///
    /// # Panics
    /// Where no function of the program has the name, or several have: a test that asks for
    /// another name than it means must not pass.
    #[track_caller]
    #[must_use]
    pub fn stats(&self, name: &str) -> DeclarationStats {
        self.cache.stats().get(name).unwrap_or_else(|| {
            let names: Vec<&str> = ledger().iter().map(|declaration| declaration.name()).collect();
            panic!(
                "no function, or more than one, has the cache name `{name}`; the names are {names:?}"
            )
        })
    }
}

impl Default for TestCache {
    fn default() -> TestCache {
        TestCache::new()
    }
}

#[cfg(not(feature = "memcached"))]
impl Config {
    fn on_servers(self) -> Config {
        self
    }

    fn networked(self) -> Config {
        self
    }
}
