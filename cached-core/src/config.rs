//! Configuration: the builder and `CACHE_URL`.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::Cache;
use crate::clock::Clock;
use crate::declaration::DEFAULT_TTL;
use crate::error::ConfigError;

/// The longest namespace; with it a remote key has at most 250 bytes: 64 + 48 + 64 and two colons.
const NAMESPACE_LIMIT: usize = 64;

/// Nobody waits longer than this for anything.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// A cache's configuration, checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) namespace: Option<Arc<str>>,
    pub(crate) local_capacity: u64,
    pub(crate) servers: Vec<String>,
    pub(crate) remote_timeout: Duration,
    pub(crate) lease: Option<Duration>,
    pub(crate) lease_wait: Option<Duration>,
    pub(crate) jitter: f64,
    pub(crate) default_ttl: Duration,
    pub(crate) clock: Clock,
    /// A test's servers, which stand at the addresses of its own.
    #[cfg(feature = "testing")]
    pub(crate) network: Option<crate::tier::remote::memory::Network>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            namespace: None,
            local_capacity: 64 << 20,
            servers: Vec::new(),
            remote_timeout: Duration::from_millis(100),
            lease: None,
            lease_wait: None,
            jitter: 0.0,
            default_ttl: DEFAULT_TTL,
            clock: Clock::default(),
            #[cfg(feature = "testing")]
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
///     .namespace("shop")
///     .memcached(["127.0.0.1:11211"])
///     .remote_timeout(Duration::from_millis(50))
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
    /// Prefix of every key in memcached, so that deployments can share servers:
    /// `[a-z0-9][a-z0-9._-]{0,63}`. None by default.
    pub fn namespace(mut self, namespace: impl AsRef<str>) -> CacheBuilder {
        self.config.namespace = Some(namespace.as_ref().into());
        self
    }

    /// Bound of the local tier in bytes: keys, encoded values and 64 bytes an entry. 64 MiB by
    /// default; 0 keeps nothing locally.
    pub fn local_capacity(mut self, bytes: u64) -> CacheBuilder {
        self.config.local_capacity = bytes;
        self
    }

    /// The memcached servers, as `host:port`. None by default: then there is no remote tier.
    /// Names are resolved on first use and again after a failure, so that neither a name that does
    /// not resolve nor a server that is down keeps the program from starting.
    pub fn memcached<S: AsRef<str>>(
        mut self,
        servers: impl IntoIterator<Item = S>,
    ) -> CacheBuilder {
        self.config.servers =
            servers.into_iter().map(|server| server.as_ref().to_owned()).collect();
        self
    }

    /// The longest that a call's exchange with memcached may take, dialling included, and so the
    /// most that a failing server adds to it. 100 ms by default. With several servers each has
    /// three quarters of it: the rest is for the one that stands in.
    pub fn remote_timeout(mut self, timeout: Duration) -> CacheBuilder {
        self.config.remote_timeout = timeout;
        self
    }

    /// How long the right to fill an entry lasts, in whole seconds: a process that is killed while
    /// it fetches holds the others up for so long at most. 5 s by default, or four times as long
    /// as the function's fetches were seen to take, whichever is longer.
    pub fn lease(mut self, lease: Duration) -> CacheBuilder {
        self.config.lease = Some(lease);
        self
    }

    /// How long a call waits for the process that holds the lease before it fetches for itself,
    /// without storing. Twice as long as the function's fetches were seen to take by default; as
    /// long as the lease until one was seen.
    pub fn lease_wait(mut self, wait: Duration) -> CacheBuilder {
        self.config.lease_wait = Some(wait);
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
            url => match url.split_once("://") {
                Some(("memcache", rest)) => builder.memcache_url(rest).map(Some),
                _ => Err(ConfigError::new(format!(
                    "`{url}` is no cache; write `local:`, `off` or `memcache://host:11211,host:11211?namespace=shop&timeout=50ms`"
                ))),
            },
        }
    }

    fn memcache_url(mut self, rest: &str) -> Result<CacheBuilder, ConfigError> {
        let (servers, query) = rest.split_once('?').unwrap_or((rest, ""));
        self = self.memcached(servers.trim_end_matches('/').split(','));
        let mut seen: Vec<&str> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(ConfigError::new(format!("`{pair}` has no value; write `{pair}=…`")));
            };
            if seen.contains(&name) {
                return Err(ConfigError::new(format!("`{name}` is given twice; give it once")));
            }
            seen.push(name);
            self = match name {
                "namespace" => self.namespace(value),
                "timeout" => self.remote_timeout(duration(name, value)?),
                "lease" => self.lease(duration(name, value)?),
                "lease_wait" => self.lease_wait(duration(name, value)?),
                "ttl" => self.default_ttl(duration(name, value)?),
                "jitter" => self.jitter(number(name, value)?),
                "local_capacity" => self.local_capacity(number(name, value)?),
                _ => {
                    return Err(ConfigError::new(format!(
                        "`{name}` is no setting; there are namespace, timeout, lease, lease_wait, ttl, jitter and local_capacity"
                    )));
                }
            };
        }
        Ok(self)
    }
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        let error = |message: String| Err(ConfigError::new(message));
        if let Some(namespace) = &self.namespace {
            let fits = namespace.len() <= NAMESPACE_LIMIT
                && namespace.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && namespace
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
            if !fits {
                return error(format!(
                    "the namespace `{namespace}` does not fit; write 1 to {NAMESPACE_LIMIT} of a-z, 0-9, `.`, `_`, `-`, a letter or digit first"
                ));
            }
        }
        check_servers(&self.servers)?;
        if self.remote_timeout.is_zero() || self.remote_timeout > LONGEST_WAIT {
            return error(format!(
                "the timeout {:?} is not between nothing and an hour; write for instance 50ms",
                self.remote_timeout
            ));
        }
        if self.lease.into_iter().chain(self.lease_wait).any(|wait| wait > LONGEST_WAIT) {
            return error("the lease or its wait is over an hour; write for instance 5s".into());
        }
        if self.lease.is_some_and(|lease| lease < Duration::from_secs(1)) {
            return error(
                "the lease is under a second, which memcached cannot count; write 1s or more"
                    .into(),
            );
        }
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

pub(crate) fn check_servers(servers: &[String]) -> Result<(), ConfigError> {
    for (index, server) in servers.iter().enumerate() {
        check_server(server)?;
        if servers[..index].contains(server) {
            let twice = format!("the server `{server}` is given twice; give it once");
            return Err(ConfigError::new(twice));
        }
    }
    Ok(())
}

fn check_server(server: &str) -> Result<(), ConfigError> {
    let error = |why: &str| {
        Err(ConfigError::new(format!(
            "the server `{server}` {why}; write `host:port`, for instance `127.0.0.1:11211`"
        )))
    };
    if server.is_empty() {
        return error("is empty");
    }
    let Some((host, port)) = server.rsplit_once(':') else {
        return error("has no port");
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !bracketed) {
        return error("has no host that can be told from its port");
    }
    if host.contains(|c: char| c.is_whitespace() || "/@?#".contains(c)) {
        return error("has a host with characters that no host has");
    }
    match port.parse::<u16>() {
        Ok(port) if port != 0 => Ok(()),
        _ => error("has a port that is none of 1 to 65535"),
    }
}

fn number<N: std::str::FromStr>(name: &str, value: &str) -> Result<N, ConfigError> {
    value.parse().map_err(|_| ConfigError::new(format!("`{name}={value}` is no number")))
}

/// A duration such as `50ms`, `5s`, `30m`, `2h`, `1h30m`.
fn duration(name: &str, value: &str) -> Result<Duration, ConfigError> {
    let wrong = || {
        ConfigError::new(format!(
            "`{name}={value}` is no duration; write for instance `50ms`, `5s` or `30m`"
        ))
    };
    let mut total = Duration::ZERO;
    let mut rest = value;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let count: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |end| digits + end);
        let unit = match &rest[digits..unit_end] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(60 * 60),
            "d" => Duration::from_secs(24 * 60 * 60),
            _ => return Err(wrong()),
        };
        total =
            unit.checked_mul(count).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = &rest[unit_end..];
    }
    if value.is_empty() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<Option<Config>, String> {
        let builder = CacheBuilder::from_url(url).map_err(|e| e.to_string())?;
        builder.map(|b| b.config.check().map(|()| b.config).map_err(|e| e.to_string())).transpose()
    }

    #[test]
    fn urls_that_mean_something() {
        assert!(config("off").expect("fits").is_none());
        assert!(config("local:").expect("fits").expect("on").servers.is_empty());
        let url = "memcache://a:11211,b:11212?namespace=shop&timeout=50ms&lease=6s&lease_wait=1s&jitter=0.1&ttl=1h30m&local_capacity=1000";
        let config = config(url).expect("fits").expect("on");
        assert_eq!(config.servers, ["a:11211", "b:11212"]);
        assert_eq!(config.namespace.as_deref(), Some("shop"));
        assert_eq!(config.remote_timeout, Duration::from_millis(50));
        assert_eq!(config.lease, Some(Duration::from_secs(6)));
        assert_eq!(config.default_ttl, Duration::from_secs(5400));
        assert_eq!(config.local_capacity, 1000);
    }

    #[test]
    fn mistakes_name_the_part_that_is_wrong() {
        for (url, part) in [
            ("redis://a:1", "`redis://a:1`"),
            ("memcached://a:1", "`memcached://a:1`"),
            ("memcache://", "server ``"),
            ("memcache://a", "server `a` has no port"),
            ("memcache://a:11211,", "server ``"),
            ("memcache://a:99999", "`a:99999` has a port"),
            ("memcache://a:11211,a:11211", "`a:11211` is given twice"),
            ("memcache://a:1/?timeout=50", "`timeout=50`"),
            ("memcache://a:1?timeout=0ms", "timeout 0ns"),
            ("memcache://a:1?timeout=2h", "timeout 7200s"),
            ("memcache://a:1?lease_wait=2h", "over an hour"),
            ("memcache://a:1?tiemout=50ms", "`tiemout`"),
            ("memcache://a:1?namespace=My Shop", "namespace `My Shop`"),
            ("memcache://a:1?namespace", "`namespace` has no value"),
            ("memcache://a:1?timeout=1s&timeout=2s", "`timeout` is given twice"),
            ("memcache://a:1?jitter=2", "jitter 2"),
            ("memcache://a:1?jitter=NaN", "jitter NaN"),
            ("memcache://a:1?lease=10ms", "lease is under a second"),
            ("memcache://a:1?ttl=99999999999d", "`ttl=99999999999d`"),
            ("memcache://user@a:1", "`user@a:1` has a host"),
            ("memcache://fe80::1:11211", "no host that can be told"),
        ] {
            let error = config(url).expect_err(url);
            assert!(error.contains(part), "{url}: {error}");
            assert!(!error.contains('\n'), "{url}: {error}");
        }
    }
}
