//! Recorders collect the outcomes of calls to annotated functions. An outcome says how the cache
//! answered a call, for example with a local hit or a miss. Each thread has a list of the recorders
//! that its calls report to.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use super::{Outcome, Outcomes};
use crate::sync::lock;

thread_local! {
    /// The recorders of the futures that this thread is polling, the outermost first. No recorder
    /// is in the list twice.
    static ACTIVE: RefCell<Vec<Arc<OutcomeRecorder>>> = const { RefCell::new(Vec::new()) };
}

/// Collects the outcomes of the calls that one future makes. Tasks that the future spawned may
/// record outcomes at the same time.
pub(crate) struct OutcomeRecorder {
    recorded: Mutex<RecordedOutcomes>,
}

enum RecordedOutcomes {
    /// The outcome of the call that began first.
    First(Option<Outcome>),
    All(Outcomes),
}

impl OutcomeRecorder {
    /// Returns a recorder that keeps the outcome of the call that began first.
    pub(crate) fn for_first() -> Arc<OutcomeRecorder> {
        Arc::new(OutcomeRecorder { recorded: Mutex::new(RecordedOutcomes::First(None)) })
    }

    /// Returns a recorder for the outcomes of all calls.
    pub(crate) fn for_all() -> Arc<OutcomeRecorder> {
        Arc::new(OutcomeRecorder {
            recorded: Mutex::new(RecordedOutcomes::All(Outcomes::default())),
        })
    }

    pub(crate) fn record(&self, outcome: &Outcome) {
        match &mut *lock(&self.recorded) {
            // An annotated function may call another one. The outer call begins first and is
            // recorded last. So if the clock shows the same start for both, the last one is kept.
            RecordedOutcomes::First(first) => {
                if first.as_ref().is_none_or(|first| outcome.began <= first.began) {
                    *first = Some(outcome.clone());
                }
            }
            RecordedOutcomes::All(outcomes) => outcomes.add(outcome),
        }
    }

    /// Returns the outcome of the call that began first among those that have ended. Returns `None`
    /// if this recorder keeps all outcomes.
    pub(crate) fn first(&self) -> Option<Outcome> {
        match &*lock(&self.recorded) {
            RecordedOutcomes::First(first) => first.clone(),
            RecordedOutcomes::All(_) => None,
        }
    }

    /// Returns the outcomes of all calls that have ended, if this recorder keeps all of them.
    pub(crate) fn all(&self) -> Option<Outcomes> {
        match &*lock(&self.recorded) {
            RecordedOutcomes::First(_) => None,
            RecordedOutcomes::All(outcomes) => Some(outcomes.clone()),
        }
    }
}

/// A guard that keeps recorders in the thread's list. `Drop` removes them.
pub(crate) struct ActiveRecorders {
    /// The length of the thread's list before the recorders were added.
    before: usize,
}

impl ActiveRecorders {
    /// Adds the recorders that are not in the thread's list yet.
    pub(crate) fn add(recorders: &[Arc<OutcomeRecorder>]) -> ActiveRecorders {
        // A thread that is ending has dropped its thread-locals, so it records nothing.
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

/// Returns true if this thread records the outcomes of calls.
pub(crate) fn is_recording() -> bool {
    ACTIVE.try_with(|active| !active.borrow().is_empty()).unwrap_or(false)
}

/// Returns the recorders that record the calls of this thread.
pub(crate) fn active_recorders() -> Vec<Arc<OutcomeRecorder>> {
    ACTIVE.try_with(|active| active.borrow().clone()).unwrap_or_default()
}

/// Returns the outcomes that the innermost running [`with_outcomes`](crate::with_outcomes) has
/// recorded so far. Returns `None` if none is running.
///
/// With the feature `tower`, a handler behind a `RequestScopeLayer` can also call this function, if
/// the layer writes `Cache-Status`.
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
