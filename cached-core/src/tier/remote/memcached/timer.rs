//! Deadlines in real time.
//!
//! tokio's clock can be paused in a test. It then jumps to the next timer whenever all tasks wait, as
//! they do while a server answers, and stays ahead of real time after it has been resumed. A socket
//! knows nothing of that. So a deadline here is an [`Instant`] of the standard library. A timer of
//! tokio's that fires before it is set again, in steps that let the runtime look at its sockets.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep};

use crate::sync::lock;

/// How far a paused clock moves at a time while this process waits for a server.
const STEP: Duration = Duration::from_millis(1);

/// Runs a future until the deadline. Returns `None` if it was not done by then.
pub(super) async fn run_until<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    // Most are done before a timer is needed.
    if let Poll::Ready(output) =
        std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
    {
        return Some(output);
    }
    let mut sleep = pin!(sleep(deadline.saturating_duration_since(Instant::now())));
    let mut fires = deadline;
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => {
            poll_deadline(sleep.as_mut(), &mut fires, deadline, context).map(|()| None)
        }
    })
    .await
}

/// Ready at the deadline. `fires` is the real time that the sleep was set to.
fn poll_deadline(
    mut sleep: Pin<&mut Sleep>,
    fires: &mut Instant,
    deadline: Instant,
    context: &mut Context<'_>,
) -> Poll<()> {
    if *fires > deadline {
        set(sleep.as_mut(), deadline.saturating_duration_since(Instant::now()));
        *fires = deadline;
    }
    loop {
        ready!(sleep.as_mut().poll(context));
        let now = Instant::now();
        if now >= deadline {
            return Poll::Ready(());
        }
        let left = deadline - now;
        // It fired before its own time: tokio's clock is not the real one.
        let is_early = *fires > now;
        set(sleep.as_mut(), if is_early { left.min(STEP) } else { left });
        *fires = deadline;
    }
}

fn set(sleep: Pin<&mut Sleep>, left: Duration) {
    sleep.reset(tokio::time::Instant::now() + left);
}

/// A timer that is kept with a connection and left running when an exchange is over: setting and
/// stopping one take a lock of the runtime's, and most exchanges are over long before. So it may fire
/// for an exchange that is past, and is then set anew.
pub(super) struct Timer {
    sleep: Pin<Box<Sleep>>,
    fires: Instant,
    slot: Arc<WakerSlot>,
    /// Wakes the waiter.
    waker: Waker,
}

/// The task that waits for a timer during an exchange. After the exchange a timer that is still running
/// wakes nobody.
#[derive(Default)]
struct WakerSlot(Mutex<Option<Waker>>);

impl WakerSlot {
    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        lock(&self.0)
    }
}

impl Wake for WakerSlot {
    fn wake(self: Arc<WakerSlot>) {
        let waker = self.waker().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Timer {
    pub(super) fn new(deadline: Instant) -> Timer {
        let slot = Arc::new(WakerSlot::default());
        let waker = Waker::from(Arc::clone(&slot));
        let left = deadline.saturating_duration_since(Instant::now());
        Timer { sleep: Box::pin(sleep(left)), fires: deadline, slot, waker }
    }

    /// Ready at the deadline; until then the task of `context` is woken.
    pub(super) fn poll(&mut self, deadline: Instant, context: &Context<'_>) -> Poll<()> {
        *self.slot.waker() = Some(context.waker().clone());
        let mut context = Context::from_waker(&self.waker);
        poll_deadline(self.sleep.as_mut(), &mut self.fires, deadline, &mut context)
    }

    /// Wakes nobody from now on.
    pub(super) fn forget_waiter(&self) {
        *self.slot.waker() = None;
    }
}
