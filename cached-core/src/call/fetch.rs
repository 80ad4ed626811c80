//! The fetch of a call: the call runs the annotated function and turns the output into its answer.
//!
//! The methods that are generic over the return type are compiled for each annotated function. They
//! are short, and leave the work to methods that are compiled once.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::{CallPlan, PendingCall, PlannedFetch};
use crate::event::{Event, FetchOutcome};
use crate::flight::{FlightOutcome, Leader, poll_work};
use crate::value::{FetchOutput, ReturnOperations, ValueRules};

/// If a function's usual fetch time is longer than this, a leader reports the time to its flight.
/// The flight then waits longer before the leader counts as stuck.
const SLOW_FETCH: Duration = Duration::from_secs(15);

/// The end of a call's fetch.
pub(crate) enum FetchEnd<R> {
    /// The function returned this output.
    Returned(R),
    /// Another caller took over the lead of the flight. The other caller's fetch ended first, with
    /// this outcome.
    Overtaken(FlightOutcome),
}

impl PendingCall {
    /// Returns the answer if the plan holds one of the call's type. Otherwise begins a fetch and
    /// returns `None`.
    pub(crate) fn answer_or_begin_fetch<R, V>(
        &mut self,
        returns: &ReturnOperations<R, V>,
    ) -> Option<R> {
        let answer = match &self.plan {
            CallPlan::Answer(value) | CallPlan::AnswerAndRefresh(value, _) => {
                returns.rebuild(value)
            }
            CallPlan::Error(error) => returns.error_sharing.rebuild(error),
            CallPlan::Fetch(_) | CallPlan::Bypass => None,
        };
        match answer {
            Some(_) => self.trace(|report| report.is_answered = true),
            None => {
                if let CallPlan::Error(_) = self.plan {
                    // Copying another caller's error has panicked, so this call fetches for itself.
                    self.plan = self.plan_alone();
                }
                self.begin_fetch();
            }
        }
        answer
    }

    /// Reports that the function starts to run, and gives the fetch its sequence number. If there
    /// is a remote tier, notes the time.
    pub(crate) fn begin_fetch(&mut self) {
        let handle = &self.handle;
        match self.plan.bypass_reason() {
            Some(reason) => {
                handle.report_bypass(reason);
                self.discard_trace();
            }
            None => handle.emit(|entry| Event::FetchStarted { entry }),
        }
        self.trace(|report| report.fetch_began = Some(Instant::now()));
        let handle = &self.handle;
        if let CallPlan::Fetch(fetch) = &mut self.plan {
            if let Some(leader) = &fetch.leader
                && let Some(time) = handle.counters().fetch_time().filter(|t| *t > SLOW_FETCH)
            {
                leader.set_usual_fetch_time(time);
            }
            handle.assign_fetch_sequence(&mut fetch.fill_token);
        }
        self.fetch_began = handle.remote_tier().map(|_| Instant::now());
    }

    /// Polls the future of the function. If the call leads a flight, the flight records the poll.
    /// If another leader of the flight has finished, returns its outcome instead.
    pub(crate) fn poll_fetch<R>(
        &mut self,
        fetch: Pin<&mut dyn Future<Output = R>>,
        context: &mut Context<'_>,
    ) -> Poll<FetchEnd<R>> {
        let leader = match &self.plan {
            CallPlan::Fetch(fetch) => fetch.leader.as_ref(),
            _ => None,
        };
        if let Some(outcome) = leader.and_then(|leader| leader.outcome_of_other_leader(context)) {
            return Poll::Ready(FetchEnd::Overtaken(outcome));
        }
        poll_work(leader, &mut self.waker_cache, fetch, context).map(FetchEnd::Returned)
    }

    /// Gives up the lead of the flight, and turns the outcome of the other leader's fetch into this
    /// call's answer. Returns `None` if this call cannot use the outcome. This call then goes on
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
        self.trace(|report| report.is_answered = true);
        match self.plan_for_outcome(outcome) {
            CallPlan::Answer(value) => returns.rebuild(&value),
            CallPlan::Error(error) => returns.error_sharing.rebuild(&error),
            _ => None,
        }
    }

    /// Turns the function's output into the call's answer, and fills the tiers.
    ///
    /// The method is not `async`, because its future would hold the output across an `await`. The
    /// output may be an error that is not `Send`.
    pub(crate) fn finish<R, V>(
        mut self: Box<Self>,
        output: R,
        returns: &ReturnOperations<R, V>,
        rules: &ValueRules<'_, V>,
    ) -> R {
        let CallPlan::Fetch(fetch) = std::mem::replace(&mut self.plan, CallPlan::Bypass) else {
            return output;
        };
        self.handle.declaration().check_error_sharing(returns.error_sharing.unshared_type());
        match (returns.split)(output, rules) {
            FetchOutput::Value(value, decision) => {
                self.report_end(&fetch, FetchOutcome::Value);
                self.handle.end_pause();
                let value = self.fill(fetch, value, decision);
                match returns.rebuild(&value) {
                    Some(answer) => answer,
                    None => unreachable!("a value has the type that it was made from"),
                }
            }
            FetchOutput::Error(output) => {
                self.report_end(&fetch, FetchOutcome::Error);
                // The pause must begin before the flight ends. Otherwise a caller could fetch in
                // between.
                let share = || returns.error_sharing.share(&output);
                let shared = self.begin_pause(&fetch, share);
                if let Some(value) = self.stale_value(&fetch)
                    && let Some(answer) = returns.rebuild(&value)
                {
                    self.serve_stale(fetch, value);
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

    fn report_end(&self, fetch: &PlannedFetch, outcome: FetchOutcome) {
        self.trace(|report| {
            report.is_answered = true;
            report.fetched = report.fetch_began.map(|began| (began.elapsed(), outcome));
        });
        let took = match self.fetch_began {
            Some(began) => Some(began.elapsed()),
            // Without a remote tier, the fetch time is used only to recognize a stuck leader.
            None => fetch.leader.as_ref().map(Leader::elapsed).filter(|t| *t > SLOW_FETCH),
        };
        self.handle.emit(|entry| Event::FetchEnded { entry, outcome, took });
    }
}
