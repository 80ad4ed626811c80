//! A call that waits for another call's fetch of the same key.
//!
//! A *flight* is one key's fetch, with the calls that need its outcome. The flight's *leader* runs
//! the fetch, and its *followers* wait. If the leader does not finish, the *lead* passes to a
//! follower. The time of one lead is a *term*. See [`flight`](super) for more.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

use super::{Flight, FlightOutcome, FollowerRegistration, LeadEndReason, Leader, lock};

/// The future of a call that waits for a flight. The future resolves to the flight's outcome, or to
/// a [`Leader`] if the lead passes to this call.
pub(crate) struct Follower {
    pub(super) flight: Arc<Flight>,
    pub(super) id: u64,
    /// True if the future has resolved.
    pub(super) is_done: bool,
}

/// The outcome of the flight, or the lead that the call takes over.
pub(crate) enum FollowerOutput {
    Outcome(FlightOutcome),
    Lead(Leader),
}

impl Future for Follower {
    type Output = FollowerOutput;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<FollowerOutput> {
        let this = &mut *self;
        // The old waker is dropped after the lock is released, because dropping the waker might
        // drop a whole task.
        let _replaced_waker;
        let mut state = lock(&this.flight.state);
        if let Some(outcome) = &state.outcome {
            this.is_done = true;
            return Poll::Ready(FollowerOutput::Outcome(outcome.clone()));
        }
        if state.promoted == Some(this.id) {
            (state.promoted, state.undriven) = (None, None);
            state.followers.remove(&this.id);
            this.is_done = true;
            let term = this.flight.term.load(Ordering::Acquire);
            return Poll::Ready(FollowerOutput::Lead(Leader::new(Arc::clone(&this.flight), term)));
        }
        if let Some(FollowerRegistration { waker, runtime }) = state.followers.get_mut(&this.id)
            && !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker()))
        {
            _replaced_waker = waker.replace(context.waker().clone());
            *runtime = Handle::try_current().ok().map(|runtime| runtime.id());
        }
        Poll::Pending
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        // The registration holds a waker, so it is dropped after the lock is released.
        let (_registration, offered_term) = {
            let mut state = lock(&self.flight.state);
            let registration = state.followers.remove(&self.id);
            let offered_term = (state.promoted == Some(self.id)).then(|| {
                state.promoted = None;
                self.flight.term.load(Ordering::Acquire)
            });
            (registration, offered_term)
        };
        if let Some(term) = offered_term {
            // The lead had been passed to this follower, which has not taken it. `abandon` passes
            // the lead to another follower.
            self.flight.abandon(term, LeadEndReason::Dropped);
        }
    }
}
