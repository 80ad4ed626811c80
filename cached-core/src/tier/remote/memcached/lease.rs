//! A lease that this process holds, and its renewal.
//!
//! A *lease* is the right to fetch a missing value; a *fetch* is a run of the annotated function.
//!
//! A read that wins a lease leaves a *placeholder* on the server, an empty item that usually lasts
//! for 2 s. Every half second during the fetch, the holder of the lease stores a new
//! [`LeaseMarker`] in place of the placeholder or the last marker. A lease therefore lasts as long
//! as its fetch, and the lease of a killed process usually ends within 1 to 3 s. A fetch that takes
//! less than half a second needs no renewal.
//!
//! A renewal requires that the placeholder or marker still has its last known CAS (version number).
//! memcached refuses the renewal if another caller has invalidated, overwritten or added the entry.
//! The lease is then *lost*, and the fetched value is not stored.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::cas::Cas;
use super::item::{BusyLease, ReadReply, whole_seconds};
use super::marker::LeaseMarker;
use super::route::KeyRoute;
use crate::flight::LeaderMonitor;
use crate::sync::lock;
use crate::tier::remote::RemoteError;

/// The shortest ttl of a marker.
pub(super) const SHORTEST_MARKER: Duration = Duration::from_secs(3);
/// If a fetch was woken this long ago and has not been polled since, the fetch counts as stopped.
/// Its lease is then no longer renewed.
const STOPPED_AFTER: Duration = Duration::from_secs(10);
/// A lease is renewed for this long or for four times the expected fetch time, whichever is longer.
/// The limit is needed because some fetches never end.
const LONGEST_LEASE: Duration = Duration::from_secs(60);
/// How long the holder waits for a renewal that is under way, before it writes the value or removes
/// the lease.
const RENEWAL_WAIT: Duration = Duration::from_secs(2);

/// A lease that this process holds. The code that stores the value and the code that renews the
/// lease share one `HeldLease`.
pub(super) struct HeldLease {
    route: KeyRoute,
    /// A random number that distinguishes this lease's markers from the markers of other leases.
    nonce: u64,
    won_at: Instant,
    /// How long memcached keeps each marker.
    pub(super) marker_length: Duration,
    /// How long the fetch is expected to take; zero if unknown.
    expected: Duration,
    /// Reports whether a runtime still runs the fetch.
    leader: OnceLock<LeaderMonitor>,
    state: Mutex<LeaseState>,
    /// Notified when a renewal ends.
    renewed: Notify,
}

/// The part of a lease that renewals change.
struct LeaseState {
    /// The CAS of the placeholder or of the newest marker.
    cas: Cas,
    phase: LeasePhase,
    /// True if a renewal got no reply, so that `cas` may be out of date.
    is_uncertain: bool,
    /// The number of the newest renewal. A renewal with an older number was given up, and must not
    /// change this state.
    newest_renewal: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LeasePhase {
    Held,
    /// A renewal is under way.
    Renewing,
    /// The server no longer has the lease: another caller has changed the entry, or the lease has
    /// expired.
    Lost,
    /// The holder is writing the value or giving the lease back. No further renewal starts.
    Settled,
}

impl HeldLease {
    pub(super) fn new(
        route: KeyRoute,
        cas: Cas,
        marker_length: Duration,
        expected: Duration,
    ) -> Arc<HeldLease> {
        let state =
            LeaseState { cas, phase: LeasePhase::Held, is_uncertain: false, newest_renewal: 0 };
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

    pub(super) fn route(&self) -> &KeyRoute {
        &self.route
    }

    /// Ends the renewals once the fetch that `leader` monitors has stopped.
    pub(super) fn renew_while(&self, leader: LeaderMonitor) {
        let _ = self.leader.set(leader);
    }

    fn state(&self) -> MutexGuard<'_, LeaseState> {
        lock(&self.state)
    }

    /// Ends the renewals. Returns the CAS that a write must require, or `None` if the lease was
    /// lost.
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
                        // A renewal that is under way may still reach memcached. memcached then
                        // refuses either the renewal or the write, whichever comes second.
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

    /// Returns true if the server still has the placeholder or marker with this CAS. In that case,
    /// the server has no reason to refuse a write that requires this CAS.
    pub(super) async fn is_on_server(&self, cas: Cas) -> bool {
        self.find(cas).await.is_ok_and(|found| found == Some(cas))
    }

    /// Reads the CAS of this lease's placeholder or marker from the server. Returns `None` if the
    /// server no longer has this lease.
    async fn find(&self, last_known: Cas) -> Result<Option<Cas>, RemoteError> {
        Ok(match self.route.peek().await? {
            ReadReply::Busy(BusyLease { cas: Some(cas), marker: Some(marker), .. }) => {
                (marker.nonce == self.nonce).then_some(cas)
            }
            // No renewal has reached the server.
            ReadReply::Busy(BusyLease { cas: Some(cas), marker: None, .. }) => {
                (cas == last_known).then_some(cas)
            }
            _ => None,
        })
    }

    /// Renews the lease. Returns true if the lease needs another renewal later.
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
            state.newest_renewal += 1;
            (state.cas, state.is_uncertain, state.newest_renewal)
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
                self.route.server().report_failed_renewal(&error);
                renewal.is_newest()
            }
        }
    }

    /// Gives up a renewal that is under way, because its runtime may no longer run. The next
    /// renewal can then start.
    pub(super) fn give_up_renewal(&self) {
        {
            let mut state = self.state();
            if state.phase == LeasePhase::Renewing {
                (state.phase, state.is_uncertain) = (LeasePhase::Held, true);
                state.newest_renewal += 1;
            }
        }
        self.renewed.notify_waiters();
    }
}

enum RenewalOutcome {
    /// The lease has a new marker with this CAS.
    Renewed(Cas),
    LeaseLost,
}

/// A renewal that is under way. Dropping the attempt records the outcome in the lease. If there is
/// no outcome, because memcached did not reply or the runtime ended, the lease's CAS becomes
/// uncertain.
struct RenewalAttempt<'l> {
    lease: &'l HeldLease,
    number: u32,
    outcome: Option<RenewalOutcome>,
}

impl RenewalAttempt<'_> {
    /// Returns false if this renewal was given up.
    fn is_newest(&self) -> bool {
        self.lease.state().newest_renewal == self.number
    }
}

impl Drop for RenewalAttempt<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.lease.state();
            let is_given_up =
                state.phase == LeasePhase::Settled || state.newest_renewal != self.number;
            match self.outcome {
                // This renewal was given up, and the holder reads the current CAS from the server
                // if necessary.
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
