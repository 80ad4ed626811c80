//! The in-memory memcached that a test cache uses in place of real servers.

use std::sync::Arc;

use super::TestCache;
use crate::config::Config;
use crate::key::Key;
use crate::tier::remote::memory::{InMemoryServer, InMemoryServers, ServerBehaviour};

/// The address of the in-memory memcached if the test gives no address.
const DEFAULT_ADDRESS: &str = "memcached:11211";

impl Config {
    /// Adds a server at the default address if there is no server.
    pub(super) fn with_default_server(mut self) -> Config {
        if self.servers.is_empty() {
            self.servers.push(DEFAULT_ADDRESS.to_owned());
        }
        self
    }

    /// Replaces the network with in-memory servers that use the clock of this configuration.
    pub(super) fn with_in_memory_servers(self) -> Config {
        Config { in_memory_servers: Some(InMemoryServers::new(self.clock.clone())), ..self }
    }
}

/// The in-memory memcached of a test cache. These methods need the feature `memcached`, which is on
/// by default.
impl TestCache {
    /// Returns the in-memory memcached, or the first if there are several.
    ///
    /// A [`local`](Self::local) test cache never contacts this memcached.
    ///
    /// ```
    /// # use cached_core::{coordinator_cached, testing::TestCache};
    /// #[coordinator_cached(name = "memcached_doc", version = edition)]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let test = TestCache::new();
    /// test.memcached().fail();
    /// assert!(test.run(course(1, 2)).await.is_ok()); // the call fetches
    /// # });
    /// ```
    #[must_use]
    pub fn memcached(&self) -> TestMemcached {
        let address = self.config.servers.first().map_or(DEFAULT_ADDRESS, String::as_str);
        self.server(address)
    }

    /// Returns the in-memory memcached at an address. The address is a `host:port` that was given
    /// to the builder or to [`Cache::set_memcached`](crate::Cache::set_memcached).
    ///
    /// # Panics
    /// Panics if no server has the address, so that a test with a misspelt address fails.
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
        let was_added = || self.cache.remote().is_some_and(|remote| remote.has_server(address));
        let is_known = servers.iter().any(|server| server == address) || was_added();
        assert!(is_known, "no memcached is at `{address}`; the addresses are {servers:?}");
        self.server(address)
    }

    fn server(&self, address: &str) -> TestMemcached {
        let servers = self.config.in_memory_servers.as_ref();
        let servers = servers.expect("every test cache has in-memory servers");
        TestMemcached { server: servers.at(address) }
    }
}

/// An in-memory memcached, which acts like a real server until a test makes it fail, stall or lie.
///
/// [`TestCache::memcached`] returns it. The type needs the feature `memcached`, which is on by
/// default.
///
/// ```
/// # use std::time::Duration;
/// # use cached_core::{coordinator_cached, testing::TestCache};
/// #[coordinator_cached(name = "test_memcached_doc", version = edition, entry = course_entry)]
/// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
///     Ok(format!("course {id}, edition {edition}"))
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let test = TestCache::new();
/// let key = test.run(async { course_entry(1, 2).key() }).await;
/// test.run(course(1, 2)).await?;
/// assert!(test.memcached().holds(&key));
/// assert!(test.memcached().commands() > 0);
///
/// test.memcached().clear(); // as after a restart
/// assert!(!test.memcached().holds(&key));
///
/// for misbehave in [TestMemcached::fail, TestMemcached::stall, TestMemcached::lie] {
///     misbehave(&test.memcached());
///     test.run(course(3, 2)).await?; // the call succeeds although memcached fails
/// }
/// test.memcached().recover();
/// test.advance(Duration::from_secs(60)); // the cache tries a failed server again after a pause
/// # use cached_core::testing::TestMemcached;
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct TestMemcached {
    server: Arc<InMemoryServer>,
}

impl TestMemcached {
    /// Makes every exchange fail at once. After three failures the cache ejects the server: it does
    /// not use the server for a while.
    pub fn fail(&self) {
        self.server.set_behaviour(ServerBehaviour::Down);
    }

    /// Makes the server stop answering. Each exchange takes the whole `remote_timeout`, until the
    /// cache ejects the server; see [`fail`](Self::fail).
    pub fn stall(&self) {
        self.server.set_behaviour(ServerBehaviour::Stalled);
    }

    /// Makes the server answer wrongly. Reads return entries of other keys, truncated or garbled
    /// entries, leases (rights to fetch) that were not granted, or nothing. Writes are confirmed,
    /// but not stored.
    pub fn lie(&self) {
        self.server.set_behaviour(ServerBehaviour::Lying);
    }

    /// Makes the server answer correctly again, with the entries that it had before.
    ///
    /// The cache tries an ejected server again after a pause. To end the pause, call
    /// [`advance`](TestCache::advance) with a minute.
    pub fn recover(&self) {
        self.server.set_behaviour(ServerBehaviour::Honest);
    }

    /// Removes every entry, as a restart of the server does.
    pub fn clear(&self) {
        self.server.clear();
    }

    /// Returns the number of commands that the server has received: reads, fills and deletes.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.server.commands()
    }

    /// Returns true if the server holds a value under this key. The method `key()` of an entry
    /// returns the key.
    #[must_use]
    pub fn holds(&self, key: &Key) -> bool {
        self.server.holds(&key.to_string())
    }
}
