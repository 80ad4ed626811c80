//! The leader of a flight. A *flight* is the group of calls that need one key at the same time, and
//! its *leader* is the call that fetches for all of them.
//!
//! If the leader is dropped or seems stuck, the *lead* passes on to another call of the flight, and
//! the flight's *term*, a number, rises; see [`flight`](super). To notice a stuck leader,
//! [`poll_work`] records on the flight when the leader is woken and when it is polled.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, RawWakerVTable, Wake, Waker};
use std::time::Duration;

use tokio::runtime::Handle;

use super::{Flight, FlightOutcome, LeadEndReason, STUCK_LEADER_AFTER, lock, millis, now_millis};

/// The right and duty to run the fetch of a flight. The owner must end the flight with
/// [`answer`](Leader::answer). If the lead is dropped earlier, a follower becomes the leader.
pub(crate) struct Leader {
    pub(super) flight: Arc<Flight>,
    /// The flight's term when this lead began. If the flight's term is greater, the lead has passed
    /// on.
    term: u64,
    /// True if the flight has ended. Dropping this `Leader` then does not pass the lead on.
    is_done: bool,
}

impl Leader {
    pub(super) fn new(flight: Arc<Flight>, term: u64) -> Leader {
        let began = now_millis();
        flight.polled_at.store(began, Ordering::Release);
        flight.woken_at.store(0, Ordering::Release);
        Leader { flight, term, is_done: false }
    }

    /// Ends the flight with an outcome for all its followers. Does not call `outcome` if this
    /// leader holds the only reference to the flight.
    pub(crate) fn answer(mut self, outcome: impl FnOnce() -> FlightOutcome) {
        self.is_done = true;
        self.flight.answer(outcome);
    }

    /// Sets how long fetches of the annotated function usually take. A leader that is neither woken
    /// nor polled counts as stuck after four times `fetch_time` or [`STUCK_LEADER_AFTER`],
    /// whichever is longer.
    pub(crate) fn set_usual_fetch_time(&self, fetch_time: Duration) {
        let stuck_after_millis = millis(STUCK_LEADER_AFTER.max(fetch_time.saturating_mul(4)));
        self.flight.stuck_after_millis.store(stuck_after_millis, Ordering::Release);
    }

    /// Returns the outcome if another leader has ended this flight. Otherwise registers the task's
    /// waker, so that the task is woken when the flight ends. If the lead has never passed on,
    /// there is no other leader, and this method registers nothing.
    pub(crate) fn outcome_of_other_leader(&self, context: &Context<'_>) -> Option<FlightOutcome> {
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

    /// Drops this lead after another leader has ended the flight.
    pub(crate) fn accept_outcome(mut self) {
        self.is_done = true;
    }

    /// Returns a monitor that tells whether the flight's leader is still polled.
    pub(crate) fn monitor(&self) -> LeaderMonitor {
        LeaderMonitor(Arc::downgrade(&self.flight))
    }

    /// Stores data on the flight, for this leader or a successor to take.
    pub(crate) fn put_handoff<T: Send + 'static>(&self, data: Box<T>) {
        // The data that was stored earlier is dropped after the lock is released.
        let _before = lock(&self.flight.handoff).replace(data);
    }

    /// Takes the data that [`put_handoff`](Leader::put_handoff) stored. Returns `None` if the
    /// flight has no data, or if the data is not a `T`.
    pub(crate) fn take_handoff<T: Send + 'static>(&self) -> Option<Box<T>> {
        lock(&self.flight.handoff).take()?.downcast().ok()
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.is_done {
            // A panic alone does not mean that the leader's work has panicked, because the task
            // also runs other code. `is_polling` is still true only if the panic came from the
            // work.
            let is_polling = self.flight.is_polling.load(Ordering::Acquire);
            let end = if std::thread::panicking() && is_polling {
                LeadEndReason::Panicked
            } else {
                LeadEndReason::Dropped
            };
            self.flight.abandon(self.term, end);
        }
    }
}

/// Tells whether the current leader of a flight is still polled. The lease that a leader holds in
/// memcached is renewed only while the leader is polled.
pub(crate) struct LeaderMonitor(Weak<Flight>);

#[cfg_attr(not(feature = "memcached"), expect(dead_code, reason = "only leases use it"))]
impl LeaderMonitor {
    /// Returns true if the leader has been waiting to be polled for at least `limit` since it was
    /// woken. Returns false if the flight has been freed.
    pub(crate) fn is_stalled(&self, limit: Duration) -> bool {
        self.0.upgrade().is_some_and(|flight| {
            let woken = flight.woken_at.load(Ordering::Acquire);
            let is_in_poll = flight.is_polling.load(Ordering::Acquire);
            woken != 0 && !is_in_poll && now_millis().saturating_sub(woken) >= millis(limit)
        })
    }
}

/// The task of the last poll, and the [`LeaderWaker`] that was created for this task. The
/// `LeaderWaker` holds a clone of the task's own waker. While the clone exists, the waker's address
/// is in use, so no other task can have the same [`TaskIdentity`].
pub(crate) type LeaderWakerCache = Option<(TaskIdentity, Waker)>;

/// Identifies a task by the data address and the vtable that clones of the task's waker share.
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

/// Polls a call's work, which is a fetch or a command to the remote tier. If the call is a leader,
/// this function records on the flight when the leader is polled and when the work wakes the
/// leader.
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

/// The part of [`poll_work`] that does not depend on the output's type, and is therefore compiled
/// only once. `poll` returns true if the work is pending.
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
    let cached = waker_cache.take().filter(|(task, _)| task.is(&TaskIdentity::of(context.waker())));
    let is_new_task = cached.is_none();
    let (_, waker) = waker_cache.insert(cached.unwrap_or_else(|| {
        let task = context.waker().clone();
        // The identity is taken from the clone, because the waker in `context` might have another
        // address than its clones.
        let identity = TaskIdentity::of(&task);
        (identity, Waker::from(Arc::new(LeaderWaker { flight: Arc::downgrade(flight), task })))
    }));
    // If the lead has passed on, the flight's fields describe the successor.
    let leads = || flight.term.load(Ordering::Acquire) == leader.term;
    if leads() {
        flight.polled_at.store(now_millis(), Ordering::Release);
        flight.woken_at.store(0, Ordering::Release);
        flight.is_polling.store(true, Ordering::Release);
    }
    let is_pending = {
        let _leading = LeaderPollGuard::enter(flight);
        poll(&mut Context::from_waker(waker))
    };
    if leads() {
        // Remember on which runtime the work runs. Work that has ended no longer needs it.
        if is_new_task
            && is_pending
            && let Ok(runtime) = Handle::try_current()
        {
            let _before = lock(&flight.runtime).replace((leader.term, runtime));
        }
        flight.is_polling.store(false, Ordering::Release);
        if flight.woken_at.load(Ordering::Acquire) != 0 {
            // The leader was woken during the poll. The wait for the next poll begins now.
            flight.woken_at.store(now_millis(), Ordering::Release);
        }
    }
}

/// Wakes a leader's task, and records on the flight when the leader was woken.
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
            // Only the first wake since the last poll is recorded.
            let _ = flight.woken_at.compare_exchange(
                0,
                now_millis(),
                Ordering::AcqRel,
                Ordering::Acquire,
            );
        }
        self.task.wake_by_ref();
    }
}

thread_local! {
    /// The addresses of the flights whose leaders this thread is polling. If the fetch of one
    /// leader polls the leader of another flight, the address of the outer flight comes first.
    static POLLED_LEADERS: RefCell<Vec<*const ()>> = const { RefCell::new(Vec::new()) };
}

/// Until the guard is dropped, this thread counts as polling the leader of a flight.
struct LeaderPollGuard;

impl LeaderPollGuard {
    fn enter(flight: &Arc<Flight>) -> LeaderPollGuard {
        // The thread-local list might already be destroyed if the `Drop` of a value calls an
        // annotated function while the thread ends.
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
