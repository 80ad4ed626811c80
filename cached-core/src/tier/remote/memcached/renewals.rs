//! Renews the leases that this process holds, with one task per runtime.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::runtime::{Handle, Id};

use super::join::{BoxedFuture, join_all};
use super::lease::HeldLease;
use crate::sync::lock;

/// How long the placeholder of a lease lasts. memcached's clock makes it 1 to 2 s.
const FIRST_LEASE: Duration = Duration::from_secs(2);
/// For each this many leases that a process asks for or holds, its placeholders last a second longer,
/// up to [`LONGEST_FIRST_LEASE`]: its callers and its fills wait longer for their turn.
const LEASES_PER_EXTRA_SECOND: usize = 4096;
const LONGEST_FIRST_LEASE: Duration = Duration::from_secs(10);
pub(super) const RENEWAL_INTERVAL: Duration = Duration::from_millis(500);
/// The shortest pause between two rounds of renewals.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// The most leases that are renewed at once.
const MOST_AT_ONCE: usize = 256;

/// The leases to renew. A task of the runtime that won a lease renews it, or of the runtime on which
/// its fetch continues.
#[derive(Default)]
pub(super) struct RenewalSchedule {
    runtimes: Mutex<Vec<(Id, RenewalQueue)>>,
    /// The number of leases that this process asks for or holds.
    leases: AtomicUsize,
}

/// Counts one lease until it is dropped.
pub(super) struct LeaseCountGuard(Arc<RenewalSchedule>);

impl LeaseCountGuard {
    pub(super) fn new(renewals: &Arc<RenewalSchedule>) -> LeaseCountGuard {
        renewals.leases.fetch_add(1, Ordering::Relaxed);
        LeaseCountGuard(Arc::clone(renewals))
    }

    /// Returns how long the lease's placeholder is to last.
    pub(super) fn first_lease(&self) -> Duration {
        let leases = self.0.leases.load(Ordering::Relaxed);
        let more = Duration::from_secs((leases / LEASES_PER_EXTRA_SECOND) as u64);
        (FIRST_LEASE + more).min(LONGEST_FIRST_LEASE)
    }
}

impl Drop for LeaseCountGuard {
    fn drop(&mut self) {
        self.0.leases.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Leases and when they are due, the earliest first.
type RenewalQueue = VecDeque<(tokio::time::Instant, Weak<HeldLease>)>;

impl RenewalSchedule {
    pub(super) fn add(self: &Arc<RenewalSchedule>, lease: &Arc<HeldLease>, due_in: Duration) {
        // Outside of a runtime nothing can renew the lease, and it runs out.
        let Ok(runtime) = Handle::try_current() else { return };
        let due = (tokio::time::Instant::now() + due_in, Arc::downgrade(lease));
        let mut runtimes = self.runtimes();
        match runtimes.iter_mut().find(|(id, _)| *id == runtime.id()) {
            Some((_, leases)) => {
                // Most leases are due after the same time, so the place is near the end.
                let at = leases.iter().rposition(|(due_at, _)| *due_at <= due.0);
                leases.insert(at.map_or(0, |at| at + 1), due);
            }
            None => {
                runtimes.push((runtime.id(), VecDeque::from([due])));
                drop(runtimes);
                let task = RenewalTask {
                    renewals: Arc::clone(self),
                    runtime: runtime.id(),
                    is_listed: true,
                };
                runtime.spawn(task.run());
            }
        }
    }

    /// Makes the running runtime renew the lease, because the runtime that renewed it so far may stand
    /// still.
    pub(super) fn take_over(self: &Arc<RenewalSchedule>, lease: &Arc<HeldLease>) {
        let Ok(runtime) = Handle::try_current() else { return };
        let known = Arc::downgrade(lease);
        for (id, due) in self.runtimes().iter_mut() {
            let Some(index) = due.iter().position(|(_, lease)| lease.ptr_eq(&known)) else {
                continue;
            };
            if *id == runtime.id() {
                return;
            }
            due.remove(index);
        }
        lease.give_up_renewal();
        self.add(lease, Duration::ZERO);
    }

    fn runtimes(&self) -> MutexGuard<'_, Vec<(Id, RenewalQueue)>> {
        lock(&self.runtimes)
    }
}

/// Renews the leases of one runtime until it has none.
struct RenewalTask {
    renewals: Arc<RenewalSchedule>,
    runtime: Id,
    /// True if the runtime is listed in [`RenewalSchedule`].
    is_listed: bool,
}

impl RenewalTask {
    async fn run(mut self) {
        while let Some(due_at) = self.next_due() {
            let soon = tokio::time::Instant::now() + SHORTEST_PAUSE;
            tokio::time::sleep_until(due_at.max(soon)).await;
            for lease in self.renew_due().await {
                // A longer lease is renewed as often in its life as a short one.
                let due_in = RENEWAL_INTERVAL.max(lease.marker_length / 6);
                self.renewals.add(&lease, due_in);
            }
        }
    }

    /// Renews the leases that are due. Returns those that are to be renewed again.
    async fn renew_due(&self) -> Vec<Arc<HeldLease>> {
        let renew = |lease: Arc<HeldLease>| -> BoxedFuture<'_, _> {
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

    /// Returns when the next lease is due. If there is none, the runtime is no longer listed, and the
    /// next lease starts another task.
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

/// A listed task that is dropped has ended with its runtime.
impl Drop for RenewalTask {
    fn drop(&mut self) {
        if !self.is_listed {
            return;
        }
        let mut runtimes = self.renewals.runtimes();
        let Some(index) = runtimes.iter().position(|(id, _)| *id == self.runtime) else { return };
        let (_, leases) = runtimes.swap_remove(index);
        // Another runtime may have taken over a fetch.
        if let Some((_, others)) = runtimes.first_mut() {
            others.extend(leases);
            others.make_contiguous().sort_by_key(|(due_at, _)| *due_at);
        }
    }
}
