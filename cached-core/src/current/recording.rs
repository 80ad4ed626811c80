//! Runs a future and records how the cache answered its calls of annotated functions.

use std::future::Future;

use crate::outcome::{Outcome, OutcomeRecorder, Outcomes};
use crate::tier::request::recorded_into;

/// Runs a future that calls an annotated function. Returns the future's output, and the outcome of
/// the call: how the cache answered it.
///
/// If the future calls several annotated functions, the outcome belongs to the call that began
/// first. To get the outcomes of all calls, use [`with_outcomes`]. A call that is dropped before it
/// has an answer does not count. In its place, a later call counts, or a call in the body of the
/// dropped one. The outcome is `None` if no call has got an answer.
///
/// Recording does not change the answer of a call, and does not start a
/// [`RequestScope`](crate::RequestScope). Calls in a spawned task are recorded if the task's future
/// is wrapped in [`in_scope`](crate::in_scope) or spawned with
/// [`Cache::spawn`](crate::Cache::spawn). Lookups with a [`CacheEntry`](crate::CacheEntry) or
/// [`first_found`](crate::first_found) are not recorded. Only recorded calls cost more:
/// [the guide](crate::guide::requests) has the figures.
///
/// # Cancellation
/// Dropping the returned future drops the given future.
///
/// ```
/// # use cached_core::{CallResult, Tier, coordinator_cached, with_outcome};
/// #[coordinator_cached(name = "with_outcome_doc", version = edition, ttl = "10m")]
/// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
///     Ok(format!("course {id}, edition {edition}"))
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (first, outcome) = with_outcome(course(1, 2)).await;
/// assert_eq!(outcome.expect("the call has ended").result(), CallResult::Miss);
///
/// let (second, outcome) = with_outcome(course(1, 2)).await;
/// let outcome = outcome.expect("the call has ended");
/// assert_eq!((outcome.result(), outcome.tier()), (CallResult::Hit, Some(Tier::Local)));
/// assert!(outcome.time_left().is_some_and(|left| left.as_secs() <= 600));
/// assert_eq!(first?, second?);
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap();
/// ```
pub fn with_outcome<F: Future>(
    future: F,
) -> impl Future<Output = (F::Output, Option<Outcome>)> + use<F> {
    let recorder = OutcomeRecorder::for_first();
    let recorded = recorded_into(recorder.clone(), future);
    async move { (recorded.await, recorder.first()) }
}

/// Runs a future, and returns its output and the outcomes of all its calls.
///
/// Use this function in a middleware, or for a part of a request. It may be nested: an outer
/// recording includes the calls of the inner recordings. The notes at [`with_outcome`] about tasks,
/// lookups and cost apply here too.
///
/// # Cancellation
/// Dropping the returned future drops the given future.
///
/// ```
/// # use cached_core::{CallResult, coordinator_cached, with_outcomes};
/// #[coordinator_cached(name = "with_outcomes_doc", version = edition)]
/// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
///     Ok(format!("course {id}, edition {edition}"))
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let page = async { tokio::try_join!(course(1, 2), course(2, 2), course(1, 2)) };
/// let (page, outcomes) = with_outcomes(page).await;
/// page?;
/// assert_eq!(outcomes.calls(), 3);
/// assert_eq!(outcomes.count(CallResult::Miss), 2);
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap();
/// ```
pub fn with_outcomes<F: Future>(future: F) -> impl Future<Output = (F::Output, Outcomes)> + use<F> {
    let recorder = OutcomeRecorder::for_all();
    let recorded = recorded_into(recorder.clone(), future);
    async move { (recorded.await, recorder.all().unwrap_or_default()) }
}
