//! The fence: a CAS number below which a server's items may be stale. A *CAS number* is the number
//! that a server gives to each version of an item, in ascending order.
//!
//! This process *raises* the fence when a change that it made to some keys might not have reached
//! the server. A background task (the recovery task) then writes an item to the server. The CAS
//! number of this item becomes the fence, because all older items have lower numbers. A raise is
//! *pending* until this number is known, and until then this process trusts no item that the fence
//! covers. A fence *covers* all keys, or only the keys that a removed server owned.
//!
//! With the fence, this process needs no list of the changed keys. The server keeps its items,
//! because other processes may use them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Server;
use super::rendezvous::RendezvousSeed;
use crate::event::Event;
use crate::key::Digest;
use crate::sync::lock;

/// The fence of one server, and the keys that the fence covers.
#[derive(Default)]
pub(super) struct CasFence {
    /// The lowest CAS number that is trusted: the fence, or `u64::MAX` while a raise is pending.
    /// The number changes only under the lock of `state`.
    trusted_from: AtomicU64,
    state: Mutex<FenceState>,
}

/// The fence, the keys that it covers, and the raise whose CAS number is not known yet.
#[derive(Default)]
struct FenceState {
    /// The fence, or 0 if there is no fence.
    cas_number: u64,
    covers_all_keys: bool,
    /// The seeds (address hashes) of removed servers. The fence covers each key that one of these
    /// servers owned.
    former_owners: Vec<RendezvousSeed>,
    /// How many raises there were so far.
    raises: u64,
    /// Identifies the pending raise: the value of `raises` when it began. `None` if no raise is
    /// pending.
    pending_raise: Option<u64>,
}

/// The state of the fence before a recovery attempt.
#[derive(Clone, Copy)]
pub(super) struct FenceSnapshot {
    cas_number: u64,
    pending_raise: Option<u64>,
}

impl CasFence {
    /// Raises the fence over every item that the server has now. If a removed server is given as
    /// `former_owner`, the raise covers only the items whose keys that server owned.
    pub(super) fn raise(&self, former_owner: Option<RendezvousSeed>) {
        let mut state = lock(&self.state);
        match former_owner {
            Some(owner) if state.former_owners.contains(&owner) => {}
            Some(owner) => state.former_owners.push(owner),
            None => state.covers_all_keys = true,
        }
        state.raises += 1;
        state.pending_raise = Some(state.raises);
        self.update_trusted_from(&state);
    }

    fn update_trusted_from(&self, state: &FenceState) {
        let number = if state.pending_raise.is_some() { u64::MAX } else { state.cas_number };
        self.trusted_from.store(number, Ordering::Release);
    }

    pub(super) fn is_pending(&self) -> bool {
        lock(&self.state).pending_raise.is_some()
    }

    /// If no raise is pending, calls `then` and returns its result. The fence cannot be raised
    /// until `then` has returned.
    pub(super) fn if_settled<T>(&self, then: impl FnOnce() -> T) -> Option<T> {
        let state = lock(&self.state);
        state.pending_raise.is_none().then(then)
    }

    pub(super) fn snapshot(&self) -> FenceSnapshot {
        let state = lock(&self.state);
        FenceSnapshot { cas_number: state.cas_number, pending_raise: state.pending_raise }
    }

    /// Updates the fence with the CAS number of an item that was written after the snapshot. Does
    /// nothing if another recovery attempt has updated the fence in the meantime. A raise that came
    /// after the snapshot stays pending.
    pub(super) fn settle(&self, before: FenceSnapshot, written_cas: u64) {
        let mut state = lock(&self.state);
        if state.cas_number != before.cas_number {
            return;
        }
        if before.pending_raise.is_some() {
            state.cas_number = written_cas;
            if state.pending_raise == before.pending_raise {
                state.pending_raise = None;
            }
        } else if written_cas < before.cas_number && state.pending_raise.is_none() {
            // The server's CAS numbers have started again, so the server was restarted, and its old
            // items are gone.
            state.cas_number = 0;
            (state.covers_all_keys, state.former_owners) = (false, Vec::new());
        }
        self.update_trusted_from(&state);
    }

    /// Returns true if an item with this CAS number is trusted without a look at its key.
    #[inline]
    fn trusts(&self, cas_number: u64) -> bool {
        cas_number >= self.trusted_from.load(Ordering::Acquire)
    }

    /// Returns true if the fence covers this key. `server` is the seed of the fence's own server.
    fn covers(&self, digest: Digest, server: RendezvousSeed) -> bool {
        let state = lock(&self.state);
        let own = server.score(digest);
        state.covers_all_keys || state.former_owners.iter().any(|owner| owner.score(digest) > own)
    }
}

impl Server {
    /// Raises the fence over every item that the server has now, and *ejects* the server: the
    /// server is not used until the CAS number of the fence is known. If a removed server is given
    /// as `former_owner`, the raise covers only the items whose keys that server owned.
    ///
    /// The caller must call [`report_fence`](Self::report_fence) after it has released its locks.
    pub(in crate::tier::remote::memcached) fn raise_fence(&self, former_owner: Option<&Server>) {
        self.fence.raise(former_owner.map(|owner| owner.seed));
        self.eject_until_fence_is_settled();
    }

    /// Emits an event for a raise of the fence. The server must already be ejected and its recovery
    /// started, because an observer may block.
    pub(in crate::tier::remote::memcached) fn report_fence(&self) {
        self.events.emit(&Event::ServerFenced { address: self.address() });
    }

    /// Ejects the server, because a new memcached process now runs at the server's address. The
    /// caller must have raised the fence over the new process's items.
    pub(super) fn eject_replaced(&self) {
        self.eject_until_fence_is_settled();
        self.events.emit(&Event::ServerReplaced { address: self.address() });
        self.report_fence();
    }

    pub(super) fn eject_until_fence_is_settled(&self) {
        self.endpoint.health.eject();
        self.recover_in_background();
    }

    /// Returns true if the item can be trusted: its CAS number is not below the fence, or the fence
    /// does not cover its key. The server then knows of every change that this process has made to
    /// the key since the item was stored.
    #[inline]
    pub(in crate::tier::remote::memcached) fn is_trusted(
        &self,
        digest: Digest,
        cas_number: u64,
    ) -> bool {
        self.fence.trusts(cas_number) || !self.fence.covers(digest, self.seed)
    }

    /// Checks in the background whether the server was restarted since the fence was raised. If so,
    /// the stale items are gone, and the fence is removed.
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
    fn a_later_raise_of_the_fence_stays_pending() {
        let fence = CasFence::default();
        fence.raise(None);
        let before = fence.snapshot();
        fence.raise(None);
        fence.settle(before, 7);
        assert!(fence.is_pending() && !fence.trusts(7));
        fence.settle(fence.snapshot(), 9);
        assert!(!fence.is_pending() && fence.trusts(9) && !fence.trusts(8));
    }

    #[test]
    fn a_restarted_server_has_no_fence() {
        let (fence, digest) = (CasFence::default(), Digest::of(b"key"));
        let seed = RendezvousSeed::of("10.0.0.1:11211");
        fence.raise(None);
        fence.settle(fence.snapshot(), 7);
        assert!(fence.covers(digest, seed));
        fence.settle(fence.snapshot(), 1);
        assert!(fence.trusts(1) && !fence.covers(digest, seed));
    }
}
