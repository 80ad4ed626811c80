//! The remote tier, which processes share: memcached.

mod memcached;

#[cfg(test)]
pub(crate) use memcached::Marker;
#[cfg(feature = "testing")]
pub(crate) use memcached::memory;
pub(crate) use memcached::{
    Busy, Cas, Condition, Found, Item, LONGEST_TTL, Lease, Remote, RemoteError, RemoteKey,
    whole_seconds,
};
