//! The fence: a CAS number below which a server's items may be stale.
//!
//! This process raises the fence when it may have changed keys without telling the server. Recovery then writes
//! an item, and that item's CAS becomes the fence: the server counts upwards, so older items lie below it. One
//! number replaces a list of all keys, and entries that others share need no flush.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Server;
use super::rendezvous::RendezvousSeed;
use crate::event::Event;
use crate::key::Digest;
use crate::sync::lock;

#[derive(Default)]
pub(super) struct CasFence {
    /// 0 while no item is fenced. Changed only under the lock of `state`.
    cas_number: AtomicU64,
    state: Mutex<FenceState>,
}

#[derive(Default)]
struct FenceState {
    covers_all_keys: bool,
    /// Keys that one of these servers owned before it left are covered.
    former_owners: Vec<RendezvousSeed>,
    raises: u64,
    /// The last raise for which no CAS is known yet, by its number.
    pending_raise: Option<u64>,
}

/// The fence before a recovery attempt.
#[derive(Clone, Copy)]
pub(super) struct FenceSnapshot {
    cas_number: u64,
    pending_raise: Option<u64>,
}

impl CasFence {
    /// Covers every item that the server has now, or those whose keys `former_owner` owned.
    pub(super) fn raise(&self, former_owner: Option<RendezvousSeed>) {
        let mut state = lock(&self.state);
        match former_owner {
            Some(owner) if state.former_owners.contains(&owner) => {}
            Some(owner) => state.former_owners.push(owner),
            None => state.covers_all_keys = true,
        }
        state.raises += 1;
        state.pending_raise = Some(state.raises);
    }

    pub(super) fn is_pending(&self) -> bool {
        lock(&self.state).pending_raise.is_some()
    }

    /// Runs `then` if no raise is pending. No raise can begin before it returns.
    pub(super) fn if_settled<T>(&self, then: impl FnOnce() -> T) -> Option<T> {
        let state = lock(&self.state);
        state.pending_raise.is_none().then(then)
    }

    pub(super) fn snapshot(&self) -> FenceSnapshot {
        let state = lock(&self.state);
        let cas_number = self.cas_number.load(Ordering::Acquire);
        FenceSnapshot { cas_number, pending_raise: state.pending_raise }
    }

    /// Updates the fence by the CAS of an item that was written after the snapshot. Does nothing if another
    /// attempt has updated it meanwhile; a raise that is still pending is left to the next attempt.
    pub(super) fn settle(&self, before: FenceSnapshot, written_cas: u64) {
        let mut state = lock(&self.state);
        if self.cas_number.load(Ordering::Acquire) != before.cas_number {
            return;
        }
        if before.pending_raise.is_some() {
            self.cas_number.store(written_cas, Ordering::Release);
            if state.pending_raise == before.pending_raise {
                state.pending_raise = None;
            }
        } else if written_cas < before.cas_number && state.pending_raise.is_none() {
            // The server counts from the start again: it was restarted, and its old items are gone.
            self.cas_number.store(0, Ordering::Release);
            (state.covers_all_keys, state.former_owners) = (false, Vec::new());
        }
    }

    #[inline]
    fn is_at_or_below(&self, cas_number: u64) -> bool {
        cas_number >= self.cas_number.load(Ordering::Acquire)
    }

    /// Returns true if the fence covers this key on the server with this seed.
    fn covers(&self, digest: Digest, server: RendezvousSeed) -> bool {
        let state = lock(&self.state);
        let own = server.score(digest);
        state.covers_all_keys || state.former_owners.iter().any(|owner| owner.score(digest) > own)
    }
}

impl Server {
    /// Fences every item that the server has now, or those whose keys `former_owner` owned. The server is ejected
    /// until recovery knows the fence's CAS.
    pub(in crate::tier::remote::memcached) fn raise_fence(&self, former_owner: Option<&Server>) {
        self.fence.raise(former_owner.map(|owner| owner.seed));
        self.eject_until_fence_is_settled();
    }

    pub(super) fn eject_until_fence_is_settled(&self) {
        self.events.emit(&Event::ServerFenced { address: self.address() });
        self.endpoint.health.eject();
        self.recover_in_background();
    }

    /// Returns true if this process has told the server of every change to the item since the item was stored.
    #[inline]
    pub(in crate::tier::remote::memcached) fn is_above_fence(
        &self,
        digest: Digest,
        cas_number: u64,
    ) -> bool {
        self.fence.is_at_or_below(cas_number) || !self.fence.covers(digest, self.seed)
    }

    /// Checks in the background if the server was restarted since the fence was raised. Then items below the
    /// fence are not stale, and the fence goes.
    pub(in crate::tier::remote::memcached) fn recheck_fence(&self) {
        if self.is_recovered() && self.endpoint.health.claim_attempt() {
            self.attempt_in_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_raise_stays_pending_when_an_earlier_one_settles() {
        let fence = CasFence::default();
        fence.raise(None);
        let before = fence.snapshot();
        fence.raise(None);
        fence.settle(before, 7);
        assert!(fence.is_pending() && fence.is_at_or_below(7) && !fence.is_at_or_below(6));
        fence.settle(fence.snapshot(), 9);
        assert!(!fence.is_pending() && !fence.is_at_or_below(8));
    }

    #[test]
    fn a_restarted_server_has_no_fence() {
        let (fence, digest) = (CasFence::default(), Digest::of(b"key"));
        let seed = RendezvousSeed::of("10.0.0.1:11211");
        fence.raise(None);
        fence.settle(fence.snapshot(), 7);
        assert!(fence.covers(digest, seed));
        fence.settle(fence.snapshot(), 1);
        assert!(fence.is_at_or_below(1) && !fence.covers(digest, seed));
    }
}
