//! The leader of a flight, and how its work is run.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, RawWakerVTable, Wake, Waker};
use std::time::Duration;

use tokio::runtime::Handle;

use super::{Flight, Outcome, STUCK_LEADER_AFTER, lock, millis, now};

/// The right, and the duty, to answer a flight.
pub(crate) struct Leader {
    pub(super) flight: Arc<Flight>,
    term: u64,
    /// When the lead began; in milliseconds as [`now`] counts them.
    began: u64,
    done: bool,
}

impl Leader {
    pub(super) fn new(flight: Arc<Flight>, term: u64) -> Leader {
        let began = now();
        flight.polled.store(began, Ordering::Release);
        flight.woken.store(0, Ordering::Release);
        Leader { flight, term, began, done: false }
    }

    /// How long the lead has lasted, to a tick of the system's timer.
    pub(crate) fn lasted(&self) -> Duration {
        Duration::from_millis(now().saturating_sub(self.began))
    }

    /// Answers every follower, if there is one.
    pub(crate) fn answer(mut self, outcome: impl FnOnce() -> Outcome) {
        self.done = true;
        self.flight.answer(outcome);
    }

    /// Tells how long fetches of this function take: it is not stuck before four times that.
    pub(crate) fn expect(&self, fetch_time: Duration) {
        let stuck_after = millis(STUCK_LEADER_AFTER.max(fetch_time.saturating_mul(4)));
        self.flight.stuck_after.store(stuck_after, Ordering::Release);
    }

    /// The outcome of another leader's fetch, where the lead went from one to the other and both go on.
    /// The task is woken when there is one.
    pub(crate) fn overtaken(&self, context: &Context<'_>) -> Option<Outcome> {
        // The lead has never changed hands: nobody else fetches.
        if self.flight.term.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut crew = lock(&self.flight.crew);
        let outcome = crew.outcome.clone();
        if outcome.is_none() && !crew.rivals.iter().any(|rival| rival.will_wake(context.waker())) {
            crew.rivals.push(context.waker().clone());
        }
        outcome
    }

    /// Ends without an answer of its own: the flight has one.
    pub(crate) fn yield_to_outcome(mut self) {
        self.done = true;
    }

    /// Tells whether the leader is still run, for as long as the flight lasts.
    pub(crate) fn pulse(&self) -> Pulse {
        Pulse(Arc::downgrade(&self.flight))
    }

    /// Leaves something for whoever leads next, if this one loses the lead.
    pub(crate) fn stow<T: Send + 'static>(&self, luggage: Box<T>) {
        // What a leader that lost its lead had stowed is dropped when nothing is locked any more.
        let _before = lock(&self.flight.stowed).replace(luggage);
    }

    /// Takes what was stowed; `None` also where another leader has taken it.
    pub(crate) fn unstow<T: Send + 'static>(&self) -> Option<Box<T>> {
        lock(&self.flight.stowed).take()?.downcast().ok()
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.done {
            self.flight.abandon(self.term, std::thread::panicking());
        }
    }
}

/// Whether a flight's leader is run, for who does something on its behalf meanwhile.
pub(crate) struct Pulse(Weak<Flight>);

#[cfg_attr(not(feature = "memcached"), expect(dead_code, reason = "leases alone ask"))]
impl Pulse {
    /// Whether the leader was woken `after` ago or earlier and has not been polled since.
    pub(crate) fn has_stopped(&self, after: Duration) -> bool {
        self.0.upgrade().is_some_and(|flight| {
            let woken = flight.woken.load(Ordering::Acquire);
            let is_polled = flight.polling.load(Ordering::Acquire);
            woken != 0 && !is_polled && now().saturating_sub(woken) >= millis(after)
        })
    }
}

/// The task at the last poll, by its waker's clone, and the waker that was made of that. It is in
/// there, so that no other task has the same address meanwhile.
pub(crate) type LastWaker = Option<(Task, Waker)>;

/// What two wakers of one task have in common.
pub(crate) struct Task {
    address: usize,
    vtable: &'static RawWakerVTable,
}

impl Task {
    fn of(waker: &Waker) -> Task {
        Task { address: waker.data().addr(), vtable: waker.vtable() }
    }

    fn is(&self, other: &Task) -> bool {
        self.address == other.address && std::ptr::eq(self.vtable, other.vtable)
    }
}

/// Polls a part of a leader's work, so that the flight knows when it is woken and polled; or work
/// that nobody waits for.
pub(crate) fn poll_work<T>(
    leader: Option<&Leader>,
    last: &mut LastWaker,
    mut work: Pin<&mut dyn Future<Output = T>>,
    context: &mut Context<'_>,
) -> Poll<T> {
    let mut polled = Poll::Pending;
    poll_as(leader, last, context, &mut |context| {
        polled = work.as_mut().poll(context);
        polled.is_pending()
    });
    polled
}

/// It does not depend on what the work results in, so that it is compiled once. `poll` says whether the work waits.
fn poll_as(
    leader: Option<&Leader>,
    last: &mut LastWaker,
    context: &mut Context<'_>,
    poll: &mut dyn FnMut(&mut Context<'_>) -> bool,
) {
    let Some(leader) = leader else {
        poll(context);
        return;
    };
    let flight = &leader.flight;
    let known = last.take().filter(|(task, _)| task.is(&Task::of(context.waker())));
    let is_new_here = known.is_none();
    let (_, waker) = last.insert(known.unwrap_or_else(|| {
        let task = context.waker().clone();
        // Of the one that is kept: what is lent may be somewhere else, for one task after another.
        let of = Task::of(&task);
        (of, Waker::from(Arc::new(LeaderWake { flight: Arc::downgrade(flight), task })))
    }));
    // A leader that lost its lead must not vouch for its successor.
    let leads = || flight.term.load(Ordering::Acquire) == leader.term;
    if leads() {
        flight.polled.store(now(), Ordering::Release);
        flight.woken.store(0, Ordering::Release);
        flight.polling.store(true, Ordering::Release);
    }
    let waits = {
        let _leading = Leading::enter(flight);
        poll(&mut Context::from_waker(waker))
    };
    if leads() {
        // Only for work that waits: most others are over by now.
        if is_new_here
            && waits
            && let Ok(runtime) = Handle::try_current()
        {
            let _before = lock(&flight.runtime).replace((leader.term, runtime));
        }
        flight.polling.store(false, Ordering::Release);
        // Woken while it was polled: it waits to be polled again from now on.
        if flight.woken.load(Ordering::Acquire) != 0 {
            flight.woken.store(now(), Ordering::Release);
        }
    }
}

struct LeaderWake {
    flight: Weak<Flight>,
    task: Waker,
}

impl Wake for LeaderWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(flight) = self.flight.upgrade() {
            // The first wake counts: a later one does not make the leader any more alive.
            let _ = flight.woken.compare_exchange(0, now(), Ordering::AcqRel, Ordering::Acquire);
        }
        self.task.wake_by_ref();
    }
}

thread_local! {
    /// The flights whose leaders' work is being polled on this thread, outermost first.
    static LEADING: RefCell<Vec<*const ()>> = const { RefCell::new(Vec::new()) };
}

struct Leading;

impl Leading {
    fn enter(flight: &Arc<Flight>) -> Leading {
        // At the end of a thread there is none: a value's own `Drop` may call even there.
        let _ = LEADING.try_with(|leading| leading.borrow_mut().push(Arc::as_ptr(flight).cast()));
        Leading
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        let _ = LEADING.try_with(|leading| leading.borrow_mut().pop());
    }
}

pub(super) fn is_led_here(flight: &Arc<Flight>) -> bool {
    let leads = |leading: &RefCell<Vec<_>>| leading.borrow().contains(&Arc::as_ptr(flight).cast());
    LEADING.try_with(leads).unwrap_or(false)
}
