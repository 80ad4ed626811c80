//! Deadlines in real time.
//!
//! A test can pause tokio's clock. While all tasks wait, as they do for a server's answer, the paused clock jumps to
//! the next timer, and it stays ahead of real time after it is resumed. Sockets do not follow that clock. So a
//! deadline here is an [`Instant`] of the standard library. A tokio timer that fires too early is set again, in
//! small steps that let the runtime poll its sockets.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep};

use crate::sync::lock;

/// How far a paused clock moves at a time while this process waits for a server.
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
    let mut fires_at = deadline;
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => {
            poll_deadline(sleep.as_mut(), &mut fires_at, deadline, context).map(|()| None)
        }
    })
    .await
}

/// Is ready at the deadline. `fires_at` is the real time that the sleep is set to.
fn poll_deadline(
    mut sleep: Pin<&mut Sleep>,
    fires_at: &mut Instant,
    deadline: Instant,
    context: &mut Context<'_>,
) -> Poll<()> {
    if *fires_at > deadline {
        set(sleep.as_mut(), deadline.saturating_duration_since(Instant::now()));
        *fires_at = deadline;
    }
    loop {
        ready!(sleep.as_mut().poll(context));
        let now = Instant::now();
        if now >= deadline {
            return Poll::Ready(());
        }
        let time_left = deadline - now;
        // If the sleep fired before its real time, tokio's clock is paused or ahead.
        let is_early = *fires_at > now;
        set(sleep.as_mut(), if is_early { time_left.min(PAUSED_CLOCK_STEP) } else { time_left });
        *fires_at = deadline;
    }
}

fn set(sleep: Pin<&mut Sleep>, time_left: Duration) {
    sleep.reset(tokio::time::Instant::now() + time_left);
}

/// A connection's timer. It keeps running between exchanges: starting and stopping a timer each lock the runtime's
/// timer wheel, and most exchanges end long before their deadline. If it fires for a past exchange, it is set again.
pub(super) struct DeadlineTimer {
    sleep: Pin<Box<Sleep>>,
    fires_at: Instant,
    slot: Arc<WakerSlot>,
    /// Wakes the task in `slot`.
    slot_waker: Waker,
}

/// The task that waits for the timer. The slot is empty between exchanges, so that a timer that fires then wakes no
/// task.
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
        DeadlineTimer { sleep: Box::pin(sleep(time_left)), fires_at: deadline, slot, slot_waker }
    }

    /// Is ready at the deadline. Until then the timer wakes the task of `context`.
    pub(super) fn poll(&mut self, deadline: Instant, context: &Context<'_>) -> Poll<()> {
        *lock(&self.slot.0) = Some(context.waker().clone());
        let mut context = Context::from_waker(&self.slot_waker);
        poll_deadline(self.sleep.as_mut(), &mut self.fires_at, deadline, &mut context)
    }

    /// Wakes no task until the next poll.
    pub(super) fn forget_waker(&self) {
        *lock(&self.slot.0) = None;
    }
}
