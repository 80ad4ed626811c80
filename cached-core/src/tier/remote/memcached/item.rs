//! The items and leases that a read finds on a memcached server, and the options of reads and
//! writes.
//!
//! A *lease* is the right to run the annotated function for a missing value. memcached represents a
//! new lease as a *placeholder*, an empty item. When the holder renews the lease, it replaces the
//! placeholder with a [`LeaseMarker`]. A *refresh claim* is the right to run the annotated function
//! again before an item expires. A *CAS* is the version number of an item, a placeholder or a
//! marker.

use std::time::{Duration, Instant};

use super::cas::Cas;
use super::marker::LeaseMarker;

/// The longest ttl that memcached supports. memcached interprets a larger number as a date.
pub(super) const LONGEST_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A server's reply to a read of one key.
#[derive(Debug)]
pub(super) enum ReadReply {
    Item(RawItem),
    /// The key has no item, and this read has won the lease. The lease's placeholder has this CAS.
    Lease(Cas),
    /// The key has no item, and another caller holds the lease.
    Busy(BusyLease),
    /// The key has neither an item nor a lease.
    Nothing,
}

impl ReadReply {
    /// Returns the name under which a tracing span records the reply.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            ReadReply::Item(_) => "hit",
            ReadReply::Lease(_) => "lease_won",
            ReadReply::Busy(_) => "lease_busy",
            ReadReply::Nothing => "miss",
        }
    }
}

/// Another caller's lease that a read has found.
#[derive(Debug, Clone, Copy)]
pub(super) struct BusyLease {
    /// The CAS of the lease's placeholder or marker; `None` if the reply contains no CAS.
    pub(super) cas: Option<Cas>,
    /// The marker that the last renewal wrote; `None` if the holder has not renewed the lease yet.
    pub(super) marker: Option<LeaseMarker>,
    /// The latest time at which the server removes the placeholder or marker; `None` if it never
    /// does.
    pub(super) expires: Option<Instant>,
}

/// An item whose frame (the stored bytes of a value) is not decoded yet.
#[derive(Debug)]
pub(super) struct RawItem {
    pub(super) frame: Vec<u8>,
    pub(super) cas: Cas,
    /// The earliest time at which the server may remove the item.
    pub(super) removable_from: Instant,
    /// The latest time at which the server removes the item.
    pub(super) removed_by: Instant,
    /// True if this read has won the refresh claim.
    pub(super) is_claimed: bool,
    /// True if an earlier holder of the refresh claim has given the claim back.
    pub(super) was_given_back: bool,
}

impl RawItem {
    /// An item that the server removes at exactly this time.
    pub(super) fn new(frame: Vec<u8>, cas: Cas, removed: Instant) -> RawItem {
        RawItem {
            frame,
            cas,
            removable_from: removed,
            removed_by: removed,
            is_claimed: false,
            was_given_back: false,
        }
    }
}

/// The part of a read that asks for a lease or a refresh claim.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaseRequest {
    /// How long memcached keeps the placeholder of a new lease, in seconds.
    pub(super) seconds: u32,
    /// The read asks for the refresh claim if memcached will remove the item within this number of
    /// seconds. With 0, the read never wins the claim.
    pub(super) claim_below_seconds: u32,
}

/// The condition under which a server performs a write.
#[derive(Debug, Clone, Copy)]
pub(super) enum WriteCondition {
    /// The key has no item.
    Absent,
    /// The item still has this CAS.
    Unchanged(Cas),
    Always,
}

/// Returns the duration in seconds, rounded down so that an item does not outlive its ttl.
pub(super) fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
