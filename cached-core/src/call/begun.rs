//! A missed call from where it begins to wait or to fetch until it returns. What depends on its return type is
//! in here, and as small as can be: it is compiled for each.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::{Fetching, Joined, Missed, SLOW_FETCH, Step};
use crate::event::{BypassReason, Event, FetchOutcome, StaleReason};
use crate::flight::{LastWaker, Leader, Outcome, poll_work};
use crate::value::{FetchOutput, ReturnType, WeightFn};

/// The result of polling a fetch.
pub(crate) enum Fetched<R> {
    Returned(R),
    /// The lead went from one leader to another and both went on: the other's fetch ended first.
    Overtaken(Outcome),
}

/// A missed call of which only the fetch is left, if that. It is untyped, and what is typed are small
/// functions, compiled for each return type.
pub(crate) struct Begun {
    /// `None` for a call that is not cached.
    pub(super) missed: Option<Missed>,
    pub(super) step: Step,
    /// When the fetch began, where there is somebody who may wait for as long.
    pub(super) began: Option<Instant>,
    waker: LastWaker,
}

/// A call that begins once another's fetch, or memcached, has answered.
pub(crate) type Waiting = Pin<Box<dyn Future<Output = Box<Begun>> + Send>>;

impl Begun {
    #[inline]
    pub(super) fn new(missed: Option<Missed>, step: Step) -> Box<Begun> {
        // Written where it stays: what was only just written is slow to move.
        Box::write(Box::new_uninit(), Begun { missed, step, began: None, waker: None })
    }

    /// A call that missed, in the one box that it stays in until it is answered.
    pub(crate) fn missed(missed: Missed) -> Box<Begun> {
        Begun::new(Some(missed), Step::Alone)
    }

    /// Sets how long what is fetched lives.
    pub(crate) fn set_ttl(&mut self, ttl: Duration) {
        if let Some(missed) = &mut self.missed {
            missed.site.ttl = Some(ttl);
        }
    }

    pub(crate) fn set_weigher(&mut self, weigher: WeightFn) {
        if let Some(missed) = &mut self.missed {
            missed.site.weigher = Some(weigher);
        }
    }

    /// Takes the next part of the path, as the leader of the key's flight or as its follower. What has
    /// to wait is boxed, so that the future of a function that is hit stays small.
    pub(crate) fn begin(mut self: Box<Self>) -> Result<Box<Begun>, Waiting> {
        let Some(missed) = &self.missed else { return Ok(self) };
        match missed.join() {
            Joined::Step(step) => {
                self.step = step;
                Ok(self)
            }
            mut joined => Err(Box::pin(async move {
                if let Some(missed) = &self.missed {
                    self.step = loop {
                        joined = match joined {
                            Joined::Step(step) => break step,
                            Joined::Ask(leader, fill_token) => {
                                break missed.ask(leader, fill_token).await;
                            }
                            Joined::Follow(follower) => missed.follow(follower).await,
                        };
                    };
                }
                self
            })),
        }
    }

    /// The function as it is without the cache.
    pub(crate) fn alone() -> Box<Begun> {
        Begun::new(None, Step::Alone)
    }

    /// Another's answer, if there is one; else the fetch begins.
    pub(crate) fn answer<R, V>(&mut self, returns: &ReturnType<R, V>) -> Option<R> {
        let answer = match &self.step {
            Step::Answer(value) | Step::AnswerAndRefresh(value, _) => returns.rebuild(value),
            Step::Error(error) => returns.errors.clone_of(error),
            Step::Fetch(_) | Step::Alone => None,
        };
        if answer.is_none() {
            self.begin_fetch();
        }
        answer
    }

    /// Counts the fetch, which begins now.
    pub(super) fn begin_fetch(&mut self) {
        let Some(missed) = &self.missed else { return };
        match &mut self.step {
            Step::Fetch(fetching) => {
                missed.site.emit(Event::FetchStarted { entry: missed.site.event_entry() });
                if let Some(leader) = &fetching.leader
                    && let Some(time) =
                        missed.site.counters().fetch_time().filter(|time| *time > SLOW_FETCH)
                {
                    leader.expect(time);
                }
                missed.site.assign_fetch_sequence(&mut fetching.fill_token);
            }
            _ => missed.site.emit(Event::Bypassed {
                declaration: missed.site.declaration(),
                reason: BypassReason::Recursion,
            }),
        }
        self.began = missed.site.remote_tier().map(|_| Instant::now());
    }

    /// Polls the fetch, as the leader where it is one.
    pub(crate) fn poll<R>(
        &mut self,
        fetch: Pin<&mut dyn Future<Output = R>>,
        context: &mut Context<'_>,
    ) -> Poll<Fetched<R>> {
        let leader = match &self.step {
            Step::Fetch(fetching) => fetching.leader.as_ref(),
            _ => None,
        };
        if let Some(outcome) = leader.and_then(|leader| leader.overtaken(context)) {
            return Poll::Ready(Fetched::Overtaken(outcome));
        }
        poll_work(leader, &mut self.waker, fetch, context).map(Fetched::Returned)
    }

    /// Returns the call's answer after another leader's fetch has ended first. Returns `None` if that
    /// outcome is of no use to the call: then its own fetch goes on, for itself.
    #[cold]
    pub(crate) fn settle_overtaken<R, V>(
        &mut self,
        outcome: Outcome,
        returns: &ReturnType<R, V>,
    ) -> Option<R> {
        if let Step::Fetch(fetching) = &mut self.step {
            fetching.leader.take().into_iter().for_each(Leader::yield_to_outcome);
        }
        let missed = self.missed.as_ref()?;
        match missed.step_of(outcome) {
            Step::Answer(value) => returns.rebuild(&value),
            Step::Error(error) => returns.errors.clone_of(&error),
            _ => None,
        }
    }

    /// Returns what the call returns, and stores what there is for the tiers. Nothing is awaited here: an
    /// error need not be `Send`.
    pub(crate) fn settle<R, V>(self: Box<Self>, returned: R, returns: &ReturnType<R, V>) -> R {
        let Begun { missed: Some(missed), step: Step::Fetch(fetching), began, .. } = *self else {
            return returned;
        };
        match (returns.split)(returned, &returns.rules) {
            FetchOutput::Value(value, verdict) => {
                missed.report_fetch(&fetching, FetchOutcome::Value, began);
                let value = missed.fill(fetching, value, verdict);
                // The type is the one that was split, so this is always there.
                match returns.rebuild(&value) {
                    Some(returned) => returned,
                    None => unreachable!("a value is of the type it was made from"),
                }
            }
            FetchOutput::Error(returned) => {
                missed.report_fetch(&fetching, FetchOutcome::Error, began);
                if let Some(value) = missed.stale_for(&fetching)
                    && let Some(stale) = returns.rebuild(&value)
                {
                    let reason = StaleReason::FetchFailed;
                    missed
                        .site
                        .emit(Event::StaleServed { entry: missed.site.event_entry(), reason });
                    fetching.answer(Outcome::Uncached(value));
                    return stale;
                }
                fetching.answer(
                    returns.errors.share(&returned).map_or(Outcome::Unshared, Outcome::Error),
                );
                returned
            }
        }
    }
}

impl Missed {
    /// Reports the end of a fetch that began at `began`.
    fn report_fetch(&self, fetching: &Fetching, outcome: FetchOutcome, began: Option<Instant>) {
        let took = match began {
            Some(began) => Some(began.elapsed()),
            // Without a remote tier only the bound of a stuck leader depends on the time.
            None => fetching.leader.as_ref().map(Leader::lasted).filter(|took| *took > SLOW_FETCH),
        };
        self.site.emit(Event::FetchEnded { entry: self.site.event_entry(), outcome, took });
    }
}
