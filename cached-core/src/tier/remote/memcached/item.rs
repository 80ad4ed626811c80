//! Items on a memcached server, and the terms of reading and writing them.

use std::time::Instant;

use super::cas::Cas;
use super::marker::LeaseMarker;

/// The meaning of a server's answer to a read.
#[derive(Debug)]
pub(super) enum ReadReply {
    Item(RawItem),
    /// Nothing is stored, and this read has won the lease with this CAS.
    Lease(Cas),
    /// Nothing is stored, and another caller holds the lease.
    Busy(BusyLease),
    /// Nothing is stored, and the read asked for no lease.
    Nothing,
}

/// Another caller's lease, as a read shows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct BusyLease {
    /// The CAS of its placeholder or marker.
    pub(super) cas: Option<Cas>,
    /// The holder's marker, once it has renewed the lease.
    pub(super) marker: Option<LeaseMarker>,
}

/// An item as a server has it.
#[derive(Debug)]
pub(super) struct RawItem {
    pub(super) frame: Vec<u8>,
    pub(super) cas: Cas,
    /// The earliest time at which the server removes the item.
    pub(super) removed_at: Instant,
    /// True if this read has won the refresh claim.
    pub(super) is_claimed: bool,
    /// True if the refresh was claimed before, and the claim was given back.
    pub(super) was_given_back: bool,
}

impl RawItem {
    pub(super) fn new(frame: Vec<u8>, cas: Cas, removed_at: Instant) -> RawItem {
        RawItem { frame, cas, removed_at, is_claimed: false, was_given_back: false }
    }
}

/// The part of a read that asks for a lease or a refresh claim.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaseRequest {
    /// How long the placeholder of a new lease lasts.
    pub(super) seconds: u32,
    /// One caller may claim the refresh of an item that has less time left than this; 0 for none.
    pub(super) claim_below_seconds: u32,
}

/// The condition under which a server carries out a write.
#[derive(Debug, Clone, Copy)]
pub(super) enum WriteCondition {
    /// The key has no item.
    Absent,
    /// The item still has this CAS.
    Unchanged(Cas),
    Always,
}
