//! The renewals of the leases that this process holds: one task for each runtime that has some.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::{Handle, Id};

use super::join::{BoxedFuture, join_all};
use super::lease::HeldLease;

/// How long memcached keeps the placeholder of a lease: 2 s, which its clock makes 1 to 2.
const FIRST_LEASE: Duration = Duration::from_secs(2);
/// A process that asks for or holds so many leases at once asks for a second more, since its callers and
/// its fills wait for their turn; up to [`LONGEST_FIRST_LEASE`].
const LEASES_A_SECOND: usize = 4096;
const LONGEST_FIRST_LEASE: Duration = Duration::from_secs(10);
/// How often a lease is renewed.
pub(super) const RENEWAL_INTERVAL: Duration = Duration::from_millis(500);
/// How often the leases are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How many leases are renewed at once.
const MOST_AT_ONCE: usize = 256;

/// The leases that are to be renewed, each by a task of the runtime that won it, or of the one on which
/// its fetch goes on.
#[derive(Default)]
pub(super) struct Renewals {
    runtimes: Mutex<Vec<(Id, Due)>>,
    /// The leases that this process asks for or holds.
    leases: AtomicUsize,
}

/// Counts as a lease that is asked for until it is dropped.
pub(super) struct LeaseCount(Arc<Renewals>);

impl LeaseCount {
    pub(super) fn new(renewals: &Arc<Renewals>) -> LeaseCount {
        renewals.leases.fetch_add(1, Ordering::Relaxed);
        LeaseCount(Arc::clone(renewals))
    }

    /// How long the placeholder of the lease is to last.
    pub(super) fn first_lease(&self) -> Duration {
        let leases = self.0.leases.load(Ordering::Relaxed);
        let more = Duration::from_secs((leases / LEASES_A_SECOND) as u64);
        (FIRST_LEASE + more).min(LONGEST_FIRST_LEASE)
    }
}

impl Drop for LeaseCount {
    fn drop(&mut self) {
        self.0.leases.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Leases with the times at which they are due, in that order.
type Due = VecDeque<(tokio::time::Instant, Weak<HeldLease>)>;

impl Renewals {
    pub(super) fn add(self: &Arc<Renewals>, lease: &Arc<HeldLease>, due_in: Duration) {
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

    /// Has the running runtime renew the lease, at once where that is new to it: the runtime that renewed
    /// the lease so far may stand still.
    pub(super) fn take_over(self: &Arc<Renewals>, lease: &Arc<HeldLease>) {
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
                let due_in = RENEWAL_INTERVAL.max(lease.marker_length / 6);
                self.renewals.add(&lease, due_in);
            }
        }
    }

    /// Renews the leases that are due; returns those that are to be renewed again.
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
