//! Parses the value of the environment variable `CACHE_URL`: `off`, `local:` or `memcache://…`. The
//! last two take settings after a `?`.

use std::borrow::Cow;

use super::CacheBuilder;
use super::quantity::{parse_duration, parse_number, parse_size};
use crate::error::{ConfigError, ConfigErrorKind};

/// The settings that every kind of cache has.
const COMMON_SETTINGS: &str = "local_capacity, ttl and jitter";

impl CacheBuilder {
    /// Parses the value of `CACHE_URL`. Returns `None` for `off`.
    pub(crate) fn from_url(url: &str) -> Result<Option<CacheBuilder>, ConfigError> {
        match url.trim() {
            "off" => Ok(None),
            "" => Ok(Some(CacheBuilder::default())),
            url => match url.strip_prefix("local:") {
                Some(rest) => CacheBuilder::from_local_url(url, rest).map(Some),
                None => CacheBuilder::from_remote_url(url).map(Some),
            },
        }
    }

    fn from_local_url(url: &str, rest: &str) -> Result<CacheBuilder, ConfigError> {
        let query = match rest.strip_prefix('?') {
            Some(query) => query,
            None if rest.is_empty() => "",
            None => {
                let url = without_password(url);
                let wrong = format!(
                    "`{url}` is not a cache; write `local:` or `local:?local_capacity=64MiB`"
                );
                return Err(ConfigError::new(ConfigErrorKind::Url, wrong));
            }
        };
        CacheBuilder::default().with_settings(query, |_, setting, _| {
            let wrong = format!(
                "`{setting}` is not a setting of `local:`, which has {COMMON_SETTINGS}; remove it"
            );
            Err(ConfigError::new(ConfigErrorKind::Setting, wrong))
        })
    }

    /// Applies settings of the form `name=value&name=value`. `read_other` applies the settings that
    /// are not among the [`COMMON_SETTINGS`].
    fn with_settings(
        mut self,
        query: &str,
        read_other: fn(CacheBuilder, &str, &str) -> Result<CacheBuilder, ConfigError>,
    ) -> Result<CacheBuilder, ConfigError> {
        let invalid = |message| Err(ConfigError::new(ConfigErrorKind::Setting, message));
        let mut seen: Vec<&str> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let Some((setting, value)) = pair.split_once('=') else {
                return invalid(format!("`{pair}` has no value; write `{pair}=…`"));
            };
            if seen.contains(&setting) {
                return invalid(format!("`{setting}` is given twice; give it once"));
            }
            seen.push(setting);
            self = match setting {
                "ttl" => self.default_ttl(parse_duration(setting, value)?),
                "jitter" => self.jitter(parse_number(setting, value)?),
                "local_capacity" => self.local_capacity(parse_size(setting, value)?),
                _ => read_other(self, setting, value)?,
            };
        }
        Ok(self)
    }

    #[cfg(not(feature = "memcached"))]
    fn from_remote_url(url: &str) -> Result<CacheBuilder, ConfigError> {
        let (is_memcached, url) = (url.starts_with("memcache://"), without_password(url));
        let wrong = match is_memcached {
            true => format!(
                "`{url}` is memcached, which this program was built without; turn the feature `memcached` of cached-core on in its Cargo.toml, or write `local:` or `off`"
            ),
            false => format!("`{url}` is not a cache; write `local:` or `off`"),
        };
        Err(ConfigError::new(ConfigErrorKind::Url, wrong))
    }

    #[cfg(feature = "memcached")]
    fn from_remote_url(url: &str) -> Result<CacheBuilder, ConfigError> {
        let Some(rest) = url.strip_prefix("memcache://") else {
            let advice = likely_url(url).unwrap_or_else(|| {
                "write `local:`, `off` or `memcache://host:11211,host:11211?namespace=shop&timeout=50ms`".into()
            });
            let wrong = format!("`{}` is not a cache; {advice}", without_password(url));
            return Err(ConfigError::new(ConfigErrorKind::Url, wrong));
        };
        // If the text contains an `@`, `check_server` always fails, because an address has no `@`.
        // Its error quotes the argument. The text before the `@` can be a password, which the error
        // must not show. A password can contain any characters, even `?`, `,` and `@`. The argument
        // therefore begins at the last `@`.
        if let Some(at) = rest.rfind('@') {
            let server = rest[at..].split(['/', '?', ',']).next().unwrap_or_default();
            super::memcached::check_server(server)?;
        }
        let (servers, query) = rest.split_once('?').unwrap_or((rest, ""));
        let servers = servers.trim_end_matches('/').split(',');
        CacheBuilder::default().memcached(servers).with_settings(query, |builder, setting, value| {
            Ok(match setting {
                "namespace" => builder.namespace(value),
                "timeout" => builder.remote_timeout(parse_duration(setting, value)?),
                "lease" => builder.lease(parse_duration(setting, value)?),
                "lease_wait" => builder.lease_wait(parse_duration(setting, value)?),
                _ => {
                    let wrong = format!(
                        "`{setting}` is not a setting; there are namespace, timeout, lease, lease_wait, {COMMON_SETTINGS}"
                    );
                    return Err(ConfigError::new(ConfigErrorKind::Setting, wrong));
                }
            })
        })
    }
}

/// Returns what to write in place of a URL with a common mistake, if it has one.
#[cfg(feature = "memcached")]
fn likely_url(url: &str) -> Option<String> {
    if url.starts_with(['"', '\'']) {
        return Some("the text is in quotes; remove them".into());
    }
    if let Some(rest) = url.strip_prefix("memcached://") {
        return Some(format!("write `memcache://{}`, without the `d`", without_password(rest)));
    }
    let is_meant = |right: &&str| right.trim_end_matches(':').eq_ignore_ascii_case(url);
    ["off", "local:"].into_iter().find(is_meant).map(|right| format!("write `{right}`"))
}

/// Replaces the text before the last `@` of a URL or an address with `…`, because a message must
/// not show a password.
pub(super) fn without_password(text: &str) -> Cow<'_, str> {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("…@{rest}").into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests;
