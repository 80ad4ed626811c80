//! The remote tier, which processes share: memcached.

mod memcached;

#[cfg(test)]
pub(crate) use memcached::LeaseMarker;
#[cfg(feature = "testing")]
pub(crate) use memcached::memory;
pub(crate) use memcached::{
    BusyLease, Cas, Condition, Found, Item, LONGEST_TTL, Lease, Remote, RemoteError, RemoteKey,
    whole_seconds,
};
