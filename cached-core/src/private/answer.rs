//! How a call goes on that was not served by what this process has.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::look::State;
use crate::call::{Begun, Fetched, Missed, Waiting};
use crate::value::{ReturnType, weight_fn};

/// A call of an annotated function: begun with a look at the tiers of this process, then answered.
pub struct Call<R, V> {
    returns: ReturnType<R, V>,
    state: State,
}

impl<R, V> Call<R, V> {
    pub(super) fn new(returns: ReturnType<R, V>, state: State) -> Call<R, V> {
        Call { returns, state }
    }

    /// Sets how long what this call fetches lives.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Call<R, V> {
        match &mut self.state {
            State::Missed(missed) => missed.set_ttl(ttl),
            State::Due(due) => due.1.ttl = Some(ttl),
            State::Begun(_) | State::Bypassed => {}
        }
        self
    }

    /// Sets which values are cached.
    #[must_use]
    pub fn cache_if(mut self, cache_if: fn(&V) -> bool) -> Call<R, V> {
        self.returns.rules.cache_if = Some(cache_if);
        self
    }

    /// Sets what a value weighs in the local tier.
    #[must_use]
    pub fn weight(mut self, weight: fn(&V) -> usize) -> Call<R, V>
    where
        V: 'static,
    {
        match &mut self.state {
            State::Missed(missed) => missed.set_weigher(weight_fn(weight)),
            State::Due(due) => due.1.weigher = Some(weight_fn(weight)),
            State::Begun(_) | State::Bypassed => {}
        }
        self
    }

    /// Sets how long a value is cached, from the value.
    #[must_use]
    pub fn ttl_with(mut self, ttl_with: fn(&V) -> Duration) -> Call<R, V> {
        self.returns.rules.ttl_with = Some(ttl_with);
        self
    }

    /// Answers from another's fetch, from memcached, or by running `fetch`.
    pub fn answer<F: Future<Output = R>>(self, fetch: Pin<&mut F>) -> Answer<'_, R, V, F> {
        Answer { path: Path::new(self), fetch }
    }
}

impl<R: 'static, V: 'static> Call<R, V> {
    /// The same for a function that declares `refresh_ahead`, whose fetch may outlive the call.
    pub async fn answer_ahead<F>(self, mut fetch: Pin<Box<F>>) -> R
    where
        F: Future<Output = R> + Send + 'static,
    {
        let Call { returns, state } = self;
        let state = match state {
            State::Due(due) => {
                let (value, site) = *due;
                let Some(returned) = returns.rebuild(&value) else { return fetch.await };
                Missed { site, request: None }.refresh_local(returns, fetch);
                return returned;
            }
            State::Missed(missed) => {
                let begun = match missed.begin() {
                    Ok(begun) => begun,
                    Err(waiting) => waiting.await,
                };
                if let Some(returned) = begun.answer_to_refresh(&returns) {
                    begun.refresh(returns, fetch);
                    return returned;
                }
                State::Begun(begun)
            }
            other => other,
        };
        Call { returns, state }.answer(fetch.as_mut()).await
    }
}

/// The answer of a [`Call`]. Of it only this shell is compiled for each annotated function.
pub struct Answer<'f, R, V, F> {
    path: Path<R, V>,
    fetch: Pin<&'f mut F>,
}

impl<R, V, F: Future<Output = R>> Future for Answer<'_, R, V, F> {
    type Output = R;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<R> {
        let Answer { path, fetch } = self.get_mut();
        path.poll(fetch.as_mut(), context)
    }
}

/// How far a call is. What is returned need not be `Send`, so none of it is kept here.
struct Path<R, V> {
    returns: ReturnType<R, V>,
    stage: Stage,
}

enum Stage {
    Looked(State),
    Waiting(Waiting),
    Fetching(Box<Begun>),
    /// Also while it is polled, and for good where that panics.
    Over,
}

impl<R, V> Path<R, V> {
    fn new(call: Call<R, V>) -> Path<R, V> {
        Path { returns: call.returns, stage: Stage::Looked(call.state) }
    }

    fn poll(
        &mut self,
        mut fetch: Pin<&mut dyn Future<Output = R>>,
        context: &mut Context<'_>,
    ) -> Poll<R> {
        loop {
            let mut begun = match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::Looked(State::Due(due)) => match self.returns.rebuild(&due.0) {
                    Some(returned) => return Poll::Ready(returned),
                    None => Begun::alone(),
                },
                Stage::Looked(State::Bypassed) => Begun::alone(),
                Stage::Looked(State::Missed(missed)) => match missed.begin() {
                    Ok(begun) => begun,
                    Err(waiting) => {
                        self.stage = Stage::Waiting(waiting);
                        continue;
                    }
                },
                Stage::Looked(State::Begun(begun)) => begun,
                Stage::Waiting(mut waiting) => match waiting.as_mut().poll(context) {
                    Poll::Ready(begun) => begun,
                    Poll::Pending => {
                        self.stage = Stage::Waiting(waiting);
                        return Poll::Pending;
                    }
                },
                Stage::Fetching(mut begun) => match begun.poll(fetch.as_mut(), context) {
                    Poll::Ready(Fetched::Returned(returned)) => {
                        return Poll::Ready(begun.settle(returned, &self.returns));
                    }
                    Poll::Ready(Fetched::Overtaken(outcome)) => {
                        if let Some(returned) = begun.settle_overtaken(outcome, &self.returns) {
                            return Poll::Ready(returned);
                        }
                        self.stage = Stage::Fetching(begun);
                        continue;
                    }
                    Poll::Pending => {
                        self.stage = Stage::Fetching(begun);
                        return Poll::Pending;
                    }
                },
                Stage::Over => panic!("a call is polled after it was answered, or has panicked"),
            };
            if let Some(returned) = begun.answer(&self.returns) {
                return Poll::Ready(returned);
            }
            self.stage = Stage::Fetching(begun);
        }
    }
}
