//! The settings of the memcached tier, and their checks.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use super::url::without_password;
use super::{CacheBuilder, Config};
use crate::error::{ConfigError, ConfigErrorKind};

/// The longest namespace in bytes. A key in memcached can have at most 250 bytes. Apart from the
/// namespace, a key contains a cache name of up to 48 bytes, a digest of 64 bytes and 2 separators.
const LONGEST_NAMESPACE: usize = 64;

/// The longest `remote_timeout`, `lease` and `lease_wait`.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// The shortest `lease`, because memcached counts time in whole seconds.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

/// Settings for the memcached tier. The methods need the feature `memcached`, which is on by
/// default.
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
impl CacheBuilder {
    /// Sets a prefix for every key in memcached, so that deployments can share servers. By default,
    /// keys have no prefix.
    ///
    /// A namespace has 1 to 64 characters of `a-z`, `0-9`, `.`, `_` and `-`, and begins with a
    /// letter or a digit.
    ///
    /// ```
    /// # use cached_core::Cache;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let builder = Cache::builder().memcached(["127.0.0.1:11211"]);
    /// let (shop, staging) = (builder.clone().namespace("shop"), builder.namespace("staging"));
    /// # drop((shop.build().await?, staging.build().await?));
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn namespace(mut self, namespace: impl AsRef<str>) -> CacheBuilder {
        self.config.namespace = Some(namespace.as_ref().into());
        self
    }

    /// Sets the memcached servers, each as `host:port`. By default the cache has no servers and
    /// does not use memcached.
    ///
    /// The first call that needs a server resolves the server's name and connects to the server.
    /// After a failure, the next call resolves the name and connects again. A program therefore
    /// starts even if a server is down or the name of a server cannot be resolved.
    ///
    /// ```
    /// # use cached_core::Cache;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::builder().memcached(["cache-a:11211", "[::1]:11211"]).build().await?;
    /// # drop(cache);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn memcached<Address: AsRef<str>>(
        mut self,
        servers: impl IntoIterator<Item = Address>,
    ) -> CacheBuilder {
        self.config.servers =
            servers.into_iter().map(|server| server.as_ref().to_owned()).collect();
        self
    }

    /// Sets the longest time that one exchange with memcached may take, including the time to
    /// connect. The default is 100 ms, and the maximum an hour.
    ///
    /// A failing server adds at most this time to a call. With several servers, one exchange takes
    /// at most three quarters of this time, and a quarter is left for asking another server.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cached_core::Cache;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let builder = Cache::builder().memcached(["127.0.0.1:11211"]);
    /// let cache = builder.remote_timeout(Duration::from_millis(50)).build().await?;
    /// # drop(cache);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn remote_timeout(mut self, timeout: Duration) -> CacheBuilder {
        self.config.remote_timeout = timeout;
        self
    }

    /// Sets how long a lease lasts if its holder does not renew it, from 1 second to an hour.
    /// Fractions of a second are dropped.
    ///
    /// A lease is the right to fill an entry. While one process holds the lease, other processes
    /// wait for the entry. The holder renews the lease while it fetches, so a lease may be much
    /// shorter than a fetch. If the holder was killed, the other processes wait until the lease
    /// ends.
    ///
    /// The default is 2 seconds. In a process that fetches thousands of entries at once, the
    /// default rises to up to 10 seconds, because such a process can be late with its renewals.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cached_core::Cache;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let builder = Cache::builder().memcached(["127.0.0.1:11211"]);
    /// let cache = builder.lease(Duration::from_secs(5)).build().await?;
    /// # drop(cache);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn lease(mut self, lease: Duration) -> CacheBuilder {
        self.config.lease = Some(lease);
        self
    }

    /// Sets how long a call waits while another process holds the [lease](Self::lease), at most an
    /// hour. After this time, the call runs its own fetch and stores nothing in memcached.
    ///
    /// The default depends on the holder of the lease:
    ///
    /// - If the holder has renewed its lease, the call waits until the holder's fetch has taken
    ///   twice the expected time. If the expected time is unknown, the call waits 60 seconds.
    /// - If the holder has not renewed its lease, the call waits twice as long as a fetch of the
    ///   function takes in this process, but at most 2.5 seconds. If this process has not fetched
    ///   yet, the call waits 0.75 seconds. If the last leases on the key's server, for any keys,
    ///   did not end while calls waited for them, the call does not wait.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cached_core::Cache;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let builder = Cache::builder().memcached(["127.0.0.1:11211"]);
    /// let cache = builder.lease_wait(Duration::from_millis(500)).build().await?;
    /// # drop(cache);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn lease_wait(mut self, wait: Duration) -> CacheBuilder {
        self.config.lease_wait = Some(wait);
        self
    }
}

impl Config {
    pub(super) fn check_memcached(&self) -> Result<(), ConfigError> {
        if let Some(namespace) = &self.namespace {
            check_namespace(namespace)?;
        }
        check_servers(&self.servers)?;
        let invalid = |message: String| Err(ConfigError::new(ConfigErrorKind::Value, message));
        let Config { remote_timeout, lease, lease_wait, .. } = self;
        if remote_timeout.is_zero() {
            return invalid("the timeout is zero; write for example 50ms".into());
        }
        let waits = [
            ("timeout", Some(*remote_timeout), "50ms"),
            ("lease", *lease, "5s"),
            ("lease wait", *lease_wait, "5s"),
        ];
        for (setting, wait, example) in waits {
            if let Some(wait) = wait.filter(|wait| *wait > LONGEST_WAIT) {
                return invalid(format!(
                    "the {setting} {wait:?} is over an hour; write for example {example}"
                ));
            }
        }
        if lease.is_some_and(|lease| lease < SHORTEST_LEASE) {
            return invalid(
                "the lease is under a second, which memcached cannot count; write 1s or more"
                    .into(),
            );
        }
        Ok(())
    }
}

fn check_namespace(namespace: &str) -> Result<(), ConfigError> {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if namespace.len() <= LONGEST_NAMESPACE
        && namespace.starts_with(is_alphanumeric)
        && namespace.chars().all(|c| is_alphanumeric(c) || "._-".contains(c))
    {
        return Ok(());
    }
    let wrong = format!(
        "the namespace `{namespace}` is not allowed; write 1 to {LONGEST_NAMESPACE} of a-z, 0-9, `.`, `_`, `-`, a letter or digit first"
    );
    Err(ConfigError::new(ConfigErrorKind::Namespace, wrong))
}

/// Checks that each address is well-formed and that no address is repeated.
pub(crate) fn check_servers(servers: &[String]) -> Result<(), ConfigError> {
    for (index, server) in servers.iter().enumerate() {
        check_server(server)?;
        if servers[..index].contains(server) {
            let wrong = format!("the server `{server}` is given twice; give it once");
            return Err(ConfigError::new(ConfigErrorKind::Server, wrong));
        }
    }
    Ok(())
}

/// Checks that the text is `host:port`. The error says what to write instead.
pub(super) fn check_server(server: &str) -> Result<(), ConfigError> {
    let shown = without_password(server);
    let error = |wrong| Err(ConfigError::new(ConfigErrorKind::Server, wrong));
    let invalid = |reason: &str| {
        error(format!(
            "the server `{shown}` {reason}; write `host:port`, for example `127.0.0.1:11211`"
        ))
    };
    if server.is_empty() {
        return error(
            "the address of a server is empty; write `host:port`, for example `127.0.0.1:11211`"
                .into(),
        );
    }
    if server.contains('@') {
        return invalid("has a user or a password, which are not supported");
    }
    if let Some((address, _)) = server.split_once(['&', ';']) {
        return error(format!(
            "the server `{shown}` has settings; begin them with `?`, for example `{address}?timeout=50ms`"
        ));
    }
    if let Some((address, _)) = server.split_once('/') {
        return error(format!("the server `{shown}` has a path; write `{address}`"));
    }
    let Some((host, port)) = server.rsplit_once(':') else {
        return invalid("has no port");
    };
    if host.contains(|c: char| c.is_whitespace() || "?#".contains(c)) {
        return invalid("has a host with a character that is not allowed");
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        return error(format!(
            "the server `{shown}` is an IPv6 address without brackets; write `[{host}]:{port}`"
        ));
    }
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !is_bracketed) {
        return invalid("has a host that cannot be told from its port");
    }
    if host.contains(['[', ']']) && format!("{host}:1").parse::<SocketAddrV6>().is_err() {
        return invalid("has a host in brackets that is not an IPv6 address");
    }
    // Leading zeros and signs are refused, because they would allow two spellings of one address.
    let is_canonical = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
    match port.parse::<u16>() {
        Ok(_) if is_canonical => Ok(()),
        _ => invalid("has a port that is not a number from 1 to 65535"),
    }
}
