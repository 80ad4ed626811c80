//! The leader of a flight, and how its fetch is polled.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, RawWakerVTable, Wake, Waker};
use std::time::Duration;

use tokio::runtime::Handle;

use super::{Flight, FlightOutcome, STUCK_LEADER_AFTER, lock, millis, now_millis};

/// A caller that fetches for its flight, and must answer it. If it is dropped before, a follower
/// takes the lead.
pub(crate) struct Leader {
    pub(super) flight: Arc<Flight>,
    term: u64,
    /// When the lead began, in milliseconds by [`now_millis`].
    began: u64,
    is_done: bool,
}

impl Leader {
    pub(super) fn new(flight: Arc<Flight>, term: u64) -> Leader {
        let began = now_millis();
        flight.polled.store(began, Ordering::Release);
        flight.woken.store(0, Ordering::Release);
        Leader { flight, term, began, is_done: false }
    }

    /// Returns for how long this caller has led, to a tick of the system's timer.
    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_millis(now_millis().saturating_sub(self.began))
    }

    /// Answers every follower. `outcome` is called only if there is one.
    pub(crate) fn answer(mut self, outcome: impl FnOnce() -> FlightOutcome) {
        self.is_done = true;
        self.flight.answer(outcome);
    }

    /// Sets how long fetches of this function usually take. The leader does not count as stuck
    /// before four times that.
    pub(crate) fn set_usual_fetch_time(&self, fetch_time: Duration) {
        let stuck_after = millis(STUCK_LEADER_AFTER.max(fetch_time.saturating_mul(4)));
        self.flight.stuck_after.store(stuck_after, Ordering::Release);
    }

    /// Returns the outcome if another leader of this flight has finished first. Otherwise the task
    /// is woken when one does.
    pub(crate) fn outcome_of_other_leader(&self, context: &Context<'_>) -> Option<FlightOutcome> {
        // Nobody else fetches if the lead has never changed hands.
        if self.flight.term.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut state = lock(&self.flight.state);
        let outcome = state.outcome.clone();
        if outcome.is_none()
            && !state.other_leaders.iter().any(|other| other.will_wake(context.waker()))
        {
            state.other_leaders.push(context.waker().clone());
        }
        outcome
    }

    /// Ends the lead of a flight that another leader has answered.
    pub(crate) fn accept_outcome(mut self) {
        self.is_done = true;
    }

    /// Returns a handle that tells whether the leader is still run.
    pub(crate) fn monitor(&self) -> LeaderMonitor {
        LeaderMonitor(Arc::downgrade(&self.flight))
    }

    /// Leaves data on the flight, for this leader or its successor to take.
    pub(crate) fn put_handoff<T: Send + 'static>(&self, data: Box<T>) {
        // Earlier data is dropped after the lock is released.
        let _before = lock(&self.flight.handoff).replace(data);
    }

    /// Takes the data that was left on the flight. Returns `None` if another leader has taken it.
    pub(crate) fn take_handoff<T: Send + 'static>(&self) -> Option<Box<T>> {
        lock(&self.flight.handoff).take()?.downcast().ok()
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.is_done {
            self.flight.abandon(self.term, std::thread::panicking());
        }
    }
}

/// A handle that tells whether the leader of a flight is still run. Renewals of a lease use it.
pub(crate) struct LeaderMonitor(Weak<Flight>);

#[cfg_attr(not(feature = "memcached"), expect(dead_code, reason = "only leases use it"))]
impl LeaderMonitor {
    /// Returns true if the leader was woken at least `after` ago and has not been polled since.
    pub(crate) fn is_stalled(&self, after: Duration) -> bool {
        self.0.upgrade().is_some_and(|flight| {
            let woken = flight.woken.load(Ordering::Acquire);
            let is_polled = flight.polling.load(Ordering::Acquire);
            woken != 0 && !is_polled && now_millis().saturating_sub(woken) >= millis(after)
        })
    }
}

/// The task of the last poll, and the waker that was made for it. The waker holds a clone of the
/// task's own waker, so no other task can have the same address meanwhile.
pub(crate) type LeaderWakerCache = Option<(TaskIdentity, Waker)>;

/// Identifies a task by the address and the vtable that all its wakers share.
pub(crate) struct TaskIdentity {
    address: usize,
    vtable: &'static RawWakerVTable,
}

impl TaskIdentity {
    fn of(waker: &Waker) -> TaskIdentity {
        TaskIdentity { address: waker.data().addr(), vtable: waker.vtable() }
    }

    fn is(&self, other: &TaskIdentity) -> bool {
        self.address == other.address && std::ptr::eq(self.vtable, other.vtable)
    }
}

/// Polls `work` for a leader, so that the flight knows when the leader is woken and polled. Without
/// a leader this only polls.
pub(crate) fn poll_work<T>(
    leader: Option<&Leader>,
    waker_cache: &mut LeaderWakerCache,
    mut work: Pin<&mut dyn Future<Output = T>>,
    context: &mut Context<'_>,
) -> Poll<T> {
    let mut polled = Poll::Pending;
    poll_as_leader(leader, waker_cache, context, &mut |context| {
        polled = work.as_mut().poll(context);
        polled.is_pending()
    });
    polled
}

/// Does the part of [`poll_work`] that does not depend on the output's type, so that it is compiled
/// once. `poll` returns true if the work is pending.
fn poll_as_leader(
    leader: Option<&Leader>,
    waker_cache: &mut LeaderWakerCache,
    context: &mut Context<'_>,
    poll: &mut dyn FnMut(&mut Context<'_>) -> bool,
) {
    let Some(leader) = leader else {
        poll(context);
        return;
    };
    let flight = &leader.flight;
    let known = waker_cache.take().filter(|(task, _)| task.is(&TaskIdentity::of(context.waker())));
    let is_new_task = known.is_none();
    let (_, waker) = waker_cache.insert(known.unwrap_or_else(|| {
        let task = context.waker().clone();
        // The identity is the clone's, because a borrowed waker may be at another address.
        let identity = TaskIdentity::of(&task);
        (identity, Waker::from(Arc::new(LeaderWaker { flight: Arc::downgrade(flight), task })))
    }));
    // A leader that lost its lead must not count as a sign of life of its successor.
    let leads = || flight.term.load(Ordering::Acquire) == leader.term;
    if leads() {
        flight.polled.store(now_millis(), Ordering::Release);
        flight.woken.store(0, Ordering::Release);
        flight.polling.store(true, Ordering::Release);
    }
    let is_pending = {
        let _leading = LeaderPollGuard::enter(flight);
        poll(&mut Context::from_waker(waker))
    };
    if leads() {
        // Work that is over needs no runtime.
        if is_new_task
            && is_pending
            && let Ok(runtime) = Handle::try_current()
        {
            let _before = lock(&flight.runtime).replace((leader.term, runtime));
        }
        flight.polling.store(false, Ordering::Release);
        // The leader was woken during the poll, and waits for the next poll from now on.
        if flight.woken.load(Ordering::Acquire) != 0 {
            flight.woken.store(now_millis(), Ordering::Release);
        }
    }
}

/// Wakes a leader's task, and records on the flight that it was woken.
struct LeaderWaker {
    flight: Weak<Flight>,
    task: Waker,
}

impl Wake for LeaderWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(flight) = self.flight.upgrade() {
            // The first wake since the last poll counts.
            let _ =
                flight.woken.compare_exchange(0, now_millis(), Ordering::AcqRel, Ordering::Acquire);
        }
        self.task.wake_by_ref();
    }
}

thread_local! {
    /// The flights whose leaders are being polled on this thread, outermost first.
    static POLLED_LEADERS: RefCell<Vec<*const ()>> = const { RefCell::new(Vec::new()) };
}

/// Marks a flight as led by this thread until it is dropped.
struct LeaderPollGuard;

impl LeaderPollGuard {
    fn enter(flight: &Arc<Flight>) -> LeaderPollGuard {
        // The list may be gone, because a value's own `Drop` can call at the end of a thread.
        let _ = POLLED_LEADERS
            .try_with(|leading| leading.borrow_mut().push(Arc::as_ptr(flight).cast()));
        LeaderPollGuard
    }
}

impl Drop for LeaderPollGuard {
    fn drop(&mut self) {
        let _ = POLLED_LEADERS.try_with(|leading| leading.borrow_mut().pop());
    }
}

/// Returns true if this thread is polling the leader of the flight.
pub(super) fn is_led_by_this_thread(flight: &Arc<Flight>) -> bool {
    let leads = |leading: &RefCell<Vec<_>>| leading.borrow().contains(&Arc::as_ptr(flight).cast());
    POLLED_LEADERS.try_with(leads).unwrap_or(false)
}
