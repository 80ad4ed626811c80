//! The header `Cache-Status` (RFC 9211), a list of structured fields (RFC 8941).

use std::fmt::Write;

use http::HeaderValue;

use crate::outcome::{CallResult, Outcome, Outcomes};

/// The name and the options with which a cache appears in the header `Cache-Status` (RFC 9211).
///
/// A handler may call several annotated functions for one response. The parameters sum up these
/// calls:
///
/// | parameter | present | meaning |
/// |---|---|---|
/// | `hit` | if no call ran or awaited a fetch | Every call was answered from a tier, or with the error of an earlier fetch (`error_ttl`). |
/// | `fwd` | without `hit` | The first of these reasons that applies to any call: `stale` (the answer is an expired value), `request` (the request forces misses), `miss` (the call ran or awaited a fetch), `bypass` (the function ran without the cache). |
/// | `collapsed` | if a call returned the result of another call's fetch | `collapsed`: no call of the response fetched. `collapsed=?0`: a call fetched too. |
/// | `stored` | if a call fetched | `stored`: a tier keeps the value of every fetch. `stored=?0`: the value of at least one fetch is not kept. |
/// | `ttl` | if the remaining ttl of every call's answer is known | The shortest remaining ttl of these answers, in whole seconds. |
/// | `key` | with [`key`](Self::key) | The name and the digest of one key. |
/// | `detail` | with [`detail`](Self::detail) | The number of calls with each result. |
///
/// If the handler calls no annotated function, the response has no header. The lookups of a
/// [`CacheEntry`](crate::CacheEntry) and of [`first_found`](crate::first_found) are not calls.
///
/// ```
/// use cached_core::tower::{CacheStatus, RequestScopeLayer};
///
/// let layer = RequestScopeLayer::new().cache_status(CacheStatus::new("shop").detail(true));
/// # drop(layer);
/// ```
#[derive(Debug, Clone)]
#[must_use = "an option of the layer does nothing by itself"]
pub struct CacheStatus {
    /// The name, written as a token or as a quoted string (RFC 8941).
    name: String,
    shows_key: bool,
    shows_detail: bool,
}

impl CacheStatus {
    /// Returns a status without the parameters `key` and `detail`. `name` names the service or the
    /// host, and appears in the header. Characters that are not allowed in a header become `?`.
    pub fn new(name: &str) -> CacheStatus {
        let name = if is_token(name) { name.to_owned() } else { quoted(name) };
        CacheStatus { name, shows_key: false, shows_detail: false }
    }

    /// Sets whether the header has the parameter `key`: the cache name and the digest of one key,
    /// such as `key="payment:9f86…"`. If the header says `fwd`, this is the key of the first call
    /// with that reason, for example the first call that ran or awaited a fetch. If it says `hit`,
    /// this is the key of the first call. Only the 64 calls that ended first are searched, so the
    /// parameter may be missing after many calls.
    ///
    /// The digest does not show the call's arguments. But a reader who knows all possible arguments
    /// can compute their digests and compare. This method needs the feature `memcached`.
    #[cfg(feature = "memcached")]
    pub fn key(mut self, shown: bool) -> CacheStatus {
        self.shows_key = shown;
        self
    }

    /// Sets whether the header has the parameter `detail`: how many calls the handler made, and how
    /// they were answered, such as `detail="3 calls: 2 local hits, 1 miss"`.
    pub fn detail(mut self, shown: bool) -> CacheStatus {
        self.shows_detail = shown;
        self
    }

    /// Returns this cache's part of the header for a response with these outcomes. Returns `None`
    /// if there was no call.
    ///
    /// The layer calls this method. It is public for programs that write their own middleware.
    ///
    /// ```
    /// # use cached_core::{coordinator_cached, with_outcomes};
    /// # use cached_core::tower::CacheStatus;
    /// #[coordinator_cached(name = "cache_status_doc", version = edition, ttl = "10m")]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let (course, outcomes) = with_outcomes(course(1, 2)).await;
    /// let header = CacheStatus::new("shop").header(&outcomes).expect("there was a call");
    /// assert_eq!(header, "shop; fwd=miss; stored; ttl=600");
    /// # course
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn header(&self, outcomes: &Outcomes) -> Option<HeaderValue> {
        if outcomes.calls() == 0 {
            return None;
        }
        let status = ResponseStatus::of(outcomes);
        let mut member = format!("{}; {}", self.name, status.parameter());
        if status != ResponseStatus::Hit {
            let waited = outcomes.count(CallResult::Waited) > 0;
            member.push_str(match (waited, outcomes.fetches()) {
                (false, _) => "",
                (true, 0) => "; collapsed",
                (true, _) => "; collapsed=?0",
            });
            member.push_str(match (outcomes.fetches(), outcomes.stored()) {
                (0, _) => "",
                (fetches, stored) if stored >= fetches => "; stored",
                _ => "; stored=?0",
            });
        }
        if let Some(left) = outcomes.least_time_left() {
            // Writing to a `String` does not fail.
            let _ = write!(member, "; ttl={}", left.as_secs());
        }
        let decisive = outcomes.iter().find(|outcome| status.is_of(outcome));
        if let Some(key) = decisive.filter(|_| self.shows_key).and_then(key_of) {
            let _ = write!(member, "; key={}", quoted(&key));
        }
        if self.shows_detail {
            let _ = write!(member, "; detail={}", quoted(&outcomes.to_string()));
        }
        HeaderValue::try_from(member).ok()
    }
}

impl From<&str> for CacheStatus {
    fn from(name: &str) -> CacheStatus {
        CacheStatus::new(name)
    }
}

impl From<String> for CacheStatus {
    fn from(name: String) -> CacheStatus {
        CacheStatus::new(&name)
    }
}

/// The status of a response: a hit, or the reason why a call did not get a fresh value from a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResponseStatus {
    Hit,
    Stale,
    Forced,
    Miss,
    Bypass,
}

impl ResponseStatus {
    fn of(outcomes: &Outcomes) -> ResponseStatus {
        let any = |result| outcomes.count(result) > 0;
        if any(CallResult::Stale) {
            ResponseStatus::Stale
        } else if outcomes.forced() > 0 {
            ResponseStatus::Forced
        } else if any(CallResult::Miss) || any(CallResult::Waited) {
            ResponseStatus::Miss
        } else if any(CallResult::Bypassed) {
            ResponseStatus::Bypass
        } else {
            ResponseStatus::Hit
        }
    }

    fn parameter(self) -> &'static str {
        match self {
            ResponseStatus::Hit => "hit",
            ResponseStatus::Stale => "fwd=stale",
            ResponseStatus::Forced => "fwd=request",
            ResponseStatus::Miss => "fwd=miss",
            ResponseStatus::Bypass => "fwd=bypass",
        }
    }

    /// Returns true if the response has its status because of this call.
    fn is_of(self, outcome: &Outcome) -> bool {
        let result = outcome.result();
        match self {
            ResponseStatus::Hit => true,
            ResponseStatus::Stale => result == CallResult::Stale,
            ResponseStatus::Forced => outcome.is_forced(),
            ResponseStatus::Miss => matches!(result, CallResult::Miss | CallResult::Waited),
            ResponseStatus::Bypass => result == CallResult::Bypassed,
        }
    }
}

/// Returns the cache name and the digest of the call's key, as `name:digest`.
#[cfg(feature = "memcached")]
fn key_of(outcome: &Outcome) -> Option<String> {
    Some(format!("{}:{}", outcome.name(), outcome.digest()?))
}

/// Without memcached, keys have no digest.
#[cfg(not(feature = "memcached"))]
fn key_of(_: &Outcome) -> Option<String> {
    None
}

/// Returns true if a text is a token in the syntax of structured fields (RFC 8941).
fn is_token(text: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte);
    let starts_well = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '*');
    starts_well && text.bytes().all(is_token)
}

/// Returns a text as a quoted string in the syntax of structured fields (RFC 8941).
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            _ => quoted.push('?'),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_token_or_a_string() {
        for (name, expected) in [
            ("shop", "shop"),
            ("shop.example.com:8080/eu", "shop.example.com:8080/eu"),
            ("*", "*"),
            ("2nd", "\"2nd\""),
            ("the shop", "\"the shop\""),
            ("a\"b\\c", "\"a\\\"b\\\\c\""),
            ("caf\u{e9}\r\nx: y", "\"caf???x: y\""),
            ("", "\"\""),
        ] {
            assert_eq!(CacheStatus::new(name).name, expected);
        }
    }
}
