//! The memcached of a test.

use std::sync::Arc;

use super::TestCache;
use crate::config::Config;
use crate::key::Key;
use crate::tier::remote::memory::{InMemoryServer, InMemoryServers, ServerBehaviour};

/// Where the memcached of a test stands that names no address.
const ADDRESS: &str = "memcached:11211";

impl Config {
    /// With a server, where it has none.
    pub(super) fn on_servers(mut self) -> Config {
        if self.servers.is_empty() {
            self.servers.push(ADDRESS.to_owned());
        }
        self
    }

    /// With servers in memory, which go by its clock.
    pub(super) fn networked(self) -> Config {
        Config { network: Some(InMemoryServers::new(self.clock.clone())), ..self }
    }
}

/// Of memcached. These need the feature `memcached`, which is on by default.
impl TestCache {
    /// The memcached; of several the first. Of a cache that is [`local`](Self::local) nobody asks it.
    #[must_use]
    pub fn memcached(&self) -> TestMemcached {
        let address = self.config.servers.first().map_or(ADDRESS, String::as_str);
        self.at(address)
    }

    /// The memcached at an address (`host:port`), as it was given to the builder or to
    /// [`Cache::set_memcached`](crate::Cache::set_memcached).
    ///
    /// # Panics
    /// Where no server was given that address: a test that breaks another one than it means must
    /// not pass.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cached_core::{Cache, testing::TestCache};
    /// let builder = Cache::builder().memcached(["a:11211", "b:11211"]);
    /// let test = TestCache::with(builder.remote_timeout(Duration::from_millis(10)))?;
    /// test.memcached_at("b:11211").stall();
    /// # Ok::<(), cached_core::ConfigError>(())
    /// ```
    #[track_caller]
    #[must_use]
    pub fn memcached_at(&self, address: &str) -> TestMemcached {
        let servers = &self.config.servers;
        let is_now = || self.cache.remote().is_some_and(|remote| remote.has(address));
        let is_given = servers.iter().any(|server| server == address) || is_now();
        assert!(is_given, "no memcached is at `{address}`; those given are at {servers:?}");
        self.at(address)
    }

    fn at(&self, address: &str) -> TestMemcached {
        let network = self.config.network.as_ref().expect("every test's cache has one");
        TestMemcached { memory: network.at(address) }
    }
}

/// A memcached in memory. It answers as a server does, until it is told otherwise. Needs the feature
/// `memcached`, which is on by default.
#[derive(Debug, Clone)]
pub struct TestMemcached {
    memory: Arc<InMemoryServer>,
}

impl TestMemcached {
    /// Goes down: every exchange fails at once. After three failures the server is ejected.
    pub fn fail(&self) {
        self.memory.set_behaviour(ServerBehaviour::Down);
    }

    /// Hangs: no exchange is answered. Each waits for its `remote_timeout`, until the server is
    /// ejected.
    pub fn stall(&self) {
        self.memory.set_behaviour(ServerBehaviour::Stalled);
    }

    /// Lies: answers reads with other keys' entries, truncated and garbled ones, rights that it did
    /// not give, or nothing; says of writes that they went well, and keeps none.
    pub fn lie(&self) {
        self.memory.set_behaviour(ServerBehaviour::Lying);
    }

    /// Answers honestly again, with what it had. A server that was ejected is asked again after a
    /// pause: [`advance`](TestCache::advance) the clock by a minute.
    pub fn recover(&self) {
        self.memory.set_behaviour(ServerBehaviour::Honest);
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
