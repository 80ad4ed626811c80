//! Answers that are refreshed in the background, while they are served.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::{Begun, Fetched, Fetching, Missed, Right, Step};
use crate::cache::Cache;
use crate::current::current_of_process;
use crate::event::Event;
use crate::value::ReturnType;

/// While a right is held that was won too early a test may move the clock: it is looked at so often.
const GLANCE: Duration = Duration::from_secs(1);

impl Begun {
    /// The answer, where it is one that is to be refreshed.
    pub(crate) fn answer_to_refresh<R, V>(&self, returns: &ReturnType<R, V>) -> Option<R> {
        match &self.step {
            Step::AnswerAndRefresh(value, _) => returns.rebuild(value),
            _ => None,
        }
    }

    /// Refreshes it by the fetch, which goes on by itself; not before it is due by its own life.
    pub(crate) fn refresh<R, V, F>(self, returns: ReturnType<R, V>, fetch: Pin<Box<F>>)
    where
        R: 'static,
        V: 'static,
        F: Future<Output = R> + Send + 'static,
    {
        let Begun { missed: Some(missed), step: Step::AnswerAndRefresh(value, refresh), .. } = self
        else {
            return;
        };
        let (fetching, expires) = *refresh;
        let due_later = |expires| {
            let verdict = returns.rules.decide_stored(&value, missed.site.value_type);
            missed.site.due_later(&verdict, expires)
        };
        match expires.and_then(due_later) {
            None => missed.refresh(returns, fetching, fetch),
            Some(due) => missed.hold(fetching, due),
        }
    }
}

impl Missed {
    /// Fetches in the background, and stores what comes of it. Without a runtime it is left to a
    /// later call.
    fn refresh<R, V, F>(self, returns: ReturnType<R, V>, fetching: Fetching, mut fetch: Pin<Box<F>>)
    where
        R: 'static,
        V: 'static,
        F: Future<Output = R> + Send + 'static,
    {
        let Ok(runtime) = Handle::try_current() else { return };
        let refresh = async move {
            self.site.emit(Event::RefreshStarted { entry: self.site.event_entry() });
            let mut begun = Begun::new(Some(self), Step::Fetch(fetching));
            begun.begin_fetch();
            // Off the caller's path a clock costs nobody anything, also where there is no memcached.
            begun.began = Some(Instant::now());
            // Nobody leads here, so nobody is overtaken.
            if let Fetched::Returned(returned) =
                poll_fn(|context| begun.poll(fetch.as_mut(), context)).await
            {
                begun.settle(returned, &returns);
            }
        };
        // The body's own calls use the cache that they would have used here.
        match current_of_process() {
            Some(_) => drop(runtime.spawn(refresh)),
            None => drop(runtime.spawn(Cache::current().scope(refresh))),
        }
    }

    /// Holds a right that was won too early until it is due. Given back at once it would be won at every
    /// hit; then whoever wins it refreshes.
    fn hold(self, fetching: Fetching, due: Instant) {
        let Ok(runtime) = Handle::try_current() else { return };
        let clock = self.site.cache.config().clock.clone();
        runtime.spawn(async move {
            loop {
                let left = due.saturating_duration_since(clock.now());
                if left.is_zero() {
                    break;
                }
                tokio::time::sleep(if cfg!(feature = "testing") { left.min(GLANCE) } else { left })
                    .await;
            }
            drop(fetching);
        });
    }

    /// Refreshes what the local tier answered with, where that is due.
    pub(crate) fn refresh_local<R, V, F>(self, returns: ReturnType<R, V>, fetch: Pin<Box<F>>)
    where
        R: 'static,
        V: 'static,
        F: Future<Output = R> + Send + 'static,
    {
        if let Some(refresh) = self.site.refresh_locally() {
            let right = Right::LocalRefresh { _until_dropped: Box::new(refresh) };
            let fetching = Fetching::refresh(self.site.fill_token(), right);
            self.refresh(returns, fetching, fetch);
        }
    }
}
