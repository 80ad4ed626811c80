//! A follower of a flight.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

use super::{Flight, Leader, Outcome, WaitingFollower, lock};

/// A caller that waits for a flight. It resolves to the outcome, or to the lead.
pub(crate) struct Follower {
    pub(super) flight: Arc<Flight>,
    pub(super) id: u64,
    pub(super) done: bool,
}

pub(crate) enum Followed {
    Outcome(Outcome),
    Lead(Leader),
}

impl Future for Follower {
    type Output = Followed;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Followed> {
        let this = &mut *self;
        // Dropped after the lock: with a waker a whole task may go.
        let _replaced;
        let mut crew = lock(&this.flight.crew);
        if let Some(outcome) = &crew.outcome {
            this.done = true;
            return Poll::Ready(Followed::Outcome(outcome.clone()));
        }
        if crew.promoted == Some(this.id) {
            (crew.promoted, crew.undriven) = (None, None);
            crew.followers.remove(&this.id);
            this.done = true;
            let term = this.flight.term.load(Ordering::Acquire);
            return Poll::Ready(Followed::Lead(Leader::new(Arc::clone(&this.flight), term)));
        }
        if let Some(WaitingFollower { waker, runtime }) = crew.followers.get_mut(&this.id)
            && !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker()))
        {
            _replaced = waker.replace(context.waker().clone());
            *runtime = Handle::try_current().ok().map(|runtime| runtime.id());
        }
        Poll::Pending
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let (_waker, handed_on) = {
            let mut crew = lock(&self.flight.crew);
            let waker = crew.followers.remove(&self.id);
            let handed_on = (crew.promoted == Some(self.id)).then(|| {
                crew.promoted = None;
                self.flight.term.load(Ordering::Acquire)
            });
            (waker, handed_on)
        };
        if let Some(term) = handed_on {
            self.flight.abandon(term, false);
        }
    }
}
