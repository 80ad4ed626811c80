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
//! test.memcached().fail();
//! assert!(test.run(payment("8", "paid")).await.is_ok()); // with memcached down it still answers
//! # Ok::<(), std::io::Error>(())
//! # }).unwrap();
//! ```

use std::sync::Arc;
use std::time::Duration;

use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::{CacheBuilder, Config};
use crate::declaration::ledger;
use crate::error::ConfigError;
use crate::key::Key;
use crate::stats::DeclarationStats;
use crate::tier::remote::memory::{Conduct, Memory, Network};

/// Where the memcached of a test stands that names no address.
const ADDRESS: &str = "memcached:11211";

/// A cache for one test: its tiers, its clock, its counters.
///
/// See [the module's example](crate::testing). A clone is the same cache.
#[derive(Debug, Clone)]
pub struct TestCache {
    cache: Cache,
    config: Config,
    network: Network,
}

impl TestCache {
    /// With a local tier and a memcached in memory, as a program in production has.
    #[must_use]
    pub fn new() -> TestCache {
        TestCache::of(Config { servers: vec![ADDRESS.to_owned()], ..Config::default() })
    }

    /// With a local tier alone, as a program in development has.
    #[must_use]
    pub fn local() -> TestCache {
        TestCache::of(Config::default())
    }

    /// With the settings of a builder. At each address that it gives to
    /// [`memcached`](CacheBuilder::memcached) stands a memcached in memory; where it gives none
    /// there is one all the same.
    ///
    /// # Errors
    /// As of [`CacheBuilder::build`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cached_core::{Cache, testing::TestCache};
    /// let builder = Cache::builder().memcached(["a:11211", "b:11211"]);
    /// let test = TestCache::with(builder.remote_timeout(Duration::from_millis(10)))?;
    /// test.memcached_at("b:11211").stall();
    /// # Ok::<(), cached_core::ConfigError>(())
    /// ```
    pub fn with(builder: CacheBuilder) -> Result<TestCache, ConfigError> {
        let mut config = builder.checked()?;
        if config.servers.is_empty() {
            config.servers.push(ADDRESS.to_owned());
        }
        Ok(TestCache::of(config))
    }

    fn of(config: Config) -> TestCache {
        // A clock of its own, whatever else was made of a clone of the builder.
        let clock = Clock::default();
        let network = Network::new(clock.clone());
        let config = Config { clock, network: Some(network.clone()), ..config };
        TestCache { cache: Cache::new(config.clone()), config, network }
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
    /// assert_eq!(other.stats("another_process_doc").remote_hits, 1);
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn another_process(&self) -> TestCache {
        TestCache { cache: Cache::new(self.config.clone()), ..self.clone() }
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

    /// The memcached; of several the first. Of a cache that is [`local`](Self::local) nobody asks it.
    #[must_use]
    pub fn memcached(&self) -> TestMemcached {
        let address = self.config.servers.first().map_or(ADDRESS, String::as_str);
        TestMemcached { memory: self.network.at(address) }
    }

    /// The memcached at an address (`host:port`), as it was given to the builder or to
    /// [`Cache::set_memcached`].
    ///
    /// # Panics
    /// Where no server was given that address: a test that breaks another one than it means must
    /// not pass.
    #[track_caller]
    #[must_use]
    pub fn memcached_at(&self, address: &str) -> TestMemcached {
        let servers = &self.config.servers;
        let is_now = || self.cache.remote().is_some_and(|remote| remote.has(address));
        let is_given = servers.iter().any(|server| server == address) || is_now();
        assert!(is_given, "no memcached is at `{address}`; those given are at {servers:?}");
        TestMemcached { memory: self.network.at(address) }
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

/// A memcached in memory. It answers as a server does, until it is told otherwise.
#[derive(Debug, Clone)]
pub struct TestMemcached {
    memory: Arc<Memory>,
}

impl TestMemcached {
    /// Goes down: every exchange fails at once. After three failures the server is ejected.
    pub fn fail(&self) {
        self.memory.conduct(Conduct::Down);
    }

    /// Hangs: no exchange is answered. Each waits for its `remote_timeout`, until the server is
    /// ejected.
    pub fn stall(&self) {
        self.memory.conduct(Conduct::Stalled);
    }

    /// Lies: answers reads with other keys' entries, truncated and garbled ones, rights that it did
    /// not give, or nothing; says of writes that they went well, and keeps none.
    pub fn lie(&self) {
        self.memory.conduct(Conduct::Lying);
    }

    /// Answers honestly again, with what it had. A server that was ejected is asked again after a
    /// pause: [`advance`](TestCache::advance) the clock by a minute.
    pub fn recover(&self) {
        self.memory.conduct(Conduct::Honest);
    }

    /// Forgets everything, as a restart does.
    pub fn clear(&self) {
        self.memory.clear();
    }

    /// How many commands it has taken: reads, fills, deletes.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.memory.commands()
    }

    /// Whether it has a value under the key, as `payment_entry(…).key()` gives it.
    #[must_use]
    pub fn holds(&self, key: &Key) -> bool {
        self.memory.holds(&key.to_string())
    }
}
