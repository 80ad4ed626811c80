//! Renews the leases that this process holds, with one task per tokio runtime.
//!
//! A *lease* is the right to run the annotated function for a missing value. memcached represents a
//! new lease as a *placeholder*, an empty item. The first renewal replaces the placeholder with a
//! *marker*, and each later renewal replaces the marker with a newer one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::runtime::{Handle, Id};

use super::lease::HeldLease;
use super::run_all::{BoxedFuture, run_all};
use crate::sync::lock;

/// How long memcached keeps the placeholder of a new lease, if this process has few leases.
/// memcached counts whole seconds, so the placeholder expires after 1 to 2 s.
const USUAL_PLACEHOLDER: Duration = Duration::from_secs(2);
/// Placeholders last one second longer for every 4,096 leases that this process requests or holds,
/// up to [`LONGEST_PLACEHOLDER`]. With many leases, tasks wait longer for their turn on the
/// runtime, so the first renewal of a lease is late.
const LEASES_PER_EXTRA_SECOND: usize = 4096;
pub(super) const LONGEST_PLACEHOLDER: Duration = Duration::from_secs(10);
/// The time from winning a lease to its first renewal, and the shortest time between two renewals.
pub(super) const RENEWAL_INTERVAL: Duration = Duration::from_millis(500);
/// The renewal task sleeps at least this long before each round of renewals.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// The largest number of leases that are renewed at once.
const MOST_AT_ONCE: usize = 256;

/// The leases to renew. A lease is at first renewed on the runtime on which it was won. If the
/// annotated function continues on another runtime, the renewal moves there.
#[derive(Default)]
pub(super) struct RenewalSchedule {
    /// The queue of each runtime that has leases to renew.
    queues: Mutex<Vec<(Id, RenewalQueue)>>,
    /// The number of leases that this process requests or holds.
    leases: AtomicUsize,
}

/// Counts one lease in [`RenewalSchedule`] until the guard is dropped.
pub(super) struct LeaseCountGuard(Arc<RenewalSchedule>);

impl LeaseCountGuard {
    pub(super) fn new(renewals: &Arc<RenewalSchedule>) -> LeaseCountGuard {
        renewals.leases.fetch_add(1, Ordering::Relaxed);
        LeaseCountGuard(Arc::clone(renewals))
    }

    /// Returns how long memcached should keep the lease's placeholder.
    pub(super) fn placeholder_length(&self) -> Duration {
        let leases = self.0.leases.load(Ordering::Relaxed);
        let more = Duration::from_secs((leases / LEASES_PER_EXTRA_SECOND) as u64);
        (USUAL_PLACEHOLDER + more).min(LONGEST_PLACEHOLDER)
    }
}

impl Drop for LeaseCountGuard {
    fn drop(&mut self) {
        self.0.leases.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The leases of one runtime and the times of their next renewals, in order of time.
type RenewalQueue = VecDeque<(tokio::time::Instant, Weak<HeldLease>)>;

impl RenewalSchedule {
    /// Schedules the next renewal of the lease, after `due_in`, on the current runtime.
    pub(super) fn add(self: &Arc<RenewalSchedule>, lease: &Arc<HeldLease>, due_in: Duration) {
        // Outside a runtime no task can renew the lease, so the lease expires.
        let Ok(runtime) = Handle::try_current() else { return };
        let due = (tokio::time::Instant::now() + due_in, Arc::downgrade(lease));
        let mut queues = self.queues();
        match queues.iter_mut().find(|(id, _)| *id == runtime.id()) {
            Some((_, leases)) => {
                // Most leases have the same renewal interval, so the lease belongs near the end of
                // the queue.
                let at = leases.iter().rposition(|(due_at, _)| *due_at <= due.0);
                leases.insert(at.map_or(0, |at| at + 1), due);
            }
            None => {
                queues.push((runtime.id(), VecDeque::from([due])));
                drop(queues);
                let task = RenewalTask {
                    renewals: Arc::clone(self),
                    runtime: runtime.id(),
                    has_queue: true,
                };
                runtime.spawn(task.run());
            }
        }
    }

    /// Moves the renewal of the lease to the current runtime, because the runtime that renewed the
    /// lease so far might have ended.
    pub(super) fn take_over(self: &Arc<RenewalSchedule>, lease: &Arc<HeldLease>) {
        let Ok(runtime) = Handle::try_current() else { return };
        let known = Arc::downgrade(lease);
        for (id, due) in self.queues().iter_mut() {
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

    fn queues(&self) -> MutexGuard<'_, Vec<(Id, RenewalQueue)>> {
        lock(&self.queues)
    }
}

/// The task that renews the leases of one runtime, until the runtime has no leases.
struct RenewalTask {
    renewals: Arc<RenewalSchedule>,
    runtime: Id,
    /// True while the runtime has a queue in [`RenewalSchedule`].
    has_queue: bool,
}

impl RenewalTask {
    async fn run(mut self) {
        while let Some(due_at) = self.next_due() {
            let soon = tokio::time::Instant::now() + SHORTEST_PAUSE;
            tokio::time::sleep_until(due_at.max(soon)).await;
            for lease in self.renew_due().await {
                // Markers that last longer are renewed less often.
                let due_in = RENEWAL_INTERVAL.max(lease.marker_length / 6);
                self.renewals.add(&lease, due_in);
            }
        }
    }

    /// Renews the leases that are due. Returns the leases that need another renewal.
    async fn renew_due(&self) -> Vec<Arc<HeldLease>> {
        let renew = |lease: Arc<HeldLease>| -> BoxedFuture<'_, _> {
            Box::pin(async move { lease.renew().await.then_some(lease) })
        };
        let mut renewed = Vec::new();
        let mut due = self.take_due().into_iter().peekable();
        while due.peek().is_some() {
            let together = due.by_ref().take(MOST_AT_ONCE).map(renew).collect();
            renewed.extend(run_all(together).await.into_iter().flatten());
        }
        renewed
    }

    /// Returns when the next renewal on this runtime is due. If the runtime's queue is empty,
    /// removes the queue and returns `None`. The task then ends, and the next lease starts a new
    /// task.
    fn next_due(&mut self) -> Option<tokio::time::Instant> {
        let mut queues = self.renewals.queues();
        let index = queues.iter().position(|(id, _)| *id == self.runtime)?;
        let next = queues[index].1.front().map(|(due_at, _)| *due_at);
        if next.is_none() {
            queues.swap_remove(index);
            self.has_queue = false;
        }
        next
    }

    fn take_due(&self) -> Vec<Arc<HeldLease>> {
        let now = tokio::time::Instant::now();
        let mut queues = self.renewals.queues();
        let mut due = Vec::new();
        if let Some((_, leases)) = queues.iter_mut().find(|(id, _)| *id == self.runtime) {
            while leases.front().is_some_and(|(due_at, _)| *due_at <= now) {
                due.extend(leases.pop_front().and_then(|(_, lease)| lease.upgrade()));
            }
        }
        due
    }
}

/// If a task is dropped while its runtime has a queue, the runtime has ended.
impl Drop for RenewalTask {
    fn drop(&mut self) {
        if !self.has_queue {
            return;
        }
        let mut queues = self.renewals.queues();
        let Some(index) = queues.iter().position(|(id, _)| *id == self.runtime) else { return };
        let (_, leases) = queues.swap_remove(index);
        // Another runtime takes over the queue, because the annotated functions might continue
        // there.
        if let Some((_, others)) = queues.first_mut() {
            others.extend(leases);
            others.make_contiguous().sort_by_key(|(due_at, _)| *due_at);
        }
    }
}
