//! The permits of the memcached store. A read returns a *permit*, which allows one write to the key
//! if the key has not changed since the read.
//!
//! Some permits include a lease or a refresh claim. A *lease* is the right to run the annotated
//! function for a missing value. A *refresh claim* is the right to run the function again before an
//! item expires. On the server, a new lease is a *placeholder*, an empty item. Each renewal of the
//! lease stores a *marker* in its place. A *CAS* is a version number that the server gives to each
//! item, placeholder and marker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::background::BackgroundWrites;
use super::cas::Cas;
use super::item::{RawItem, WriteCondition, whole_seconds};
use super::lease::{HeldLease, SHORTEST_MARKER};
use super::observed_claims::ObservedClaims;
use super::renewals::{LeaseCountGuard, RENEWAL_INTERVAL, RenewalSchedule};
use super::returning_leases::ReturningLeases;
use super::route::KeyRoute;
use crate::flight::LeaderMonitor;
use crate::tier::remote::{RemoteError, WriteOutcome, WritePermit};

/// The state that all permits of one store share.
#[derive(Default)]
pub(super) struct SharedPermitState {
    pub(super) background: Arc<BackgroundWrites>,
    pub(super) renewals: Arc<RenewalSchedule>,
    pub(super) returning: Arc<ReturningLeases>,
    observed_claims: ObservedClaims,
}

/// The right to write one value to a key that has not changed since it was read.
///
/// A permit that is dropped before it has written gives back its lease or refresh claim.
pub(crate) struct MemcachedPermit {
    shared: Arc<SharedPermitState>,
    kind: PermitKind,
    /// True once the permit has written or removed its item. It then has nothing to give back.
    is_spent: AtomicBool,
}

/// The condition under which a permit writes.
///
/// A [`KeyRoute`] knows the key and the server to use. A permit writes on the route of its read,
/// because each server has its own CAS numbers.
enum PermitKind {
    /// The key must have no item.
    Absent(KeyRoute),
    /// The item, or another caller's lease, must still have this CAS.
    Unchanged(KeyRoute, Cas),
    /// The item must still have this CAS, and this process holds the refresh claim. A refresh claim
    /// is never renewed: a renewal would replace the item with a marker.
    RefreshClaim(KeyRoute, Cas),
    /// The key must still have this lease's placeholder or marker.
    Lease { lease: Arc<HeldLease>, _count: LeaseCountGuard },
}

impl MemcachedPermit {
    fn new(shared: &Arc<SharedPermitState>, kind: PermitKind) -> MemcachedPermit {
        MemcachedPermit { shared: Arc::clone(shared), kind, is_spent: AtomicBool::new(false) }
    }

    /// Creates a permit to store a value under a key without an item. If another caller holds the
    /// key's lease, `cas` must be the CAS of that lease.
    pub(super) fn add(
        shared: &Arc<SharedPermitState>,
        route: KeyRoute,
        cas: Option<Cas>,
    ) -> MemcachedPermit {
        MemcachedPermit::new(
            shared,
            match cas {
                Some(cas) => PermitKind::Unchanged(route, cas),
                None => PermitKind::Absent(route),
            },
        )
    }

    /// Creates a permit to replace an item.
    pub(super) fn of_item(
        shared: &Arc<SharedPermitState>,
        route: KeyRoute,
        item: &RawItem,
    ) -> MemcachedPermit {
        MemcachedPermit::new(
            shared,
            match item.is_claimed {
                true => PermitKind::RefreshClaim(route, item.cas),
                false => PermitKind::Unchanged(route, item.cas),
            },
        )
    }

    /// Creates a permit for a newly won lease. The lease is renewed while the permit exists.
    /// `length` is how long memcached keeps the lease's placeholder. `expected` is how long the
    /// annotated function is expected to run, or zero if unknown.
    pub(super) fn lease(
        shared: &Arc<SharedPermitState>,
        route: KeyRoute,
        cas: Cas,
        length: Duration,
        expected: Duration,
    ) -> MemcachedPermit {
        let marker_length = length.max(SHORTEST_MARKER);
        let lease = HeldLease::new(route.in_background(), cas, marker_length, expected);
        shared.renewals.add(&lease, RENEWAL_INTERVAL);
        let _count = LeaseCountGuard::new(&shared.renewals);
        MemcachedPermit::new(shared, PermitKind::Lease { lease, _count })
    }

    /// Removes the item in the background if it still has this CAS.
    fn remove_in_background(&self, route: &KeyRoute, cas: Cas) {
        let route = route.clone().in_background();
        let remove = move || {
            let route = route.clone();
            // A failure is harmless, because the item expires by itself.
            async move { drop(route.remove_unchanged(cas).await) }
        };
        self.shared.background.queue_write(0, Box::new(move || Box::pin(remove())));
    }
}

impl WritePermit for MemcachedPermit {
    async fn write(
        &self,
        frame: Vec<u8>,
        ttl: Duration,
        keep_expired: Duration,
    ) -> Result<WriteOutcome, RemoteError> {
        let (route, condition) = match &self.kind {
            PermitKind::Absent(route) => (route, WriteCondition::Absent),
            PermitKind::Unchanged(route, cas) | PermitKind::RefreshClaim(route, cas) => {
                (route, WriteCondition::Unchanged(*cas))
            }
            PermitKind::Lease { lease, .. } => match lease.settle().await {
                Some(cas) => (lease.route(), WriteCondition::Unchanged(cas)),
                // The lease was lost: another caller has changed the entry, or the lease has
                // expired.
                None => return Ok(WriteOutcome::NotStored),
            },
        };
        // A value with a ttl below one second is not sent to the server.
        let is_sent = whole_seconds(ttl) > 0;
        let mut written = route.write(frame, ttl, keep_expired, condition).await;
        if let (Ok(WriteOutcome::NotStored), PermitKind::Lease { lease, .. }) =
            (&written, &self.kind)
            && let WriteCondition::Unchanged(cas) = condition
            && is_sent
            && lease.is_on_server(cas).await
        {
            // The server still has the lease, so the server has ignored the write.
            written = Err(route.server().ignored_write());
        }
        route.record_fill(&written);
        let outcome = written?;
        if outcome != WriteOutcome::NotStored {
            self.is_spent.store(true, Ordering::Relaxed);
        }
        Ok(outcome)
    }

    fn remove_item(mut self) {
        if let PermitKind::Unchanged(route, cas) | PermitKind::RefreshClaim(route, cas) = &self.kind
        {
            self.remove_in_background(route, *cas);
            *self.is_spent.get_mut() = true;
        }
    }

    fn in_background(mut self) -> MemcachedPermit {
        match &mut self.kind {
            PermitKind::Absent(route)
            | PermitKind::Unchanged(route, _)
            | PermitKind::RefreshClaim(route, _) => {
                route.move_to_background();
            }
            // The route of a lease has background priority from the start.
            PermitKind::Lease { .. } => {}
        }
        self
    }

    fn renew_while(&self, leader: LeaderMonitor) {
        if let PermitKind::Lease { lease, .. } = &self.kind {
            lease.renew_while(leader);
        }
    }

    fn renew_here(&self) {
        if let PermitKind::Lease { lease, .. } = &self.kind {
            self.shared.renewals.take_over(lease);
        }
    }

    fn is_store_full(&self) -> bool {
        match &self.kind {
            PermitKind::Absent(route)
            | PermitKind::Unchanged(route, _)
            | PermitKind::RefreshClaim(route, _) => route.stores_nothing(),
            PermitKind::Lease { lease, .. } => lease.route().stores_nothing(),
        }
    }

    fn is_claim_abandoned(&self, limit: Duration) -> bool {
        match &self.kind {
            PermitKind::Unchanged(route, cas) => {
                self.shared.observed_claims.take_over_if_abandoned(&route.key, *cas, limit)
            }
            PermitKind::Absent(_) | PermitKind::RefreshClaim(..) | PermitKind::Lease { .. } => {
                false
            }
        }
    }
}

impl Drop for MemcachedPermit {
    fn drop(&mut self) {
        if *self.is_spent.get_mut() {
            return;
        }
        match &self.kind {
            PermitKind::Absent(_) | PermitKind::Unchanged(..) => {}
            PermitKind::RefreshClaim(route, cas) => {
                let (route, cas) = (route.clone().in_background(), *cas);
                let give_back = move || {
                    let route = route.clone();
                    // A failure is harmless, because the claim counts as abandoned after a while.
                    async move { drop(route.give_back_claim(cas).await) }
                };
                self.shared.background.queue_write(0, Box::new(move || Box::pin(give_back())));
            }
            PermitKind::Lease { lease, .. } => {
                let lease = Arc::clone(lease);
                let mark = Arc::new(self.shared.returning.mark(&lease.route().key));
                let give_back = move || {
                    let (lease, mark) = (Arc::clone(&lease), Arc::clone(&mark));
                    async move {
                        if let Some(cas) = lease.settle().await {
                            // A failure is harmless, because the lease ends by itself.
                            drop(lease.route().remove_unchanged(cas).await);
                        }
                        mark.end();
                    }
                };
                self.shared.background.queue_write(0, Box::new(move || Box::pin(give_back())));
            }
        }
    }
}
