//! A lease that this process holds, and its renewal.
//!
//! A lease is won for 2 s. Every half second from then on, its holder replaces memcached's
//! placeholder by a [`LeaseMarker`] under the placeholder's CAS, for as long as it fetches. So a
//! lease lasts as long as its fetch, and the lease of a killed process ends within 1 to 3 s. A fetch
//! that takes less than half a second pays nothing.
//!
//! memcached refuses a renewal if somebody has changed the entry since: invalidated, overwritten or
//! added it. The lease is then lost, and the fetch stores nothing.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::cas::Cas;
use super::item::{BusyLease, ReadReply};
use super::marker::LeaseMarker;
use super::route::Route;
use super::whole_seconds;
use crate::flight::LeaderMonitor;
use crate::sync::lock;
use crate::tier::remote::RemoteError;

/// The shortest time for which memcached keeps a marker that is not renewed.
pub(super) const LEAST_RENEWED: Duration = Duration::from_secs(3);
/// A lease is no longer renewed if its fetch was woken this long ago and not polled since: no
/// runtime drives the fetch.
const STOPPED_AFTER: Duration = Duration::from_secs(10);
/// A fetch may never end, so a lease is renewed for this long at most, or for four times what its
/// fetch is expected to take.
const LONGEST_LEASE: Duration = Duration::from_secs(60);
/// How long a fill waits for a renewal that is under way.
const RENEWAL_WAIT: Duration = Duration::from_secs(2);

/// A lease that this process holds: its permit and its renewals share it.
pub(super) struct HeldLease {
    route: Route,
    /// Tells this lease's markers from another's.
    nonce: u64,
    won_at: Instant,
    /// How long memcached keeps each marker.
    pub(super) marker_length: Duration,
    /// How long the fetch is expected to take; zero if that is not known.
    expected: Duration,
    /// Tells if the fetch is still driven.
    leader: OnceLock<LeaderMonitor>,
    state: Mutex<LeaseState>,
    /// Notified when a renewal ends.
    renewed: Notify,
}

struct LeaseState {
    /// The CAS of the placeholder or of the newest marker.
    cas: Cas,
    phase: LeasePhase,
    /// True if a renewal was not answered, so that memcached may have another CAS by now.
    is_uncertain: bool,
    /// The number of the newest renewal. A renewal with an older number was given up, and must not
    /// change this state.
    renewal: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LeasePhase {
    Held,
    /// A renewal is under way.
    Renewing,
    /// Another caller has changed the entry.
    Lost,
    /// The holder fills the key or gives the lease back. There are no more renewals.
    Settled,
}

impl HeldLease {
    pub(super) fn new(
        route: Route,
        cas: Cas,
        marker_length: Duration,
        expected: Duration,
    ) -> Arc<HeldLease> {
        let state = LeaseState { cas, phase: LeasePhase::Held, is_uncertain: false, renewal: 0 };
        Arc::new(HeldLease {
            route,
            nonce: RandomState::new().hash_one(cas),
            won_at: Instant::now(),
            marker_length,
            expected,
            leader: OnceLock::new(),
            state: Mutex::new(state),
            renewed: Notify::new(),
        })
    }

    pub(super) fn route(&self) -> &Route {
        &self.route
    }

    /// Ends the renewals once the fetch that `leader` runs has stopped.
    pub(super) fn hold_while(&self, leader: LeaderMonitor) {
        let _ = self.leader.set(leader);
    }

    fn state(&self) -> MutexGuard<'_, LeaseState> {
        lock(&self.state)
    }

    /// Ends the renewals. Returns the CAS to write under, or `None` if the lease was lost.
    pub(super) async fn settle(&self) -> Option<Cas> {
        let give_up = tokio::time::Instant::now() + RENEWAL_WAIT;
        let (cas, is_uncertain) = loop {
            let renewed = self.renewed.notified();
            tokio::pin!(renewed);
            renewed.as_mut().enable();
            {
                let mut state = self.state();
                match state.phase {
                    LeasePhase::Lost => return None,
                    LeasePhase::Renewing if tokio::time::Instant::now() < give_up => {}
                    LeasePhase::Renewing | LeasePhase::Held | LeasePhase::Settled => {
                        // A renewal that is given up here may still reach memcached. Then memcached
                        // refuses either the renewal or the write.
                        state.is_uncertain |= state.phase == LeasePhase::Renewing;
                        state.phase = LeasePhase::Settled;
                        break (state.cas, state.is_uncertain);
                    }
                }
            }
            let _ = tokio::time::timeout_at(give_up, renewed).await;
        };
        if !is_uncertain {
            return Some(cas);
        }
        let found = self.find(cas).await.ok().flatten();
        let mut state = self.state();
        match found {
            Some(cas) => (state.cas, state.is_uncertain) = (cas, false),
            None => state.phase = LeasePhase::Lost,
        }
        found
    }

    /// Returns the CAS under which memcached has this lease, or `None` if it has something else.
    async fn find(&self, last_known: Cas) -> Result<Option<Cas>, RemoteError> {
        Ok(match self.route.peek().await? {
            ReadReply::Busy(BusyLease { cas: Some(cas), marker: Some(marker) }) => {
                (marker.nonce == self.nonce).then_some(cas)
            }
            // No renewal has reached the server.
            ReadReply::Busy(BusyLease { cas: Some(cas), marker: None }) => {
                (cas == last_known).then_some(cas)
            }
            _ => None,
        })
    }

    /// Renews the lease. Returns true if it is to be renewed again.
    pub(super) async fn renew(&self) -> bool {
        let lasted = self.won_at.elapsed();
        let is_stopped = self.leader.get().is_some_and(|leader| leader.is_stalled(STOPPED_AFTER));
        if is_stopped || lasted > LONGEST_LEASE.max(self.expected.saturating_mul(4)) {
            return false;
        }
        let (mut cas, is_uncertain, number) = {
            let mut state = self.state();
            if state.phase != LeasePhase::Held {
                return false;
            }
            state.phase = LeasePhase::Renewing;
            state.renewal += 1;
            (state.cas, state.is_uncertain, state.renewal)
        };
        let mut renewal = RenewalAttempt { lease: self, number, outcome: None };
        if is_uncertain {
            match self.find(cas).await {
                Ok(Some(found)) => cas = found,
                Ok(None) => {
                    renewal.outcome = Some(RenewalOutcome::LeaseLost);
                    return false;
                }
                Err(_) => return renewal.is_newest(),
            }
        }
        let marker = LeaseMarker { nonce: self.nonce, elapsed: lasted, expected: self.expected };
        match self.route.renew(marker, whole_seconds(self.marker_length), cas).await {
            Ok(Some(renewed)) => {
                renewal.outcome = Some(RenewalOutcome::Renewed(renewed));
                renewal.is_newest()
            }
            Ok(None) => {
                renewal.outcome = Some(RenewalOutcome::LeaseLost);
                false
            }
            Err(error) => {
                log::debug!("a lease was not renewed: {error}");
                renewal.is_newest()
            }
        }
    }

    /// Gives up a renewal that is under way, because its runtime may stand still. The next renewal
    /// does not wait for its answer.
    pub(super) fn give_up_renewal(&self) {
        {
            let mut state = self.state();
            if state.phase == LeasePhase::Renewing {
                (state.phase, state.is_uncertain) = (LeasePhase::Held, true);
                state.renewal += 1;
            }
        }
        self.renewed.notify_waiters();
    }
}

enum RenewalOutcome {
    Renewed(Cas),
    LeaseLost,
}

/// A renewal that is under way. If it is dropped without an outcome, because memcached did not answer
/// or the runtime ended, the lease becomes uncertain.
struct RenewalAttempt<'l> {
    lease: &'l HeldLease,
    number: u32,
    outcome: Option<RenewalOutcome>,
}

impl RenewalAttempt<'_> {
    /// Returns false if the renewal was given up.
    fn is_newest(&self) -> bool {
        self.lease.state().renewal == self.number
    }
}

impl Drop for RenewalAttempt<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.lease.state();
            let is_given_up = state.phase == LeasePhase::Settled || state.renewal != self.number;
            match self.outcome {
                // The holder has gone on without this renewal, and finds the CAS by itself.
                _ if is_given_up => {}
                Some(RenewalOutcome::Renewed(cas)) => {
                    (state.cas, state.phase, state.is_uncertain) = (cas, LeasePhase::Held, false);
                }
                Some(RenewalOutcome::LeaseLost) => state.phase = LeasePhase::Lost,
                None => (state.phase, state.is_uncertain) = (LeasePhase::Held, true),
            }
        }
        self.lease.renewed.notify_waiters();
    }
}
