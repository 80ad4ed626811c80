//! The recorders of outcomes, and those that record the calls of the running thread.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use super::{Outcome, Outcomes};
use crate::sync::lock;

thread_local! {
    /// The recorders of the futures that this thread is polling, the outermost first. Each recorder
    /// is there once.
    static ACTIVE: RefCell<Vec<Arc<OutcomeRecorder>>> = const { RefCell::new(Vec::new()) };
}

/// Collects the outcomes of the calls of one future. The tasks that the future spawns may record
/// into it too, at the same time.
pub(crate) struct OutcomeRecorder {
    recorded: Mutex<Recorded>,
}

enum Recorded {
    /// The outcome of the call that began first.
    First(Option<Outcome>),
    All(Outcomes),
}

impl OutcomeRecorder {
    /// Returns a recorder that keeps the outcome of the call that began first.
    pub(crate) fn for_first() -> Arc<OutcomeRecorder> {
        Arc::new(OutcomeRecorder { recorded: Mutex::new(Recorded::First(None)) })
    }

    /// Returns a recorder for the outcomes of all calls.
    pub(crate) fn for_all() -> Arc<OutcomeRecorder> {
        Arc::new(OutcomeRecorder { recorded: Mutex::new(Recorded::All(Outcomes::default())) })
    }

    pub(crate) fn record(&self, outcome: &Outcome) {
        match &mut *lock(&self.recorded) {
            // A call that its own body calls ends first. If the clock shows the same time for the
            // begin of both, the one that ends later is the outer one.
            Recorded::First(first) => {
                if first.as_ref().is_none_or(|first| outcome.began <= first.began) {
                    *first = Some(outcome.clone());
                }
            }
            Recorded::All(outcomes) => outcomes.add(outcome),
        }
    }

    /// Returns the outcome of the call that began first, of those that have ended.
    pub(crate) fn first(&self) -> Option<Outcome> {
        match &*lock(&self.recorded) {
            Recorded::First(first) => first.clone(),
            Recorded::All(_) => None,
        }
    }

    /// Returns the outcomes of all calls that have ended, if this recorder keeps all of them.
    pub(crate) fn all(&self) -> Option<Outcomes> {
        match &*lock(&self.recorded) {
            Recorded::First(_) => None,
            Recorded::All(outcomes) => Some(outcomes.clone()),
        }
    }
}

/// A guard that has added recorders to those of the thread. `Drop` removes them.
pub(crate) struct ActiveRecorders {
    /// The number of recorders that the thread had before.
    before: usize,
}

impl ActiveRecorders {
    /// Adds the recorders that the thread does not have yet.
    pub(crate) fn add(recorders: &[Arc<OutcomeRecorder>]) -> ActiveRecorders {
        // A thread that is ending has no thread-locals, and records nothing.
        let before = ACTIVE.try_with(|active| {
            let mut active = active.borrow_mut();
            let before = active.len();
            for recorder in recorders {
                if !active.iter().any(|other| Arc::ptr_eq(other, recorder)) {
                    active.push(Arc::clone(recorder));
                }
            }
            before
        });
        ActiveRecorders { before: before.unwrap_or(0) }
    }
}

impl Drop for ActiveRecorders {
    fn drop(&mut self) {
        let _ = ACTIVE.try_with(|active| active.borrow_mut().truncate(self.before));
    }
}

/// Returns true if the thread records the outcomes of calls.
pub(crate) fn is_recording() -> bool {
    ACTIVE.try_with(|active| !active.borrow().is_empty()).unwrap_or(false)
}

/// Returns the recorders that record the calls of this thread.
pub(crate) fn active_recorders() -> Vec<Arc<OutcomeRecorder>> {
    ACTIVE.try_with(|active| active.borrow().clone()).unwrap_or_default()
}

/// Returns what the innermost running [`with_outcomes`](crate::with_outcomes) has recorded so far,
/// or `None` outside of one.
///
/// With the feature `tower`, a handler behind a `RequestScopeLayer` that writes `Cache-Status` can
/// call this function too.
///
/// ```
/// # use cached_core::{coordinator_cached, outcomes, with_outcomes};
/// #[coordinator_cached(name = "outcomes_doc", version = edition)]
/// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
///     Ok(format!("course {id}, edition {edition}"))
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let page = with_outcomes(async {
///     course(1, 2).await?;
///     course(1, 2).await?;
///     let so_far = outcomes().expect("the page is recorded");
///     Ok::<String, std::io::Error>(so_far.to_string())
/// });
/// let (page, _) = page.await;
/// assert_eq!(page?, "2 calls: 1 local hit, 1 miss");
/// assert!(outcomes().is_none());
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap();
/// ```
#[must_use]
pub fn outcomes() -> Option<Outcomes> {
    active_recorders().iter().rev().find_map(|recorder| recorder.all())
}
