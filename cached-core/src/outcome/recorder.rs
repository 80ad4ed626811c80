//! Recorders collect the outcomes of calls to annotated functions. An outcome says how the cache
//! answered a call, for example with a local hit or a miss. Each thread has a list of recorders.
//! A call on the thread reports its outcome to all of them.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use super::{Outcome, Outcomes};
use crate::sync::lock;

thread_local! {
    /// The recorders of the futures that this thread is polling, the outermost first. No recorder
    /// is in the list twice.
    static ACTIVE: RefCell<Vec<Arc<OutcomeRecorder>>> = const { RefCell::new(Vec::new()) };
}

/// Collects the outcomes of the calls that one future makes. Tasks that the future has spawned
/// report here too, from other threads.
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
            // An annotated function may call another one. The outer call begins first but ends
            // last, so it is recorded last. If the clock shows the same start for both calls, the
            // later record wins.
            RecordedOutcomes::First(first) => {
                if first.as_ref().is_none_or(|first| outcome.began <= first.began) {
                    *first = Some(outcome.clone());
                }
            }
            RecordedOutcomes::All(outcomes) => outcomes.add(outcome),
        }
    }

    /// Looks at the calls that have ended so far, and returns the outcome of the one that began
    /// first. Returns `None` if this recorder keeps all outcomes.
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
pub(crate) struct ActiveRecordersGuard {
    /// The length of the thread's list before the recorders were added.
    before: usize,
}

impl ActiveRecordersGuard {
    /// Adds the recorders that are not in the thread's list yet.
    pub(crate) fn add(recorders: &[Arc<OutcomeRecorder>]) -> ActiveRecordersGuard {
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
        ActiveRecordersGuard { before: before.unwrap_or(0) }
    }
}

impl Drop for ActiveRecordersGuard {
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
/// With the feature `tower`, a request's handler can call this function too. A `RequestScopeLayer`
/// must wrap the handler, and the layer must write `Cache-Status`.
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
