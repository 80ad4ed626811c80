//! What is configured of memcached.

use std::net::SocketAddrV6;
use std::time::Duration;

use super::{CacheBuilder, Config, without_password};
use crate::cache::Cache;
use crate::error::ConfigError;

/// The longest namespace; with it a remote key has at most 250 bytes: 64 + 48 + 64 and two colons.
const NAMESPACE_LIMIT: usize = 64;

/// Nobody waits longer than this for anything.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// Of memcached. These need the feature `memcached`, which is on by default.
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
    /// Prefix of every key in memcached, so that deployments can share servers:
    /// `[a-z0-9][a-z0-9._-]{0,63}`. None by default.
    pub fn namespace(mut self, namespace: impl AsRef<str>) -> CacheBuilder {
        self.config.namespace = Some(namespace.as_ref().into());
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

    /// How long a lease lasts, in whole seconds, unless its holder renews it: the right to fill an
    /// entry, which holds up the others. 2 s by default, and up to 10 s in a process that fetches
    /// thousands of entries at once. A holder renews its lease half a second after it won it, and
    /// again and again while it fetches, so a lease need not be as long as a fetch: this bounds
    /// how long a process that is killed holds the others up.
    pub fn lease(mut self, lease: Duration) -> CacheBuilder {
        self.config.lease = Some(lease);
        self
    }

    /// How long a call waits for the process that holds the lease before it fetches for itself,
    /// without storing. By default it waits until the fetch has taken twice as long as it is expected
    /// to take, or 60 s where nobody knows; and, for a holder that has not renewed its lease, twice as
    /// long as the function's fetches take, 2.5 s at most, or 0.75 s where this process has seen none. It
    /// does not wait for a server whose leases were seen not to end.
    pub fn lease_wait(mut self, wait: Duration) -> CacheBuilder {
        self.config.lease_wait = Some(wait);
        self
    }

    pub(super) fn from_remote_url(url: &str) -> Result<CacheBuilder, ConfigError> {
        let Some(rest) = url.strip_prefix("memcache://") else {
            return Err(ConfigError::new(format!(
                "`{}` is no cache; write `local:`, `off` or `memcache://host:11211,host:11211?namespace=shop&timeout=50ms`",
                without_password(url)
            )));
        };
        // Before anything of it is said: what stands before an `@` may be a password, with any
        // character in it. No server has one.
        if let Some(at) = rest.rfind('@') {
            let server = rest[at..].split(['/', '?', ',']).next().unwrap_or_default();
            check_server(server)?;
        }
        let (servers, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut builder =
            CacheBuilder::default().memcached(servers.trim_end_matches('/').split(','));
        let mut seen: Vec<&str> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(ConfigError::new(format!("`{pair}` has no value; write `{pair}=…`")));
            };
            if seen.contains(&name) {
                return Err(ConfigError::new(format!("`{name}` is given twice; give it once")));
            }
            seen.push(name);
            builder = match name {
                "namespace" => builder.namespace(value),
                "timeout" => builder.remote_timeout(duration(name, value)?),
                "lease" => builder.lease(duration(name, value)?),
                "lease_wait" => builder.lease_wait(duration(name, value)?),
                "ttl" => builder.default_ttl(duration(name, value)?),
                "jitter" => builder.jitter(number(name, value)?),
                "local_capacity" => builder.local_capacity(number(name, value)?),
                _ => {
                    return Err(ConfigError::new(format!(
                        "`{name}` is no setting; there are namespace, timeout, lease, lease_wait, ttl, jitter and local_capacity"
                    )));
                }
            };
        }
        Ok(builder)
    }
}

impl Cache {
    /// Takes other memcached servers from now on, without a restart: those that stay keep their
    /// entries and connections, and only the keys of servers that came or went move. Commands under
    /// way end where they began.
    ///
    /// A server that comes should be empty. Of one that was taken out before and comes back, and of
    /// what its keys' former servers still have when an added one goes, this process believes
    /// nothing that is older than the change. What other processes invalidate before they too know
    /// the new servers reaches the old ones alone: tell all of them within a short time.
    ///
    /// Needs the feature `memcached`, which is on by default.
    ///
    /// # Errors
    /// One line, where the cache was built without memcached servers, none is given, or one is no
    /// `host:port` or is given twice. Then nothing changes.
    ///
    /// ```
    /// # use cached_core::Cache;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::builder().memcached(["cache-a:11211", "cache-b:11211"]).build().await?;
    /// cache.set_memcached(["cache-a:11211", "cache-c:11211"])?;
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn set_memcached<S: AsRef<str>>(
        &self,
        servers: impl IntoIterator<Item = S>,
    ) -> Result<(), ConfigError> {
        let servers: Vec<String> = servers.into_iter().map(|s| s.as_ref().to_owned()).collect();
        check_servers(&servers)?;
        match self.remote() {
            _ if servers.is_empty() => {
                Err(ConfigError::new("no server is given; give one or more"))
            }
            None => Err(ConfigError::new(
                "the cache was built without a remote tier; build it with `.memcached([…])`",
            )),
            Some(remote) => {
                remote.set_servers(&servers);
                Ok(())
            }
        }
    }
}

impl Config {
    pub(super) fn check_memcached(&self) -> Result<(), ConfigError> {
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
        Ok(())
    }
}

fn check_servers(servers: &[String]) -> Result<(), ConfigError> {
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
            "the server `{}` {why}; write `host:port`, for instance `127.0.0.1:11211`",
            without_password(server)
        )))
    };
    if server.is_empty() {
        return error("is empty");
    }
    let Some((host, port)) = server.rsplit_once(':') else {
        return error("has no port");
    };
    if host.contains(|c: char| c.is_whitespace() || "/@?#".contains(c)) {
        return error("has a host with characters that no host has");
    }
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !bracketed) {
        return error("has no host that can be told from its port");
    }
    if host.contains(['[', ']']) && format!("{host}:1").parse::<SocketAddrV6>().is_err() {
        return error("has a host in brackets that is no IPv6 address");
    }
    // Each port in one spelling: two of one server would be two servers.
    let is_number = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
    match port.parse::<u16>() {
        Ok(_) if is_number => Ok(()),
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
            ("memcache://user@a:1", "`…@a:1` has a host"),
            ("memcache://fe80::1:11211", "no host that can be told"),
            ("memcache://a:+5", "`a:+5` has a port"),
            ("memcache://a:01", "`a:01` has a port"),
            ("memcache://a:", "`a:` has a port"),
            ("memcache://a:1٣", "`a:1٣` has a port"),
            ("memcache://[]:5", "`[]:5` has a host"),
            ("memcache://[x]:5", "`[x]:5` has a host"),
            ("memcache://[127.0.0.1]:5", "`[127.0.0.1]:5` has a host"),
            ("memcache://[::1:5", "no host that can be told"),
            ("memcache://[a:5", "`[a:5` has a host"),
            ("memcache://a]:5", "`a]:5` has a host"),
        ] {
            let error = config(url).expect_err(url);
            assert!(error.contains(part), "{url}: {error}");
            assert!(!error.contains('\n'), "{url}: {error}");
        }
    }

    #[test]
    fn addresses_of_every_kind() {
        for address in ["a:1", "cache-a.shop.internal:11211", "10.0.0.1:65535", "[::1]:11211"] {
            let config = config(&format!("memcache://{address}")).expect(address).expect("on");
            assert_eq!(config.servers, [address]);
        }
    }

    #[test]
    fn a_mistake_does_not_say_a_password() {
        for url in [
            "memcache://me:secret@a:1",
            "memcache://a:1,me:secret@b:1",
            "memcache://me:secret,secret@a:1",
            "memcache://me:secret?secret@a:1",
            "memcache://me:secret/secret@a:1",
            "memcache://me:secret@secret@a:1?namespace=shop",
            "redis://me:secret@a:1",
            "me:secret@a:1",
        ] {
            let error = config(url).expect_err(url);
            assert!(error.contains("@a:1") || error.contains("@b:1"), "{url}: {error}");
            assert!(!error.contains("secret") && !error.contains('\n'), "{url}: {error}");
        }
        let error = check_server("me:secret@a:1").expect_err("no server").to_string();
        assert!(error.contains("`…@a:1` has a host") && !error.contains("secret"), "{error}");
    }
}
