//! Configuration: the builder and `CACHE_URL`.

#[cfg(feature = "memcached")]
mod memcached;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::Cache;
use crate::clock::Clock;
use crate::declaration::DEFAULT_TTL;
use crate::error::ConfigError;

/// A cache's configuration, checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) namespace: Option<Arc<str>>,
    pub(crate) local_capacity: u64,
    #[cfg(feature = "memcached")]
    pub(crate) servers: Vec<String>,
    #[cfg(feature = "memcached")]
    pub(crate) remote_timeout: Duration,
    pub(crate) lease: Option<Duration>,
    pub(crate) lease_wait: Option<Duration>,
    pub(crate) jitter: f64,
    pub(crate) default_ttl: Duration,
    pub(crate) clock: Clock,
    /// A test's servers, which stand at the addresses of its own.
    #[cfg(all(feature = "memcached", feature = "testing"))]
    pub(crate) network: Option<crate::tier::remote::memory::InMemoryServers>,
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
            lease_wait: None,
            jitter: 0.0,
            default_ttl: DEFAULT_TTL,
            clock: Clock::default(),
            #[cfg(all(feature = "memcached", feature = "testing"))]
            network: None,
        }
    }
}

/// Builds a [`Cache`]; start with [`Cache::builder`].
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
    /// Bounds the memory that the entries of the local tier take, in bytes. 64 MiB by default; 0 keeps nothing
    /// locally.
    ///
    /// An entry counts with its key, with what its value takes in memory, and with 540 bytes for the tier's own
    /// records of it. A value counts with its `size_of` and with what it owns on the heap: texts, and the elements
    /// of sequences and maps, as far as its `Serialize` shows them and at the size that they have in memory. What
    /// several entries share behind an `Arc` counts for each. Where that is not good enough, as for a value with a
    /// large field that is `#[serde(skip)]`, the function says it: `weight = |value| …`.
    ///
    /// A sequence whose elements are all `None`, or all of an enum's small variants, counts for less than it
    /// takes: there serde shows no size. Say it with the option `weight`.
    ///
    /// A process of one thread grew by 104 to 127 percent of this bound with values of eight kinds, from one number to
    /// nested maps. What is freed stays with the program's allocator, which may keep more where many threads allocate
    /// large values.
    ///
    /// A value that goes for want of room is freed in the course of later calls, and one that has expired in the
    /// seconds after that, by a thread of the library's own, `cached-sweeper`. The last few dozen values
    /// that a thread took out may wait for more.
    pub fn local_capacity(mut self, bytes: u64) -> CacheBuilder {
        self.config.local_capacity = bytes;
        self
    }

    /// Shortens each entry's lifetime by a random part of up to this fraction, 0 to 1, so that
    /// entries that were stored together do not expire together. 0 by default.
    pub fn jitter(mut self, fraction: f64) -> CacheBuilder {
        self.config.jitter = fraction;
        self
    }

    /// The ttl of functions that declare none. 30 minutes by default.
    pub fn default_ttl(mut self, ttl: Duration) -> CacheBuilder {
        self.config.default_ttl = ttl;
        self
    }

    /// Checks the configuration and builds the cache. Nothing is dialled yet.
    ///
    /// # Errors
    /// One line for the first part that is wrong: which, why, and what to write.
    pub async fn build(self) -> Result<Cache, ConfigError> {
        self.config.check()?;
        Ok(Cache::new(self.config))
    }

    /// The configuration, once it is checked.
    #[cfg(feature = "testing")]
    pub(crate) fn checked(self) -> Result<Config, ConfigError> {
        self.config.check().map(|()| self.config)
    }

    /// Reads the value of `CACHE_URL`; `None` is the switch `off`.
    pub(crate) fn from_url(url: &str) -> Result<Option<CacheBuilder>, ConfigError> {
        let builder = CacheBuilder::default();
        match url.trim() {
            "off" => Ok(None),
            "" | "local:" => Ok(Some(builder)),
            url => CacheBuilder::from_remote_url(url).map(Some),
        }
    }

    #[cfg(not(feature = "memcached"))]
    fn from_remote_url(url: &str) -> Result<CacheBuilder, ConfigError> {
        let (is_memcached, url) = (url.starts_with("memcache://"), without_password(url));
        Err(ConfigError::new(match is_memcached {
            true => format!(
                "`{url}` is memcached, which this program was built without; turn the feature `memcached` of cached-core on in its Cargo.toml, or write `local:` or `off`"
            ),
            false => format!("`{url}` is no cache; write `local:` or `off`"),
        }))
    }
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        #[cfg(feature = "memcached")]
        self.check_memcached()?;
        let error = |message: String| Err(ConfigError::new(message));
        if !(0.0..=1.0).contains(&self.jitter) {
            return error(format!("the jitter {} is no fraction; write 0 to 1", self.jitter));
        }
        if self.default_ttl.is_zero() {
            return error(
                "the default ttl is zero; write for instance 30m, or turn the cache off".into(),
            );
        }
        Ok(())
    }
}

/// What is said of a URL or an address: not what stands before an `@`, which may be a password.
fn without_password(text: &str) -> Cow<'_, str> {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("…@{rest}").into(),
        None => text.into(),
    }
}

#[cfg(all(test, not(feature = "memcached")))]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_memcached_says_what_is_missing() {
        let mistake = |url| CacheBuilder::from_url(url).expect_err(url).to_string();
        let error = mistake("memcache://a:11211?namespace=shop");
        assert!(error.contains("feature `memcached`") && error.contains("`local:`"), "{error}");
        assert!(!error.contains('\n'), "{error}");
        assert_eq!(mistake("redis://a:1"), "`redis://a:1` is no cache; write `local:` or `off`");
        for url in ["memcache://me:secret@a:1", "redis://me:secret@a:1"] {
            let error = mistake(url);
            assert!(error.contains("`…@a:1`") && !error.contains("secret"), "{error}");
        }
        assert!(CacheBuilder::from_url("off").expect("fits").is_none());
        assert!(CacheBuilder::from_url("local:").expect("fits").is_some());
    }
}
