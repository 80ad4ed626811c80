//! Deadlines in real time, even if a test has paused tokio's clock.
//!
//! While every task waits, for example for a server's reply, tokio's paused clock jumps to the next
//! timer. After the test resumes the clock, the clock stays ahead of real time. Servers reply in
//! real time, so each deadline in this module is an [`Instant`] of the standard library. If a tokio
//! timer fires before its deadline, this module sets the timer again, for one short step at a time.
//! The runtime polls its sockets between the steps.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep};

use crate::sync::lock;

/// The step by which a paused clock advances while this process waits for a server.
const PAUSED_CLOCK_STEP: Duration = Duration::from_millis(1);

/// Runs a future until the deadline. Returns `None` if the deadline passes first.
pub(super) async fn run_until<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    // Most futures complete at once and need no timer.
    if let Poll::Ready(output) =
        std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
    {
        return Some(output);
    }
    let mut sleep = pin!(sleep(deadline.saturating_duration_since(Instant::now())));
    let mut set_for = deadline;
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => {
            poll_deadline(sleep.as_mut(), &mut set_for, deadline, context).map(|()| None)
        }
    })
    .await
}

/// Returns [`Poll::Ready`] once the deadline has passed. `set_for` is the deadline for which
/// `sleep` was last set.
fn poll_deadline(
    mut sleep: Pin<&mut Sleep>,
    set_for: &mut Instant,
    deadline: Instant,
    context: &mut Context<'_>,
) -> Poll<()> {
    if *set_for > deadline {
        set(sleep.as_mut(), deadline.saturating_duration_since(Instant::now()));
        *set_for = deadline;
    }
    loop {
        ready!(sleep.as_mut().poll(context));
        let now = Instant::now();
        if now >= deadline {
            return Poll::Ready(());
        }
        let time_left = deadline - now;
        // If `sleep` fired before the deadline for which it was set, tokio's clock is paused, or is
        // ahead of real time.
        let is_early = *set_for > now;
        set(sleep.as_mut(), if is_early { time_left.min(PAUSED_CLOCK_STEP) } else { time_left });
        *set_for = deadline;
    }
}

fn set(sleep: Pin<&mut Sleep>, time_left: Duration) {
    sleep.reset(tokio::time::Instant::now() + time_left);
}

/// The timer of a connection. It limits each *exchange*: a request and its reply.
///
/// Most exchanges end long before their deadline, and starting or stopping a timer locks the
/// runtime's timer wheel. The timer therefore keeps running between exchanges. If it fires for the
/// deadline of a past exchange, it is set to the current deadline.
pub(super) struct DeadlineTimer {
    sleep: Pin<Box<Sleep>>,
    set_for: Instant,
    slot: Arc<WakerSlot>,
    /// Wakes the task whose waker is in `slot`.
    slot_waker: Waker,
}

/// The waker of the task that waits for the timer. The slot is empty between exchanges. If the
/// timer fires then, it wakes no task.
#[derive(Default)]
struct WakerSlot(Mutex<Option<Waker>>);

impl Wake for WakerSlot {
    fn wake(self: Arc<WakerSlot>) {
        let waker = lock(&self.0).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl DeadlineTimer {
    pub(super) fn new(deadline: Instant) -> DeadlineTimer {
        let slot = Arc::new(WakerSlot::default());
        let slot_waker = Waker::from(Arc::clone(&slot));
        let time_left = deadline.saturating_duration_since(Instant::now());
        DeadlineTimer { sleep: Box::pin(sleep(time_left)), set_for: deadline, slot, slot_waker }
    }

    /// Returns [`Poll::Ready`] once the deadline has passed. If it returns [`Poll::Pending`], the
    /// timer will wake the task of `context`.
    pub(super) fn poll(&mut self, deadline: Instant, context: &Context<'_>) -> Poll<()> {
        *lock(&self.slot.0) = Some(context.waker().clone());
        let mut context = Context::from_waker(&self.slot_waker);
        poll_deadline(self.sleep.as_mut(), &mut self.set_for, deadline, &mut context)
    }

    /// Keeps the timer from waking any task until the next poll.
    pub(super) fn forget_waker(&self) {
        *lock(&self.slot.0) = None;
    }
}
