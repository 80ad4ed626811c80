//! The right to fill an entry, won from memcached.
//!
//! A lease is won for [`FIRST_LEASE`]. Half a second later, and every half second from then on, its
//! holder replaces memcached's placeholder by a [`Marker`] under the placeholder's CAS, for as long as
//! it fetches. So a lease lasts as long as the fetch does, the lease of a process that was killed is
//! over in 1 to 3 s, and a fetch that is over within half a second pays nothing.
//!
//! A renewal that memcached refuses means that somebody has changed the entry since: invalidated,
//! overwritten or added it. Then the lease is lost for good, and the fetch stores nothing.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;

use super::join::{Joined, join_all};
use super::{Busy, Found, Item, Marker, Remote, RemoteError, RemoteKey, whole_seconds};
use crate::flight::Pulse;

/// How long memcached keeps the placeholder of a lease: 2 s, which its clock makes 1 to 2.
const FIRST_LEASE: Duration = Duration::from_secs(2);
/// A process that asks for or holds so many leases at once asks for a second more, since its callers and
/// its fills wait for their turn; up to [`LONGEST_FIRST_LEASE`].
const LEASES_A_SECOND: usize = 4096;
const LONGEST_FIRST_LEASE: Duration = Duration::from_secs(10);
/// How often a lease is renewed.
const RENEWED_EVERY: Duration = Duration::from_millis(500);
/// How long memcached keeps a marker that its holder does not renew, if the lease is not longer.
const LEAST_RENEWED: Duration = Duration::from_secs(3);
/// How often the leases are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How many leases are renewed at once.
const MOST_AT_ONCE: usize = 256;
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

/// What the holder and the renewals of a lease share.
struct HeldLease {
    key: RemoteKey,
    nonce: u64,
    won_at: Instant,
    /// How long memcached keeps a marker.
    lasts: Duration,
    /// How long the fetch is expected to take; zero if nothing is known.
    expected: Duration,
    /// Tells whether the fetch is still run.
    pulse: OnceLock<Pulse>,
    state: Mutex<LeaseState>,
    renewed: Notify,
}

struct LeaseState {
    /// The CAS of the placeholder or of the newest marker.
    cas: u64,
    phase: Phase,
    /// Whether a renewal was not answered: the CAS may be another by now.
    is_uncertain: bool,
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
    /// A lease to fill what is missing, renewed while it is held.
    /// Its placeholder lasts for `lease`, and its fetch is expected to take `expected`, which is zero
    /// if nothing is known.
    pub(crate) fn new(
        remote: &Arc<Remote>,
        key: RemoteKey,
        cas: u64,
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
    pub(crate) fn remove_item(remote: &Arc<Remote>, key: RemoteKey, cas: u64) {
        drop(Lease::held(remote, key, cas, Duration::ZERO, Duration::ZERO));
    }

    fn held(
        remote: &Arc<Remote>,
        key: RemoteKey,
        cas: u64,
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
            state: Mutex::new(LeaseState { cas, phase: Phase::Held, is_uncertain: false }),
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
    /// ended.
    pub(crate) fn renew_here(&self) {
        if !self.of_item && !self.remote.renewals.has(&self.held) {
            self.remote.renewals.add(&self.held, RENEWED_EVERY);
        }
    }

    pub(crate) fn key(&self) -> &RemoteKey {
        &self.held.key
    }

    /// Ends the renewals and returns the CAS to fill under, or `None` if the lease was lost.
    pub(crate) async fn settle(&self) -> Option<u64> {
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

    async fn settle(&self) -> Option<u64> {
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
    async fn find(&self, last_known: u64) -> Result<Option<u64>, RemoteError> {
        Ok(match self.key.look().await? {
            Found::Busy(Busy { cas: Some(cas), marker: Some(marker) }) => {
                (marker.nonce == self.nonce).then_some(cas)
            }
            // No renewal has reached it.
            Found::Busy(Busy { cas: Some(cas), marker: None }) => {
                (cas == last_known).then_some(cas)
            }
            _ => None,
        })
    }

    /// Renews the lease; returns whether it is to be renewed again.
    async fn renew(&self) -> bool {
        let lasted = self.won_at.elapsed();
        let is_stopped = self.pulse.get().is_some_and(|pulse| pulse.has_stopped(STOPPED_AFTER));
        if is_stopped || lasted > LEAST_LONGEST_LEASE.max(self.expected.saturating_mul(4)) {
            return false;
        }
        let (mut cas, is_uncertain) = {
            let mut state = self.state();
            if state.phase != Phase::Held {
                return false;
            }
            state.phase = Phase::Renewing;
            (state.cas, state.is_uncertain)
        };
        let mut renewal = Renewal { lease: self, outcome: None };
        if is_uncertain {
            match self.find(cas).await {
                Ok(Some(found)) => cas = found,
                Ok(None) => {
                    renewal.outcome = Some(None);
                    return false;
                }
                Err(_) => return true,
            }
        }
        let marker = Marker { nonce: self.nonce, elapsed: lasted, expected: self.expected };
        match self.key.renew(marker, whole_seconds(self.lasts), cas).await {
            Ok(renewed) => {
                renewal.outcome = Some(renewed);
                renewed.is_some()
            }
            Err(error) => {
                log::debug!("a lease was not renewed: {error}");
                true
            }
        }
    }
}

/// A renewal under way. Dropped without an outcome, because memcached did not answer or the runtime
/// ends, it leaves the lease uncertain.
struct Renewal<'l> {
    lease: &'l HeldLease,
    /// The new CAS, or that the lease is lost.
    outcome: Option<Option<u64>>,
}

impl Drop for Renewal<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.lease.state();
            let is_settled = state.phase == Phase::Settled;
            match self.outcome {
                // The holder has gone on without it, and finds out for itself.
                _ if is_settled => {}
                Some(Some(cas)) => {
                    *state = LeaseState { cas, phase: Phase::Held, is_uncertain: false };
                }
                Some(None) => state.phase = Phase::Lost,
                None => (state.phase, state.is_uncertain) = (Phase::Held, true),
            }
        }
        self.lease.renewed.notify_waiters();
    }
}

/// The leases that are to be renewed, each by a task of the runtime that won it.
#[derive(Default)]
pub(super) struct Renewals {
    runtimes: Mutex<Vec<(Id, Due)>>,
    /// The leases that this process asks for or holds.
    leases: AtomicUsize,
}

/// Counts as a lease that is asked for until it is dropped.
pub(crate) struct LeaseRequest(Arc<Renewals>);

impl LeaseRequest {
    pub(super) fn new(renewals: &Arc<Renewals>) -> LeaseRequest {
        renewals.leases.fetch_add(1, Ordering::Relaxed);
        LeaseRequest(Arc::clone(renewals))
    }

    /// How long the placeholder of the lease is to last.
    pub(super) fn first_lease(&self) -> Duration {
        let leases = self.0.leases.load(Ordering::Relaxed);
        let more = Duration::from_secs((leases / LEASES_A_SECOND) as u64);
        (FIRST_LEASE + more).min(LONGEST_FIRST_LEASE)
    }
}

impl Drop for LeaseRequest {
    fn drop(&mut self) {
        self.0.leases.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Leases with the times at which they are due, in that order.
type Due = VecDeque<(tokio::time::Instant, Weak<HeldLease>)>;

impl Renewals {
    fn add(self: &Arc<Renewals>, lease: &Arc<HeldLease>, due_in: Duration) {
        // A lease is won in a runtime; one that is not renewed runs out.
        let Ok(runtime) = Handle::try_current() else { return };
        let due = (tokio::time::Instant::now() + due_in, Arc::downgrade(lease));
        let mut runtimes = self.runtimes();
        match runtimes.iter_mut().find(|(id, _)| *id == runtime.id()) {
            Some((_, leases)) => {
                // Mostly the last: most leases are due after the same time.
                let at = leases.iter().rposition(|(due_at, _)| *due_at <= due.0);
                leases.insert(at.map_or(0, |at| at + 1), due);
            }
            None => {
                runtimes.push((runtime.id(), VecDeque::from([due])));
                drop(runtimes);
                let renewer =
                    Renewer { renewals: Arc::clone(self), runtime: runtime.id(), is_listed: true };
                runtime.spawn(renewer.run());
            }
        }
    }

    /// Whether a runtime renews the lease.
    fn has(&self, lease: &Arc<HeldLease>) -> bool {
        let lease = Arc::downgrade(lease);
        let mut leases = self.runtimes();
        leases.iter_mut().any(|(_, due)| due.iter().any(|(_, known)| known.ptr_eq(&lease)))
    }

    fn runtimes(&self) -> MutexGuard<'_, Vec<(Id, Due)>> {
        // Nothing panics while it holds this lock.
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Renews the leases of one runtime until there are none.
struct Renewer {
    renewals: Arc<Renewals>,
    runtime: Id,
    /// Whether the runtime has an entry, which this renewer serves.
    is_listed: bool,
}

impl Renewer {
    async fn run(mut self) {
        while let Some(due_at) = self.next_due() {
            let soon = tokio::time::Instant::now() + LOOK_EVERY;
            tokio::time::sleep_until(due_at.max(soon)).await;
            for lease in self.renew_due().await {
                // A longer one, of a process that has many, is renewed as often in its life.
                let due_in = RENEWED_EVERY.max(lease.lasts / 6);
                self.renewals.add(&lease, due_in);
            }
        }
    }

    /// Renews the leases that are due; returns those that are to be renewed again.
    async fn renew_due(&self) -> Vec<Arc<HeldLease>> {
        let renew = |lease: Arc<HeldLease>| -> Joined<'_, _> {
            Box::pin(async move { lease.renew().await.then_some(lease) })
        };
        let mut renewed = Vec::new();
        let mut due = self.take_due().into_iter().peekable();
        while due.peek().is_some() {
            let together = due.by_ref().take(MOST_AT_ONCE).map(renew).collect();
            renewed.extend(join_all(together).await.into_iter().flatten());
        }
        renewed
    }

    /// When the next lease is due. With none the runtime's entry goes, under the same lock, so that the
    /// next lease starts another renewer.
    fn next_due(&mut self) -> Option<tokio::time::Instant> {
        let mut runtimes = self.renewals.runtimes();
        let index = runtimes.iter().position(|(id, _)| *id == self.runtime)?;
        let next = runtimes[index].1.front().map(|(due_at, _)| *due_at);
        if next.is_none() {
            runtimes.swap_remove(index);
            self.is_listed = false;
        }
        next
    }

    fn take_due(&self) -> Vec<Arc<HeldLease>> {
        let now = tokio::time::Instant::now();
        let mut runtimes = self.renewals.runtimes();
        let mut due = Vec::new();
        if let Some((_, leases)) = runtimes.iter_mut().find(|(id, _)| *id == self.runtime) {
            while leases.front().is_some_and(|(due_at, _)| *due_at <= now) {
                due.extend(leases.pop_front().and_then(|(_, lease)| lease.upgrade()));
            }
        }
        due
    }
}

/// A renewer that is dropped ended with its runtime.
impl Drop for Renewer {
    fn drop(&mut self) {
        if !self.is_listed {
            return;
        }
        let mut runtimes = self.renewals.runtimes();
        let Some(index) = runtimes.iter().position(|(id, _)| *id == self.runtime) else { return };
        let (_, leases) = runtimes.swap_remove(index);
        // A fetch that another runtime has taken over goes on there.
        if let Some((_, others)) = runtimes.first_mut() {
            others.extend(leases);
            others.make_contiguous().sort_by_key(|(due_at, _)| *due_at);
        }
    }
}
