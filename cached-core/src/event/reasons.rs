//! The reasons and outcomes that events carry.

use std::fmt;

#[cfg(doc)]
use super::Observer;
use crate::key::KeyError;

/// The reason why a call runs the function without the cache.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum BypassReason<'e> {
    /// The cache is off.
    CacheOff,
    /// The cache could not register the function, for example because another function has the same
    /// cache name. `ledger().audit()` says why.
    NotRegistered,
    /// The arguments could not be encoded as a key. `Display` and `Debug` of this reason show no
    /// argument. The `Display` of the error may show one.
    Key(&'e KeyError),
    /// The function called itself with the same key.
    Recursion,
    /// The value or the error that was found under the key does not have the type that the call
    /// returns. Keys contain only the paths of types. Two types can have the same path, for example
    /// in two versions of a crate.
    OtherType,
    /// An [`Observer`] made the call while it received an event, and neither the request tier nor
    /// the local tier had a value. The call must not wait for a fetch, because the observer may run
    /// within that fetch.
    InObserver,
}

/// Says whether the function returned a value or an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FetchOutcome {
    /// The function returned a value.
    Value,
    /// The function returned an error.
    Error,
}

/// The reason why a fetched value is not cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UncachedReason {
    /// The value is a `None`, and the function does not declare `none_ttl`.
    AbsentValue,
    /// The function has the option `infallible`, and it returned an `Err`.
    ErrorValue,
    /// `cache_if` returned false.
    CacheIf,
    /// The value's ttl is zero.
    ZeroTtl,
}

/// The reason why the remote tier did not store a fetched value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FillRefusal {
    /// Too many bytes were already waiting to be written.
    QueueFull,
    /// The value cannot be encoded, or does not decode to the same value.
    NotStorable,
    /// The value's ttl is too short for the remote tier.
    TtlTooShort,
    /// During the fetch, this process lost its lease (its right to fetch the value), or the entry
    /// was changed.
    Overtaken,
    /// The exchange with the server failed.
    Failed,
}

/// The reason why a call returns an expired value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StaleServedReason {
    /// This call fetched, or waited for another call's fetch, and the fetch failed.
    FetchFailed,
    /// An earlier fetch failed, and the option `error_ttl` delays the next fetch of the key.
    FetchPaused,
    /// Another process is fetching a new value.
    FetchRunsElsewhere,
}

/// The reason why the local tier removed an entry.
///
/// `Display` writes one lower-case word, such as `size` or `expired`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EvictionReason {
    /// The tier's capacity was reached.
    Size,
    /// The entry's ttl had ended.
    Expired,
    /// A newer value of the same key was stored in the local tier or in memcached.
    Replaced,
    /// The key was invalidated or overwritten.
    Invalidated,
    /// `Cache::clear` or `Cache::invalidate_all` was called.
    Cleared,
}

impl fmt::Display for EvictionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EvictionReason::Size => "size",
            EvictionReason::Expired => "expired",
            EvictionReason::Replaced => "replaced",
            EvictionReason::Invalidated => "invalidated",
            EvictionReason::Cleared => "cleared",
        })
    }
}
