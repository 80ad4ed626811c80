//! A call of an annotated function, and the future that completes the call.
//!
//! A *fetch* is a run of the annotated function's body.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::call::{BypassingCall, FetchEnd, Phase};
use crate::entry_handle::EntryHandle;
use crate::event::BypassReason;
use crate::round_trip::{RoundTripCheck, RoundTripFns};
use crate::tier::Tier;
use crate::value::{ErrorSharing, ReturnOperations, SharedError, ValueRules, weight_fn};

/// A call of an annotated function that has begun, but has not been answered. Its lookup in this
/// process has found no value, or a value that might need a refresh. A call that bypasses the cache
/// is also a `Call`. `'p` is the lifetime of the parameters that `cache_if` and `ttl_with` mention.
pub struct Call<'p, R, V> {
    returns: ReturnOperations<R, V>,
    rules: ValueRules<'p, V>,
    phase: Phase,
}

impl<'p, R, V> Call<'p, R, V> {
    pub(super) fn new(returns: ReturnOperations<R, V>, phase: Phase) -> Self {
        Call { returns, rules: ValueRules::NONE, phase }
    }

    /// Returns the handle of the cache entry, through which the function's options are set. Returns
    /// `None` for a call that needs no options, for example because it does not use the cache.
    fn handle_mut(&mut self) -> Option<&mut EntryHandle> {
        match &mut self.phase {
            Phase::Hit(hit) => Some(&mut hit.handle),
            Phase::Miss(call) => Some(&mut call.handle),
            _ => None,
        }
    }

    /// Sets the time to live of the entry.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        if let Some(handle) = self.handle_mut() {
            handle.ttl = Some(ttl);
        }
        self
    }

    /// Sets the function that decides whether a fetched value is cached.
    #[must_use]
    pub fn cache_if(mut self, cache_if: impl Fn(&V) -> bool + Send + Sync + 'p) -> Self {
        self.rules.cache_if = Some(Arc::new(cache_if));
        self
    }

    /// Sets the functions that check whether a value survives the round trip to memcached.
    pub(super) fn round_trip(mut self, functions: RoundTripFns) -> Self {
        if let Some(handle) = self.handle_mut() {
            handle.round_trip_check = RoundTripCheck::from(functions);
        }
        self
    }

    /// Sets the function that computes the weight of a value in the local tier.
    #[must_use]
    pub fn weight(mut self, weight: fn(&V) -> usize) -> Self
    where
        V: 'static,
    {
        if let Some(handle) = self.handle_mut() {
            handle.weigher = Some(weight_fn(weight));
        }
        self
    }

    /// Sets how the error of a failed fetch is shared with other calls. The macro generates
    /// `share`. It creates an `ErrorCopier` with [`error_copier`](super::error_copier), and hands
    /// it the function that the user wrote as the option `share_error`.
    #[must_use]
    pub fn share_error(mut self, share: fn(&R) -> Option<SharedError>) -> Self
    where
        R: 'static,
    {
        self.returns.error_sharing = ErrorSharing::by_option(share);
        self
    }

    /// Sets the function that computes the time to live from the value.
    #[must_use]
    pub fn ttl_with(mut self, ttl_with: impl Fn(&V) -> Duration + Send + Sync + 'p) -> Self {
        self.rules.ttl_with = Some(Arc::new(ttl_with));
        self
    }

    /// Returns rules without `cache_if` and `ttl_with`, for a function with `refresh_ahead`. The
    /// generated code adds these two only when the body might run. A plain hit therefore copies no
    /// parameters.
    pub fn no_rules(&self) -> OwnedValueRules<V> {
        OwnedValueRules(ValueRules::NONE)
    }

    /// Returns a future that completes the call. The result comes from a tier, from another
    /// caller's fetch, or from `fetch`, which is the body of the function.
    pub fn complete<F: Future<Output = R>>(
        self,
        fetch: Pin<&mut F>,
    ) -> CallFuture<'p, '_, R, V, F> {
        CallFuture { call: self, fetch }
    }
}

/// The options `cache_if` and `ttl_with` of a function with `refresh_ahead`, as closures. A refresh
/// calls the closures in the background, so they own the parameters that they mention.
pub struct OwnedValueRules<V>(ValueRules<'static, V>);

impl<V> OwnedValueRules<V> {
    /// Sets the function that decides whether a fetched value is cached.
    #[must_use]
    pub fn cache_if(mut self, cache_if: impl Fn(&V) -> bool + Send + Sync + 'static) -> Self {
        self.0.cache_if = Some(Arc::new(cache_if));
        self
    }

    /// Sets the function that computes the time to live from the value.
    #[must_use]
    pub fn ttl_with(mut self, ttl_with: impl Fn(&V) -> Duration + Send + Sync + 'static) -> Self {
        self.0.ttl_with = Some(Arc::new(ttl_with));
        self
    }
}

impl<R: 'static, V: 'static> Call<'_, R, V> {
    /// Completes the call as [`complete`](Call::complete) does. If the entry is due for a refresh,
    /// this method returns the cached value and runs the fetch in the background.
    ///
    /// `fetch` returns the function's rules and the future of its body. This method calls `fetch`
    /// only if the body might have to run.
    pub async fn complete_with_refresh<F>(
        self,
        fetch: impl FnOnce() -> (OwnedValueRules<V>, Pin<Box<F>>),
    ) -> R
    where
        F: Future<Output = R> + Send + 'static,
    {
        let fetch = || {
            let (OwnedValueRules(rules), fetch) = fetch();
            (rules, fetch)
        };
        let Call { returns, phase, .. } = self;
        let phase = match phase {
            Phase::Hit(hit) => {
                if let Some(answer) = returns.rebuild(&hit.value) {
                    hit.handle.report_hit(Tier::Local);
                    hit.record();
                    hit.refresh(returns, fetch);
                    return answer;
                }
                hit.handle.report_bypass(BypassReason::OtherType);
                Phase::Bypass(BypassingCall::begin(hit.handle.declaration()))
            }
            Phase::Miss(call) => match call.join() {
                Phase::Wait(waiting) => Phase::Decided(waiting.await),
                joined => joined,
            },
            other => other,
        };
        let phase = match phase {
            Phase::Decided(mut call) => match call.answer_before_refresh(&returns) {
                Some(answer) => {
                    call.refresh(returns, fetch);
                    return answer;
                }
                None => Phase::Decided(call),
            },
            other => other,
        };
        let (rules, mut fetch) = fetch();
        Call { returns, rules, phase }.complete(fetch.as_mut()).await
    }
}

impl<R, V> Call<'_, R, V> {
    /// Moves the call from phase to phase until it completes.
    ///
    /// The output of `fetch` need not be `Send`, so it is never stored in the call.
    fn poll(
        &mut self,
        mut fetch: Pin<&mut dyn Future<Output = R>>,
        context: &mut Context<'_>,
    ) -> Poll<R> {
        let (returns, rules) = (&self.returns, &self.rules);
        loop {
            self.phase = match std::mem::replace(&mut self.phase, Phase::Done) {
                Phase::Bypass(call) => match call.poll_fetch(fetch.as_mut(), context) {
                    Poll::Ready(output) => {
                        call.end();
                        return Poll::Ready(output);
                    }
                    Poll::Pending => {
                        self.phase = Phase::Bypass(call);
                        return Poll::Pending;
                    }
                },
                Phase::Hit(hit) => match returns.rebuild(&hit.value) {
                    Some(answer) => {
                        hit.handle.report_hit(Tier::Local);
                        hit.record();
                        return Poll::Ready(answer);
                    }
                    None => {
                        hit.handle.report_bypass(BypassReason::OtherType);
                        Phase::Bypass(BypassingCall::begin(hit.handle.declaration()))
                    }
                },
                Phase::Miss(call) => call.join(),
                Phase::Wait(mut waiting) => match waiting.as_mut().poll(context) {
                    Poll::Ready(call) => Phase::Decided(call),
                    Poll::Pending => {
                        self.phase = Phase::Wait(waiting);
                        return Poll::Pending;
                    }
                },
                Phase::Decided(mut call) => match call.answer_or_begin_fetch(returns) {
                    Some(answer) => return Poll::Ready(answer),
                    None => Phase::Fetch(call),
                },
                Phase::Fetch(mut call) => match call.poll_fetch(fetch.as_mut(), context) {
                    Poll::Ready(FetchEnd::Returned(output)) => {
                        return Poll::Ready(call.finish(output, returns, rules));
                    }
                    Poll::Ready(FetchEnd::Overtaken(outcome)) => {
                        match call.accept_outcome(outcome, returns) {
                            Some(answer) => return Poll::Ready(answer),
                            None => Phase::Fetch(call),
                        }
                    }
                    Poll::Pending => {
                        self.phase = Phase::Fetch(call);
                        return Poll::Pending;
                    }
                },
                Phase::Done => panic!("a call is polled after it was answered, or has panicked"),
            };
        }
    }
}

/// The future that completes a [`Call`].
///
/// This wrapper is compiled once for each annotated function. `Call::poll` is compiled only once
/// for each return type.
pub struct CallFuture<'p, 'f, R, V, F> {
    call: Call<'p, R, V>,
    fetch: Pin<&'f mut F>,
}

impl<R, V, F: Future<Output = R>> Future for CallFuture<'_, '_, R, V, F> {
    type Output = R;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<R> {
        let CallFuture { call, fetch } = self.get_mut();
        call.poll(fetch.as_mut(), context)
    }
}
