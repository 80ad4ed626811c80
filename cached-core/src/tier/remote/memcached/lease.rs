//! The right to fill an entry, won from memcached.
//!
//! A lease is won for 2 s. Half a second later, and every half second from then on, its
//! holder replaces memcached's placeholder by a [`LeaseMarker`] under the placeholder's CAS, for as long as
//! it fetches. So a lease lasts as long as the fetch does, the lease of a process that was killed is
//! over in 1 to 3 s, and a fetch that is over within half a second pays nothing.
//!
//! A renewal that memcached refuses means that somebody has changed the entry since: invalidated,
//! overwritten or added it. Then the lease is lost for good, and the fetch stores nothing.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::renewals::{LeaseRequest, RENEWED_EVERY};
use super::{
    BusyLease, Cas, Found, Item, LeaseMarker, Remote, RemoteError, RemoteKey, whole_seconds,
};
use crate::flight::Pulse;

/// How long memcached keeps a marker that its holder does not renew, if the lease is not longer.
const LEAST_RENEWED: Duration = Duration::from_secs(3);
/// A lease is not renewed for a fetch that was woken and not polled for this long: nobody runs it.
const STOPPED_AFTER: Duration = Duration::from_secs(10);
/// Nor is it renewed for a fetch that takes longer than this, if fetches of its function are not known
/// to take long: it may never end, and others do not wait for longer.
const LEAST_LONGEST_LEASE: Duration = Duration::from_secs(60);
/// How long a fill waits for a renewal under way.
const RENEWAL_WAIT: Duration = Duration::from_secs(2);

/// A lease that was won. Dropped unused, it is given back in the background, so that nobody waits for
/// it.
pub(crate) struct Lease {
    remote: Arc<Remote>,
    held: Arc<HeldLease>,
    _counted: LeaseRequest,
    is_used: AtomicBool,
    /// Whether there is an item, which the lease lets its holder replace.
    of_item: bool,
}

/// The part of a lease that its holder shares with the renewals.
pub(super) struct HeldLease {
    key: RemoteKey,
    nonce: u64,
    won_at: Instant,
    /// How long memcached keeps a marker.
    pub(super) lasts: Duration,
    /// How long the fetch is expected to take; zero if nothing is known.
    expected: Duration,
    /// Tells whether the fetch is still run.
    pulse: OnceLock<Pulse>,
    state: Mutex<LeaseState>,
    renewed: Notify,
}

struct LeaseState {
    /// The CAS of the placeholder or of the newest marker.
    cas: Cas,
    phase: Phase,
    /// Whether a renewal was not answered: the CAS may be another by now.
    is_uncertain: bool,
    /// The number of the newest renewal. One with an older number was given up, and changes nothing here.
    renewal: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Held,
    /// A renewal is under way.
    Renewing,
    /// Somebody else has changed the entry.
    Lost,
    /// The holder is about to fill, or gives the lease back: it is not renewed any more.
    Settled,
}

impl Lease {
    /// A lease to fill what is missing, renewed while it is held. Its placeholder lasts for `lease`, and its fetch is expected to take `expected`, which is zero
    /// if nothing is known.
    pub(crate) fn new(
        remote: &Arc<Remote>,
        key: RemoteKey,
        cas: Cas,
        lease: Duration,
        expected: Duration,
    ) -> Lease {
        let lasts = lease.max(LEAST_RENEWED);
        let held = Lease::held(remote, key, cas, lasts, expected);
        remote.renewals.add(&held.held, RENEWED_EVERY);
        held
    }

    /// A lease to replace an item. It is not renewed, since a marker would take the item's place.
    pub(crate) fn of_item(remote: &Arc<Remote>, key: RemoteKey, item: &Item) -> Lease {
        let mut lease = Lease::held(remote, key, item.cas, Duration::ZERO, Duration::ZERO);
        lease.of_item = true;
        lease
    }

    /// Removes an item in the background, if it is still what was read under this CAS.
    pub(crate) fn remove_item(remote: &Arc<Remote>, key: RemoteKey, cas: Cas) {
        drop(Lease::held(remote, key, cas, Duration::ZERO, Duration::ZERO));
    }

    fn held(
        remote: &Arc<Remote>,
        key: RemoteKey,
        cas: Cas,
        lasts: Duration,
        expected: Duration,
    ) -> Lease {
        let held = HeldLease {
            key: key.in_background(),
            nonce: RandomState::new().hash_one(cas),
            won_at: Instant::now(),
            lasts,
            expected,
            pulse: OnceLock::new(),
            state: Mutex::new(LeaseState {
                cas,
                phase: Phase::Held,
                is_uncertain: false,
                renewal: 0,
            }),
            renewed: Notify::new(),
        };
        let (remote, held) = (Arc::clone(remote), Arc::new(held));
        let _counted = LeaseRequest::new(&remote.renewals);
        Lease { remote, held, _counted, is_used: AtomicBool::new(false), of_item: false }
    }

    /// Ends the renewals once the fetch that `pulse` belongs to is not run any more.
    pub(crate) fn follow(&self, pulse: Pulse) {
        let _ = self.held.pulse.set(pulse);
    }

    /// Has the running runtime renew the lease, whose fetch goes on here: the runtime that won it may have
    /// ended, or may not be driven any more.
    pub(crate) fn renew_here(&self) {
        if !self.of_item {
            self.remote.renewals.take_over(&self.held);
        }
    }

    pub(crate) fn key(&self) -> &RemoteKey {
        &self.held.key
    }

    /// Ends the renewals and returns the CAS to fill under, or `None` if the lease was lost.
    pub(crate) async fn settle(&self) -> Option<Cas> {
        self.held.settle().await
    }

    /// Makes the lease take its item along when it is given back. By default the item is left for
    /// others to replace.
    pub(crate) fn takes_its_item(mut self) {
        self.of_item = false;
    }

    /// The fill is done: there is nothing to give back.
    pub(crate) fn used(&self) {
        self.is_used.store(true, Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if *self.is_used.get_mut() {
            return;
        }
        let (held, of_item) = (Arc::clone(&self.held), self.of_item);
        let give_back = move || {
            let held = Arc::clone(&held);
            async move {
                let Some(cas) = held.settle().await else { return };
                // Best effort: the lease runs out by itself, and an item goes.
                let _ = match of_item {
                    false => held.key.give_back(cas).await,
                    true => held.key.let_others_win(cas).await,
                };
            }
        };
        self.remote.background.run(0, Box::new(move || Box::pin(give_back())));
    }
}

impl HeldLease {
    fn state(&self) -> MutexGuard<'_, LeaseState> {
        // Nothing panics while it holds this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn settle(&self) -> Option<Cas> {
        let give_up = tokio::time::Instant::now() + RENEWAL_WAIT;
        let (cas, is_uncertain) = loop {
            let renewed = self.renewed.notified();
            tokio::pin!(renewed);
            renewed.as_mut().enable();
            {
                let mut state = self.state();
                match state.phase {
                    Phase::Lost => return None,
                    Phase::Renewing if tokio::time::Instant::now() < give_up => {}
                    Phase::Renewing | Phase::Held | Phase::Settled => {
                        // A renewal that is given up here may reach memcached yet: then the fill is
                        // refused, or the renewal is.
                        state.is_uncertain |= state.phase == Phase::Renewing;
                        state.phase = Phase::Settled;
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
            None => state.phase = Phase::Lost,
        }
        found
    }

    /// The CAS under which memcached has this lease; `None` if it has something else.
    async fn find(&self, last_known: Cas) -> Result<Option<Cas>, RemoteError> {
        Ok(match self.key.look().await? {
            Found::Busy(BusyLease { cas: Some(cas), marker: Some(marker) }) => {
                (marker.nonce == self.nonce).then_some(cas)
            }
            // No renewal has reached it.
            Found::Busy(BusyLease { cas: Some(cas), marker: None }) => {
                (cas == last_known).then_some(cas)
            }
            _ => None,
        })
    }

    /// Renews the lease; returns whether it is to be renewed again.
    pub(super) async fn renew(&self) -> bool {
        let lasted = self.won_at.elapsed();
        let is_stopped = self.pulse.get().is_some_and(|pulse| pulse.has_stopped(STOPPED_AFTER));
        if is_stopped || lasted > LEAST_LONGEST_LEASE.max(self.expected.saturating_mul(4)) {
            return false;
        }
        let (mut cas, is_uncertain, number) = {
            let mut state = self.state();
            if state.phase != Phase::Held {
                return false;
            }
            state.phase = Phase::Renewing;
            state.renewal += 1;
            (state.cas, state.is_uncertain, state.renewal)
        };
        let mut renewal = Renewal { lease: self, number, outcome: None };
        if is_uncertain {
            match self.find(cas).await {
                Ok(Some(found)) => cas = found,
                Ok(None) => {
                    renewal.outcome = Some(None);
                    return false;
                }
                Err(_) => return renewal.is_newest(),
            }
        }
        let marker = LeaseMarker { nonce: self.nonce, elapsed: lasted, expected: self.expected };
        match self.key.renew(marker, whole_seconds(self.lasts), cas).await {
            Ok(renewed) => {
                renewal.outcome = Some(renewed);
                renewed.is_some() && renewal.is_newest()
            }
            Err(error) => {
                log::debug!("a lease was not renewed: {error}");
                renewal.is_newest()
            }
        }
    }

    /// Gives up a renewal under way, whose runtime may stand still: another begins without its answer.
    pub(super) fn give_up_renewal(&self) {
        {
            let mut state = self.state();
            if state.phase == Phase::Renewing {
                (state.phase, state.is_uncertain) = (Phase::Held, true);
                state.renewal += 1;
            }
        }
        self.renewed.notify_waiters();
    }
}

/// A renewal under way. Dropped without an outcome, because memcached did not answer or the runtime
/// ends, it leaves the lease uncertain.
struct Renewal<'l> {
    lease: &'l HeldLease,
    number: u32,
    /// The new CAS, or that the lease is lost.
    outcome: Option<Option<Cas>>,
}

impl Renewal<'_> {
    /// Returns false if the renewal was given up.
    fn is_newest(&self) -> bool {
        self.lease.state().renewal == self.number
    }
}

impl Drop for Renewal<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.lease.state();
            let is_given_up = state.phase == Phase::Settled || state.renewal != self.number;
            match self.outcome {
                // Others have gone on without it, and find out for themselves.
                _ if is_given_up => {}
                Some(Some(cas)) => {
                    (state.cas, state.phase, state.is_uncertain) = (cas, Phase::Held, false);
                }
                Some(None) => state.phase = Phase::Lost,
                None => (state.phase, state.is_uncertain) = (Phase::Held, true),
            }
        }
        self.lease.renewed.notify_waiters();
    }
}
