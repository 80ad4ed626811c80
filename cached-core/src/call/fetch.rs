//! A call *fetches* when it runs the annotated function and turns the output into its answer.
//!
//! The calls of this process that need one key at the same time form a *flight*. The *leader* of
//! the flight fetches, and the other calls, its *followers*, wait for the outcome. If the leader
//! seems stuck, a follower takes over the lead and fetches too.
//!
//! The methods that are generic over the return type are compiled for each annotated function. They
//! are short, and leave the work to methods that are not generic, which are compiled once.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::{AnswerSource, CallPlan, PendingCall};
use crate::event::{Event, EventSubject, FetchOutcome, StaleServedReason};
use crate::flight::{FlightOutcome, poll_work};
use crate::telemetry::FetchSpan;
use crate::value::{FetchOutput, ReturnOperations, ValueRules};

/// If a function usually takes longer than this, the leader of a flight reports the usual time to
/// the flight. The flight then waits longer before it treats the leader as stuck.
const SLOW_FETCH: Duration = Duration::from_secs(15);

/// How a call's fetch has ended.
pub(crate) enum FetchEnd<R> {
    /// The function returned this output.
    Returned(R),
    /// Another caller took over the lead of the flight, and its fetch ended first, with this
    /// outcome.
    Overtaken(FlightOutcome),
}

impl PendingCall {
    /// Returns the answer if the call's plan contains one of the right type. Otherwise begins a
    /// fetch and returns `None`.
    pub(crate) fn answer_or_begin_fetch<R, V>(
        &mut self,
        returns: &ReturnOperations<R, V>,
    ) -> Option<R> {
        let answer = match &self.plan {
            CallPlan::Answer(value, _) | CallPlan::AnswerAndRefresh(value, _) => {
                returns.rebuild(value)
            }
            CallPlan::Error(error, _) => returns.error_sharing.rebuild(error),
            CallPlan::Fetch(_) | CallPlan::Bypass => None,
        };
        self.end_wait(answer.is_some());
        answer
    }

    /// Reports where the answer came from if the call is answered. If not, begins the fetch.
    fn end_wait(&mut self, is_answered: bool) {
        match self.plan.answer_source().filter(|_| is_answered) {
            Some(source) => {
                self.report_answer(source);
                self.trace(|report| report.is_answered = true);
            }
            None => {
                if let CallPlan::Error(..) = self.plan {
                    // The answer was another caller's error, but copying the error has panicked.
                    // This call therefore fetches for itself.
                    self.plan = self.plan_alone();
                }
                self.begin_fetch();
            }
        }
    }

    /// Reports that the function starts to run, notes the time, and gives the fetch its sequence
    /// number.
    pub(crate) fn begin_fetch(&mut self) {
        let handle = &self.handle;
        match self.plan.bypass_reason() {
            Some(reason) => {
                handle.report_bypass(reason);
                self.is_counted = true;
                self.trace(|report| report.is_bypassed = true);
                self.span = FetchSpan::of_bypass(handle.declaration());
            }
            None => handle.emit(|entry| Event::FetchStarted { entry }),
        }
        self.trace(|report| report.fetch_began = Some(Instant::now()));
        let handle = &self.handle;
        if let CallPlan::Fetch(fetch) = &mut self.plan {
            // A refresh has started its span already, in the caller's task.
            if !fetch.is_refresh {
                self.span = FetchSpan::of_miss(EventSubject::of(&handle.key));
            }
            if let Some(leader) = &fetch.leader
                && let Some(time) = handle.counters().fetch_time().filter(|t| *t > SLOW_FETCH)
            {
                leader.set_usual_fetch_time(time);
            }
            handle.assign_fetch_sequence(&mut fetch.fill_token);
            self.fetch_began = Some(Instant::now());
        }
    }

    /// Polls the function's future within the fetch's tracing span. If the call leads a flight, the
    /// flight records the poll. If a call that took over the lead has already finished, returns
    /// that call's outcome instead.
    pub(crate) fn poll_fetch<R>(
        &mut self,
        fetch: Pin<&mut dyn Future<Output = R>>,
        context: &mut Context<'_>,
    ) -> Poll<FetchEnd<R>> {
        let leader = match &self.plan {
            CallPlan::Fetch(fetch) => fetch.leader.as_ref(),
            _ => None,
        };
        let outcome_of_other = |context: &Context<'_>| {
            let outcome = leader.and_then(|leader| leader.outcome_of_other_leader(context));
            outcome.map_or(Poll::Pending, |outcome| Poll::Ready(FetchEnd::Overtaken(outcome)))
        };
        // The start of the fetch is counted already, so the function must be polled at least once.
        let is_first = !std::mem::replace(&mut self.is_fetch_polled, true);
        if !is_first && let overtaken @ Poll::Ready(_) = outcome_of_other(context) {
            return overtaken;
        }
        let (span, waker_cache) = (&self.span, &mut self.waker_cache);
        match span.in_scope(|| poll_work(leader, waker_cache, fetch, context)) {
            Poll::Ready(output) => Poll::Ready(FetchEnd::Returned(output)),
            Poll::Pending if is_first => outcome_of_other(context),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Gives up the lead of the flight, and uses the outcome of the other leader's fetch as this
    /// call's answer. Returns `None` if the outcome does not fit this call. The call then goes on
    /// with its own fetch.
    #[cold]
    pub(crate) fn accept_outcome<R, V>(
        &mut self,
        outcome: FlightOutcome,
        returns: &ReturnOperations<R, V>,
    ) -> Option<R> {
        if let CallPlan::Fetch(fetch) = &mut self.plan
            && let Some(leader) = fetch.leader.take()
        {
            leader.accept_outcome();
        }
        let plan = self.plan_for_outcome(outcome);
        let answer = match &plan {
            CallPlan::Answer(value, _) => returns.rebuild(value),
            CallPlan::Error(error, _) => returns.error_sharing.rebuild(error),
            _ => None,
        };
        self.trace(|report| report.is_answered = answer.is_some());
        if let Some(source) = plan.answer_source().filter(|_| answer.is_some()) {
            self.report_answer(source);
            self.span.end("overtaken");
        }
        answer
    }

    /// Turns the function's output into the call's answer, and fills the tiers.
    ///
    /// The method is not `async`. If it were, its future would contain the output, and would not be
    /// `Send` if the output is an error that is not `Send`.
    pub(crate) fn finish<R, V>(
        mut self: Box<Self>,
        output: R,
        returns: &ReturnOperations<R, V>,
        rules: &ValueRules<'_, V>,
    ) -> R {
        let CallPlan::Fetch(fetch) = std::mem::replace(&mut self.plan, CallPlan::Bypass) else {
            self.trace(|report| report.end_fetch(FetchOutcome::Value));
            self.span.end("returned");
            return output;
        };
        self.handle.declaration().check_error_sharing(returns.error_sharing.unshared_type());
        match (returns.split)(output, rules) {
            FetchOutput::Value(value, decision) => {
                let ended = self.report_end(FetchOutcome::Value, !fetch.is_refresh);
                self.handle.end_fetch_pause();
                let value = self.fill(fetch, value, decision, ended);
                match returns.rebuild(&value) {
                    Some(answer) => answer,
                    None => unreachable!("a value has the type that it was made from"),
                }
            }
            FetchOutput::Error(output) => {
                let stale = self.stale_value(&fetch);
                let stale = stale.and_then(|value| Some((returns.rebuild(&value)?, value)));
                let is_answer = !fetch.is_refresh && stale.is_none();
                self.report_end(FetchOutcome::Error, is_answer);
                // The key's fetches must be paused (`error_ttl`) before the flight ends. Otherwise
                // another call could fetch in between.
                let share = || returns.error_sharing.share(&output);
                let shared = self.begin_pause(&fetch, share);
                if let Some((answer, value)) = stale {
                    let reason = StaleServedReason::FetchFailed;
                    self.report_answer(AnswerSource::Expired(fetch.stale_tier(), reason));
                    fetch.end_with_stale(value, reason);
                    return answer;
                }
                fetch.end_without_value(|| {
                    let error = shared.or_else(share);
                    error.map_or(FlightOutcome::UnsharedError, FlightOutcome::Error)
                });
                output
            }
        }
    }

    /// Reports that the function has returned, and returns the current time. `is_answer` is true if
    /// the caller gets this output as its answer.
    fn report_end(&mut self, outcome: FetchOutcome, is_answer: bool) -> Instant {
        let ended = Instant::now();
        match outcome {
            FetchOutcome::Value => self.span.end("value"),
            FetchOutcome::Error => self.span.end_with_error(),
        }
        self.trace(|report| report.end_fetch(outcome));
        self.is_counted |= is_answer;
        let took = self.fetch_began.take().map_or(Duration::ZERO, |began| ended - began);
        self.handle.emit(|entry| Event::FetchEnded { entry, outcome, took, is_answer });
        ended
    }
}
