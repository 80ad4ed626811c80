//! Records the span and the duration of each *exchange*, in which this process sends commands to a
//! memcached server and receives their results.

use std::sync::Arc;

use super::durations::ExchangeTimer;
use super::spans::{ExchangeSpan, InSpan};
use crate::tier::remote::{RemoteError, RemoteErrorKind};

/// An exchange that has begun and not ended.
///
/// The exchange has a span only if a caller waits for it. If the exchange is dropped before
/// [`end`](Self::end), its span ends as cancelled, and its duration is not recorded.
pub(crate) struct Exchange {
    span: ExchangeSpan,
    timer: ExchangeTimer,
}

/// The server and the commands of an exchange.
#[derive(Clone, Copy)]
pub(crate) struct ExchangeSubject<'s> {
    /// The address of the server, as `host:port`.
    pub(crate) address: &'s Arc<str>,
    /// The name of the commands: `get`, `set` or `delete`. For a batch, the name begins with the
    /// word `BATCH` and a space.
    pub(crate) operation: &'static str,
    /// The key in memcached, or `None` for several keys.
    pub(crate) key: Option<&'s str>,
    /// The number of commands.
    pub(crate) commands: usize,
}

impl Exchange {
    /// Records the start of an exchange. `is_awaited` is true if a caller waits for the exchange.
    #[inline]
    pub(crate) fn start(subject: ExchangeSubject<'_>, is_awaited: bool) -> Exchange {
        let span = match is_awaited {
            true => ExchangeSpan::start(subject),
            false => ExchangeSpan::NONE,
        };
        Exchange { span, timer: ExchangeTimer::start(subject) }
    }

    /// Returns a future that polls `commands` in the span of this exchange.
    #[inline]
    pub(crate) fn polled<F: Future>(&self, commands: F) -> InSpan<F> {
        self.span.polled(commands)
    }

    /// Records the end of the exchange. `outcome` names a successful result.
    #[inline]
    pub(crate) fn end<T>(
        mut self,
        result: &Result<T, RemoteError>,
        outcome: impl FnOnce(&T) -> &'static str,
    ) {
        let result = result.as_ref().map(outcome).map_err(RemoteError::kind);
        self.span.end(result);
        self.timer.end(result.err().map(error_type));
    }
}

/// Returns the host and the port of an address. The brackets around an IPv6 host are removed.
pub(super) fn host_and_port(address: &str) -> (&str, Option<u16>) {
    match address.rsplit_once(':') {
        Some((host, port)) => {
            (host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok())
        }
        None => (address, None),
    }
}

/// Returns the function's name and the digest from a memcached key. The key is
/// `namespace:name:digest`, or `name:digest` without a namespace. The suffix `:2` marks the second
/// item of an entry, and `:gutter` marks an item on a substitute server.
pub(super) fn name_and_digest(key: &str) -> Option<(&str, &str)> {
    let key = key.strip_suffix(":gutter").unwrap_or(key);
    let key = key.strip_suffix(":2").unwrap_or(key);
    let (rest, digest) = key.rsplit_once(':')?;
    Some((rest.rsplit(':').next().unwrap_or(rest), digest))
}

/// Returns the name of an error for the attribute `error.type`.
pub(super) fn error_type(kind: RemoteErrorKind) -> &'static str {
    match kind {
        RemoteErrorKind::Unreachable => "unreachable",
        RemoteErrorKind::Unusable => "unusable",
        RemoteErrorKind::Refused => "refused",
        RemoteErrorKind::TooLarge => "too_large",
        RemoteErrorKind::NotAsked => "not_asked",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        assert_eq!(host_and_port("cache-a:11211"), ("cache-a", Some(11211)));
        assert_eq!(host_and_port("[::1]:11211"), ("::1", Some(11211)));
    }

    #[test]
    fn a_key_has_a_name_and_a_digest() {
        for key in ["payment:0f", "shop:payment:0f", "shop:payment:0f:2", "payment:0f:2:gutter"] {
            assert_eq!(name_and_digest(key), Some(("payment", "0f")), "{key}");
        }
    }
}
