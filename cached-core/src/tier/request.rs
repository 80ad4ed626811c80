//! The request tier: within one request, a key has one value.
//!
//! A request is the future that a [`RequestScope`] runs, for example the handling of one HTTP
//! request. The request owns its values. While a thread polls the request, the values are in a
//! thread-local variable. There they are found by the *inlined lookup*, which is code that is
//! inlined into each annotated function.
//!
//! A request can consist of several futures: [`in_current_request`] carries the request into one
//! more future, and two threads can then poll two futures of the request at the same time. From
//! then on, all futures of the request *share* the values behind a lock. The inlined lookup finds
//! no shared values; they are found by the slower code in `private/slow_path`.
//!
//! A program can record the *outcomes* of calls; see [`outcome`](crate::outcome). The code in
//! `private/slow_path` records them, and the inlined lookup does not. While a thread records
//! outcomes, the values of its request are therefore *hidden* from the inlined lookup. A thread
//! that records outside of a request has an empty [`RequestValues`], which keeps the inlined lookup
//! from reading the local tier.

mod table;

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use crate::key::KeyQuery;
use crate::outcome::{ActiveRecordersGuard, OutcomeRecorder, active_recorders, is_recording};
use crate::sync::lock;
use crate::value::Value;
use table::{CacheTable, RequestTables};

thread_local! {
    /// The values of the request that this thread is polling. Each access takes the values out of
    /// the cell. So an access can clone a value that it has borrowed, even if the value's `Clone`
    /// calls another annotated function.
    static CURRENT_REQUEST: RequestValuesCell = const { RequestValuesCell(Cell::new(None)) };
}

/// The type of [`CURRENT_REQUEST`].
struct RequestValuesCell(Cell<Option<Box<RequestValues>>>);

impl Drop for RequestValuesCell {
    /// Leaks the values. A dropped cell holds values only if the thread ended while it polled a
    /// request. The program is then exiting, so the values need not be dropped.
    fn drop(&mut self) {
        std::mem::forget(self.0.take());
    }
}

/// The part of a request that a thread holds in [`CURRENT_REQUEST`] while it polls the request.
#[derive(Default)]
struct RequestValues {
    /// `None` if the thread polls no request, and only records outcomes.
    id: Option<u64>,
    force_miss: bool,
    /// The values that the inlined lookup finds. Empty while the values are hidden, and once they
    /// are shared.
    own: RequestTables,
    /// The values of the request while the thread records outcomes, unless they are shared.
    hidden: Option<RequestTables>,
    /// The values of the request once several futures share them.
    shared: Option<Arc<Mutex<RequestTables>>>,
    /// True while the thread records outcomes.
    is_recorded: bool,
}

/// The request to which a call belongs, if any, and whether its outcome is recorded.
pub(crate) struct CallScope {
    pub(crate) request: Option<RequestHandle>,
    /// True if the outcome of the call must be recorded.
    pub(crate) is_recorded: bool,
}

/// A reference to a request. A call makes a handle of the current request when the call begins.
///
/// The methods find and change values only while the current thread polls the handle's request. So
/// a call that is moved out of its request no longer takes part in the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestHandle {
    id: u64,
    force_miss: bool,
    /// The change count when this handle was made: how often the request had replaced or removed
    /// values.
    changes: u64,
}

/// The values of the current request, taken out of the thread-local variable. `Drop` puts them
/// back.
///
/// While the values are taken out, a call of an annotated function runs outside of the request.
/// Such a call can come from the `Clone` of a value.
pub struct OutsideRequestGuard(Option<Box<RequestValues>>);

impl OutsideRequestGuard {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn take() -> Option<OutsideRequestGuard> {
        let values = CURRENT_REQUEST.try_with(|RequestValuesCell(values)| values.take()).ok()??;
        Some(OutsideRequestGuard(Some(values)))
    }

    fn belong_to(&self, request: RequestHandle) -> bool {
        self.0.as_ref().is_some_and(|values| values.id == Some(request.id))
    }

    /// Returns a handle of the request that the values belong to, if they belong to one.
    fn handle(&self) -> Option<RequestHandle> {
        let values = &**self.0.as_ref()?;
        let changes = match (&values.shared, &values.hidden) {
            (Some(shared), _) => lock(shared).changes,
            (None, Some(hidden)) => hidden.changes,
            (None, None) => values.own.changes,
        };
        Some(RequestHandle { id: values.id?, force_miss: values.force_miss, changes })
    }

    /// Returns the values for another future of the same request, if the values belong to a
    /// request. From now on the futures share the values.
    fn share(&mut self) -> Option<Box<RequestValues>> {
        let RequestValues { id, force_miss, own, hidden, shared, .. } = &mut **self.0.as_mut()?;
        let id = Some((*id)?);
        let shared = shared.get_or_insert_with(|| {
            Arc::new(Mutex::new(hidden.take().unwrap_or_else(|| std::mem::take(own))))
        });
        let (force_miss, shared) = (*force_miss, Some(Arc::clone(shared)));
        Some(Box::new(RequestValues { id, force_miss, shared, ..RequestValues::default() }))
    }

    /// Runs `update` on the values of the request.
    ///
    /// `update` must return the values that it removes, and must not drop them. The `Drop` of a
    /// value may call an annotated function, which needs the request's values in
    /// [`CURRENT_REQUEST`] again.
    fn update<T>(&mut self, update: impl FnOnce(&mut RequestTables) -> T) -> Option<T> {
        let values = self.0.as_mut()?;
        Some(match (&values.shared, &mut values.hidden) {
            (Some(shared), _) => update(&mut lock(shared)),
            (None, Some(hidden)) => update(hidden),
            (None, None) => update(&mut values.own),
        })
    }

    /// Finds a value that the request has, unless the values are hidden or shared.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn find(&self, cache: u64, key: &impl KeyQuery) -> Option<&Value> {
        self.0.as_ref()?.own.find(cache, key)
    }
}

impl Drop for OutsideRequestGuard {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn drop(&mut self) {
        // `forget` leaks nothing, because the cell is empty. If a request was polled in the
        // meantime, that request has removed its own values from the cell.
        let values = self.0.take();
        let put_back =
            |RequestValuesCell(cell): &RequestValuesCell| std::mem::forget(cell.replace(values));
        let _ = CURRENT_REQUEST.try_with(put_back);
    }
}

impl CallScope {
    /// Returns the scope of a call that begins on this thread now.
    pub(crate) fn current() -> CallScope {
        match OutsideRequestGuard::take() {
            Some(values) => CallScope {
                request: values.handle(),
                is_recorded: values.0.as_ref().is_some_and(|values| values.is_recorded),
            },
            None => CallScope { request: None, is_recorded: false },
        }
    }
}

impl RequestHandle {
    /// Returns a handle of the request that this thread is polling.
    pub(crate) fn current() -> Option<RequestHandle> {
        OutsideRequestGuard::take()?.handle()
    }

    /// Returns an id that no other request of the process has.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn force_miss(&self) -> bool {
        self.force_miss
    }

    pub(crate) fn get(&self, cache: u64, key: &[u8]) -> Option<Value> {
        let mut taken = OutsideRequestGuard::take().filter(|values| values.belong_to(*self))?;
        taken.update(|tables| tables.find(cache, &key).cloned())?
    }

    /// Returns the value that the request has, if its values are hidden or shared. The lookup that
    /// is inlined into an annotated function does not find such a value.
    pub(crate) fn get_hidden(&self, cache: u64, key: &[u8]) -> Option<Value> {
        let taken = OutsideRequestGuard::take().filter(|values| values.belong_to(*self))?;
        let values = taken.0.as_ref()?;
        match (&values.shared, &values.hidden) {
            (Some(shared), _) => lock(shared).find(cache, &key).cloned(),
            (None, Some(hidden)) => hidden.find(cache, &key).cloned(),
            (None, None) => None,
        }
    }

    /// Keeps `value` for the rest of the request and returns `value`. If the request already has a
    /// value for the key, the earlier value stays and is returned.
    ///
    /// If the request has removed the key's value since this handle was made, `value` is returned
    /// and not kept.
    pub(crate) fn keep(&self, cache: u64, key: &Arc<[u8]>, value: Value) -> Value {
        let kept = self.update(cache, |table, _| {
            let entry = table.get_or_insert(key);
            if entry.value.is_none() && entry.changed_at <= self.changes {
                entry.value = Some(Arc::clone(&value));
            }
            entry.value.clone()
        });
        kept.flatten().unwrap_or(value)
    }

    pub(crate) fn replace(&self, cache: u64, key: &Arc<[u8]>, value: Value) {
        drop(self.set(cache, key, Some(value)));
    }

    pub(crate) fn remove(&self, cache: u64, key: &Arc<[u8]>) {
        drop(self.set(cache, key, None));
    }

    /// Removes the values that the request has from one cache. If `function` is the index of a
    /// declaration, only the values of the declared function are removed. If it is `None`, the
    /// values of all functions are removed. Calls that are under way do not add their results to
    /// the request.
    pub(crate) fn remove_all(&self, cache: u64, function: Option<usize>) {
        drop(self.update(cache, |table, changes| {
            *changes += 1;
            table.clear(function, *changes)
        }));
    }

    /// Replaces the value, or removes it if `value` is `None`. Returns the previous value.
    fn set(&self, cache: u64, key: &Arc<[u8]>, value: Option<Value>) -> Option<Value> {
        let set = |table: &mut CacheTable, changes: &mut u64| {
            *changes += 1;
            let entry = table.get_or_insert(key);
            entry.changed_at = *changes;
            std::mem::replace(&mut entry.value, value)
        };
        self.update(cache, set)?
    }

    /// Runs `update` on the table of a cache and on the change count; see
    /// [`OutsideRequestGuard::update`].
    fn update<T>(
        &self,
        cache: u64,
        update: impl FnOnce(&mut CacheTable, &mut u64) -> T,
    ) -> Option<T> {
        let mut taken = OutsideRequestGuard::take().filter(|values| values.belong_to(*self))?;
        taken.update(|tables| {
            let (table, changes) = tables.table(cache);
            update(table, changes)
        })
    }
}

/// Carries the current request into `future`, together with the recorders that are active on this
/// thread. If there is no current request, the returned future can be polled inside any request,
/// and then belongs to that request.
pub(crate) fn in_current_request<F: Future>(future: F) -> RequestFuture<F> {
    let values = OutsideRequestGuard::take().and_then(|mut values| values.share());
    RequestFuture {
        is_in_request: values.is_some(),
        values,
        recorders: active_recorders(),
        future: Some(Box::pin(future)),
    }
}

/// Returns a future that records the outcomes of its calls into `recorder`. If the future is polled
/// in a request, the future belongs to this request.
pub(crate) fn recorded_into<F: Future>(
    recorder: Arc<OutcomeRecorder>,
    future: F,
) -> RequestFuture<F> {
    RequestFuture {
        is_in_request: false,
        values: None,
        recorders: vec![recorder],
        future: Some(Box::pin(future)),
    }
}

/// A future that is polled within a request and whose calls are recorded. The request and the
/// recorders can be absent.
///
/// Each poll swaps the values of the request with the values that the thread holds. The values are
/// boxed, so that a swap moves one pointer. The future is boxed, so that `poll` can access all
/// fields without `unsafe`.
pub(crate) struct RequestFuture<F> {
    /// False if the future belongs to no request of its own. It is then polled in the request of
    /// the thread.
    is_in_request: bool,
    /// The values of the request. While the future is polled, this field holds the values that the
    /// thread had before.
    values: Option<Box<RequestValues>>,
    /// The recorders that record the outcomes of this future's calls, in addition to the recorders
    /// of the thread that polls the future.
    recorders: Vec<Arc<OutcomeRecorder>>,
    /// `None` after `drop` has dropped the future.
    future: Option<Pin<Box<F>>>,
}

/// A guard: while it exists, the thread is in the scope of a future. The fields are dropped in the
/// order of their declaration, and their `Drop`s leave the scope.
struct EnteredScope<'r> {
    _lookups: Option<RecordedLookups>,
    _recorders: ActiveRecordersGuard,
    _values: Option<RequestValuesSwap<'r>>,
}

impl EnteredScope<'_> {
    fn enter<'r>(
        values: Option<&'r mut Option<Box<RequestValues>>>,
        recorders: &[Arc<OutcomeRecorder>],
    ) -> EnteredScope<'r> {
        let _values = values.map(RequestValuesSwap::enter);
        let _recorders = ActiveRecordersGuard::add(recorders);
        let _lookups = is_recording().then(RecordedLookups::enter);
        EnteredScope { _lookups, _recorders, _values }
    }
}

/// A guard that makes each lookup of this thread take the path through `private/slow_path`, which
/// records the outcomes of calls. The drop of the guard undoes this.
struct RecordedLookups(BeforeRecording);

/// The state of the thread's request before the thread began to record outcomes.
enum BeforeRecording {
    /// The thread polled no request.
    Absent,
    Unrecorded,
    Recorded,
}

impl RecordedLookups {
    fn enter() -> RecordedLookups {
        let enter = |RequestValuesCell(cell): &RequestValuesCell| {
            let (mut values, before) = match cell.take() {
                None => (Box::default(), BeforeRecording::Absent),
                Some(values) if values.is_recorded => (values, BeforeRecording::Recorded),
                Some(values) => (values, BeforeRecording::Unrecorded),
            };
            values.is_recorded = true;
            if values.shared.is_none() && values.hidden.is_none() {
                values.hidden = Some(std::mem::take(&mut values.own));
            }
            cell.set(Some(values));
            before
        };
        // A thread that is ending has no thread-locals, and records nothing.
        RecordedLookups(CURRENT_REQUEST.try_with(enter).unwrap_or(BeforeRecording::Recorded))
    }
}

impl Drop for RecordedLookups {
    fn drop(&mut self) {
        let leave = |RequestValuesCell(cell): &RequestValuesCell| {
            let mut values = cell.take()?;
            match self.0 {
                BeforeRecording::Absent => return Some(values),
                BeforeRecording::Recorded => {}
                BeforeRecording::Unrecorded => {
                    values.is_recorded = false;
                    if let Some(hidden) = values.hidden.take() {
                        values.own = hidden;
                    }
                }
            }
            cell.set(Some(values));
            None
        };
        drop(CURRENT_REQUEST.try_with(leave));
    }
}

/// A guard that has swapped the values of a request with the values that the thread held. `Drop`
/// swaps them back.
struct RequestValuesSwap<'r>(&'r mut Option<Box<RequestValues>>);

impl RequestValuesSwap<'_> {
    fn enter(values: &mut Option<Box<RequestValues>>) -> RequestValuesSwap<'_> {
        let mut swap = RequestValuesSwap(values);
        swap.swap();
        swap
    }

    fn swap(&mut self) {
        // A thread that is ending has no thread-locals. The future then runs outside of its
        // request.
        let _ = CURRENT_REQUEST.try_with(|RequestValuesCell(cell)| {
            let before = cell.replace(self.0.take());
            *self.0 = before;
        });
    }
}

impl Drop for RequestValuesSwap<'_> {
    fn drop(&mut self) {
        self.swap();
    }
}

impl<F: Future> Future for RequestFuture<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let RequestFuture { is_in_request, values, recorders, future } = &mut *self;
        let _scope = EnteredScope::enter(is_in_request.then_some(values), recorders);
        match future {
            Some(future) => future.as_mut().poll(context),
            None => unreachable!("only `drop` takes the future"),
        }
    }
}

impl<F> Drop for RequestFuture<F> {
    /// Drops the future within its request. The values that the future owns may call annotated
    /// functions in their `Drop`.
    fn drop(&mut self) {
        let RequestFuture { is_in_request, values, recorders, future } = self;
        let _scope = EnteredScope::enter(is_in_request.then_some(values), recorders);
        *future = None;
    }
}

/// A scope for one request. Within the scope, each key has one value.
///
/// The first cached value that a call in the scope returns becomes the value of the key. It stays
/// the value until the request itself invalidates, overwrites or adds the entry. A result that is
/// not cached is returned only by its own call. Such results are an error, a value that `cache_if`
/// rejects, and a stale value in place of an error.
///
/// Run the handling of a request in a scope, for example in a middleware. A call belongs to the
/// scope that polls the call. A spawned task is outside of the scope, unless
/// [`in_scope`](crate::in_scope) carries the scope into the task. The tasks of a request then share
/// its values, and the request lasts until the last of them has ended. The method `get` of an entry
/// and the function `first_found` read the values of the request and add none.
///
/// ```
/// # use cached_core::{RequestScope, coordinator_cached};
/// #[coordinator_cached(name = "request_scope_doc", version = number)]
/// async fn order(number: u32) -> Result<String, std::io::Error> {
///     Ok(format!("order {number}"))
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let answer = RequestScope::new()
///     .run(async {
///         order(7).await?;
///         order(7).await // returned from the request's own memory
///     })
///     .await;
/// assert_eq!(answer.unwrap(), "order 7");
/// # });
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[must_use = "a scope does nothing until `.run(future).await`"]
pub struct RequestScope {
    force_miss: bool,
}

impl RequestScope {
    /// Returns a scope that reads all tiers.
    pub fn new() -> RequestScope {
        RequestScope::default()
    }

    /// Sets whether the first call for each key ignores the local tier and memcached, and runs the
    /// function.
    ///
    /// Use this option for a client that asked for fresh data. The fetched value replaces an entry
    /// that may be overwritten. A write-once entry stays as it is.
    ///
    /// ```
    /// # use cached_core::{RequestScope, coordinator_cached};
    /// #[coordinator_cached(name = "force_miss_doc", version = number)]
    /// async fn order(number: u32) -> Result<String, std::io::Error> {
    ///     Ok(format!("order {number}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// order(7).await?;
    /// RequestScope::new().force_miss(true).run(order(7)).await?; // fetches again
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn force_miss(mut self, force_miss: bool) -> RequestScope {
        self.force_miss = force_miss;
        self
    }

    /// Runs a future in a new request. The returned future can be spawned.
    ///
    /// # Cancellation
    /// Dropping the returned future drops the inner future and the values of the request.
    ///
    /// ```
    /// # use cached_core::RequestScope;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let status = RequestScope::new().run(async { /* handle the request */ 200 }).await;
    /// assert_eq!(status, 200);
    /// # });
    /// ```
    pub fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> + use<F> {
        self.run_made(Vec::new(), || future)
    }

    /// Creates a request. Calls `make` and runs the returned future, both in this request.
    /// `recorders` record the outcomes of the future's calls.
    pub(crate) fn run_made<F: Future>(
        self,
        recorders: Vec<Arc<OutcomeRecorder>>,
        make: impl FnOnce() -> F,
    ) -> RequestFuture<F> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let id = Some(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        let force_miss = self.force_miss;
        let mut values =
            Some(Box::new(RequestValues { id, force_miss, ..RequestValues::default() }));
        let future = {
            let _scope = EnteredScope::enter(Some(&mut values), &recorders);
            Box::pin(make())
        };
        RequestFuture { is_in_request: true, values, recorders, future: Some(future) }
    }
}

#[cfg(test)]
mod tests;
