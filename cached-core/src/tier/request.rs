//! The request tier: within one request, a key has one value.
//!
//! A request is the future that a [`RequestScope`] runs, for example the handling of one HTTP
//! request. The request owns its values. While a thread polls the request, the values are in a
//! thread-local of the thread.
//!
//! A request may spread over several tasks: [`in_current_request`] carries it into another future,
//! which another thread may poll at the same time. From then on, all futures of the request *share*
//! the values behind a lock, and a hit takes the path through `private/slow_path`.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use crate::key::{KeyHeader, KeyQuery, key_body};
use crate::sync::lock;
use crate::value::Value;

thread_local! {
    /// The values of the request that this thread is polling. Each access takes the values out of
    /// the cell. So a hit can be borrowed from the values while the `Clone` of the hit calls
    /// another annotated function.
    static CURRENT_REQUEST: RequestValuesCell = const { RequestValuesCell(Cell::new(None)) };
}

/// The type of the thread-local in which a thread holds the values of a request.
struct RequestValuesCell(Cell<Option<Box<RequestValues>>>);

impl Drop for RequestValuesCell {
    /// Leaks the values. The cell holds values only if the thread ends while it polls a request.
    /// The program is then exiting, and the `Drop` of a value could do little.
    fn drop(&mut self) {
        std::mem::forget(self.0.take());
    }
}

/// A request, as the thread that polls it sees it.
struct RequestValues {
    id: u64,
    force_miss: bool,
    /// The values of the request. Empty once the values are shared.
    own: RequestTables,
    /// The values of the request once several futures share them.
    shared: Option<Arc<Mutex<RequestTables>>>,
}

/// The values that one request has, in all caches.
#[derive(Default)]
struct RequestTables {
    /// The ids of the caches, each with the values from this cache. Most requests use one cache.
    caches: Vec<(u64, ValueTable)>,
    /// How often the request has replaced or removed values.
    changes: u64,
}

/// The values that one request has in one cache: a hash table with open addressing and linear
/// probing.
///
/// A hit takes fewer instructions than a hit in the standard `HashMap`.
struct ValueTable {
    /// The length is a power of two. At most half of the slots are used, so every search ends at a
    /// free slot.
    slots: Vec<Option<RequestEntry>>,
    /// The number of slots that are not free.
    used: usize,
    /// The functions whose values were all removed, each with the request's change count right
    /// after the removal. A function is given by the index of its declaration, and `None` stands
    /// for all functions.
    cleared: Vec<(Option<usize>, u64)>,
}

/// A key, and the value that the request has for this key.
struct RequestEntry {
    header: KeyHeader,
    key: Arc<[u8]>,
    /// `None` after the value was removed. The slot stays used, because the search for another key
    /// may have to pass this slot.
    value: Option<Value>,
    /// The request's change count right after this value was last replaced or removed. It is 0 for
    /// a value that was never replaced or removed.
    changed_at: u64,
}

/// A reference to a request. A call makes a handle of the current request when the call begins.
///
/// The methods find and change no values while the current thread polls another request, or polls
/// no request. So a call that is moved out of its request does not take part in the request any
/// more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestHandle {
    id: u64,
    force_miss: bool,
    /// The change count when this handle was made: how often the request had replaced or removed
    /// values.
    changes: u64,
}

/// The values of the current request, taken out of the thread. `Drop` puts them back.
///
/// While the values are taken out, a call of an annotated function runs outside of the request.
/// Such a call can come from the `Clone` of a value.
pub struct TakenRequestValues(Option<Box<RequestValues>>);

impl TakenRequestValues {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn take() -> Option<TakenRequestValues> {
        let values = CURRENT_REQUEST.try_with(|RequestValuesCell(values)| values.take()).ok()??;
        Some(TakenRequestValues(Some(values)))
    }

    fn belong_to(&self, request: RequestHandle) -> bool {
        self.0.as_ref().is_some_and(|values| values.id == request.id)
    }

    /// Returns a handle of the request that the values belong to.
    fn handle(&self) -> Option<RequestHandle> {
        let RequestValues { id, force_miss, own, shared } = &**self.0.as_ref()?;
        let changes = shared.as_ref().map_or(own.changes, |shared| lock(shared).changes);
        Some(RequestHandle { id: *id, force_miss: *force_miss, changes })
    }

    /// Returns the values for another future of the same request. From now on the futures share the
    /// values.
    fn share(&mut self) -> Option<Box<RequestValues>> {
        let RequestValues { id, force_miss, own, shared } = &mut **self.0.as_mut()?;
        let shared = shared.get_or_insert_with(|| Arc::new(Mutex::new(std::mem::take(own))));
        let (own, shared) = (RequestTables::default(), Some(Arc::clone(shared)));
        Some(Box::new(RequestValues { id: *id, force_miss: *force_miss, own, shared }))
    }

    /// Runs `update` on the values of the request.
    ///
    /// `update` must return the values that it removes, and must not drop them. The `Drop` of a
    /// value may call an annotated function, which needs the values of the request back in the
    /// thread.
    fn update<T>(&mut self, update: impl FnOnce(&mut RequestTables) -> T) -> Option<T> {
        let values = self.0.as_mut()?;
        Some(match &values.shared {
            Some(shared) => update(&mut lock(shared)),
            None => update(&mut values.own),
        })
    }

    /// Finds a value that the request has, unless the values are shared.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn find(&self, cache: u64, key: &impl KeyQuery) -> Option<&Value> {
        self.0.as_ref()?.own.find(cache, key)
    }
}

impl Drop for TakenRequestValues {
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

impl RequestTables {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn find(&self, cache: u64, key: &impl KeyQuery) -> Option<&Value> {
        let (_, table) = self.caches.iter().find(|(id, _)| *id == cache)?;
        table.slots[table.slot(key)].as_ref()?.value.as_ref()
    }

    /// Returns the table of a cache, and the change count.
    fn table(&mut self, cache: u64) -> (&mut ValueTable, &mut u64) {
        let RequestTables { caches, changes } = self;
        let index = caches.iter().position(|(id, _)| *id == cache).unwrap_or_else(|| {
            caches.push((cache, ValueTable::new()));
            caches.len() - 1
        });
        (&mut caches[index].1, changes)
    }
}

impl ValueTable {
    fn new() -> ValueTable {
        ValueTable { slots: empty_slots(16), used: 0, cleared: Vec::new() }
    }

    /// Returns the index of the slot that has the key, or of the free slot for the key.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn slot(&self, key: &impl KeyQuery) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = key.header().hash() as usize & mask;
        while let Some(other) = &self.slots[slot]
            && !(other.header == key.header() && key.matches(key_body(&other.key)))
        {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// Returns the entry of a key. If the key has no entry, adds one without a value.
    fn get_or_insert(&mut self, key: &Arc<[u8]>) -> &mut RequestEntry {
        if (self.used + 1) * 2 > self.slots.len() {
            let larger = empty_slots(self.slots.len() * 2);
            for entry in std::mem::replace(&mut self.slots, larger).into_iter().flatten() {
                let slot = self.slot(&&*entry.key);
                self.slots[slot] = Some(entry);
            }
        }
        let slot = self.slot(&&**key);
        let slot = &mut self.slots[slot];
        self.used += usize::from(slot.is_none());
        let header = KeyHeader::read(key);
        slot.get_or_insert_with(|| RequestEntry {
            header,
            key: Arc::clone(key),
            value: None,
            changed_at: last_cleared(&self.cleared, header),
        })
    }

    /// Removes the values of a function, or of all functions, and returns them. `changes` is the
    /// change count right after the removal.
    fn clear(&mut self, function: Option<usize>, changes: u64) -> Vec<Value> {
        self.cleared.retain(|(earlier, _)| function.is_some() && *earlier != function);
        self.cleared.push((function, changes));
        let entries = self.slots.iter_mut().flatten();
        let cleared = entries.filter(|entry| is_of(entry.header, function));
        let remove = |entry: &mut RequestEntry| {
            entry.changed_at = changes;
            entry.value.take()
        };
        cleared.filter_map(remove).collect()
    }
}

/// Returns true if the key with this header is of the function, or if `function` stands for all
/// functions.
fn is_of(header: KeyHeader, function: Option<usize>) -> bool {
    function.is_none_or(|index| index == header.index())
}

/// Returns the change count right after the last removal of all values of the key's function, or 0.
fn last_cleared(cleared: &[(Option<usize>, u64)], header: KeyHeader) -> u64 {
    let matching = cleared.iter().filter(|(function, _)| is_of(header, *function));
    matching.map(|(_, changes)| *changes).max().unwrap_or(0)
}

fn empty_slots(count: usize) -> Vec<Option<RequestEntry>> {
    std::iter::repeat_with(|| None).take(count).collect()
}

impl RequestHandle {
    /// Returns a handle of the request that this thread is polling.
    pub(crate) fn current() -> Option<RequestHandle> {
        TakenRequestValues::take()?.handle()
    }

    /// Returns an id that no other request of the process has.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn force_miss(&self) -> bool {
        self.force_miss
    }

    pub(crate) fn get(&self, cache: u64, key: &[u8]) -> Option<Value> {
        let mut taken = TakenRequestValues::take().filter(|values| values.belong_to(*self))?;
        taken.update(|tables| tables.find(cache, &key).cloned())?
    }

    /// Returns the value that the request has, if its futures share the values. The lookup that is
    /// inlined into an annotated function does not find such a value.
    pub(crate) fn get_shared(&self, cache: u64, key: &[u8]) -> Option<Value> {
        let taken = TakenRequestValues::take().filter(|values| values.belong_to(*self))?;
        let shared = taken.0.as_ref()?.shared.as_ref()?;
        lock(shared).find(cache, &key).cloned()
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

    /// Removes the values that the request has from a cache: those of the function whose
    /// declaration has this index, or those of all functions. The results of calls that are under
    /// way are not kept.
    pub(crate) fn remove_all(&self, cache: u64, function: Option<usize>) {
        drop(self.update(cache, |table, changes| {
            *changes += 1;
            table.clear(function, *changes)
        }));
    }

    /// Replaces the value, or removes it if `value` is `None`. Returns the previous value.
    fn set(&self, cache: u64, key: &Arc<[u8]>, value: Option<Value>) -> Option<Value> {
        let set = |table: &mut ValueTable, changes: &mut u64| {
            *changes += 1;
            let entry = table.get_or_insert(key);
            entry.changed_at = *changes;
            std::mem::replace(&mut entry.value, value)
        };
        self.update(cache, set)?
    }

    /// Runs `update` on the table of a cache and on the change count; see
    /// [`TakenRequestValues::update`].
    fn update<T>(
        &self,
        cache: u64,
        update: impl FnOnce(&mut ValueTable, &mut u64) -> T,
    ) -> Option<T> {
        let mut taken = TakenRequestValues::take().filter(|values| values.belong_to(*self))?;
        taken.update(|tables| {
            let (table, changes) = tables.table(cache);
            update(table, changes)
        })
    }
}

/// Carries the request that this thread is polling into `future`. Outside of a request, the
/// returned future runs wherever it is polled.
pub(crate) fn in_current_request<F: Future>(future: F) -> RequestFuture<F> {
    let values = TakenRequestValues::take().and_then(|mut values| values.share());
    RequestFuture { is_in_request: values.is_some(), values, future: Some(Box::pin(future)) }
}

/// A future that is polled within its request.
///
/// Each poll swaps the values of the request with the values in the thread. The values are boxed,
/// so that a swap moves one pointer. The future is boxed, so that `poll` can access both fields
/// without `unsafe`.
pub(crate) struct RequestFuture<F> {
    /// False if the future belongs to no request. It is then polled as if this type were not there.
    is_in_request: bool,
    /// The values of the request. While the future is polled, the values that the thread had
    /// before.
    values: Option<Box<RequestValues>>,
    /// `None` after `drop` has dropped the future.
    future: Option<Pin<Box<F>>>,
}

/// A guard that has swapped the values of a request with the values in the thread. `Drop` swaps
/// them back.
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
        let RequestFuture { is_in_request, values, future } = &mut *self;
        let _swap = is_in_request.then(|| RequestValuesSwap::enter(values));
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
        let _swap = self.is_in_request.then(|| RequestValuesSwap::enter(&mut self.values));
        self.future = None;
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
/// its answers, and the request lasts until the last of them has ended. The method `get` of an
/// entry and the function `first_found` read the values of the request and add none.
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
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let (force_miss, own) = (self.force_miss, RequestTables::default());
        let values = Some(Box::new(RequestValues { id, force_miss, own, shared: None }));
        RequestFuture { is_in_request: true, values, future: Some(Box::pin(future)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE: u64 = 1;

    fn key(header: u64, body: u64) -> Arc<[u8]> {
        Arc::from([header, body].map(u64::to_ne_bytes).as_flattened())
    }

    fn number(value: Option<Value>) -> Option<u64> {
        value.map(|value| *value.downcast_ref().expect("the value is a number"))
    }

    #[tokio::test]
    async fn a_value_is_found_among_kept_and_removed_ones() {
        // Five keys have the same header, and many headers begin their search at the same slot.
        let keys: Vec<_> = (0..1_000).map(|number| key(number % 200 * 8, number)).collect();
        let request = async {
            let request = RequestHandle::current().expect("the thread polls a request");
            let get = |at: u64| {
                let others = [(CACHE + 1, key(8, 1)), (CACHE, key(8, 5_000))];
                assert!(others.iter().all(|(cache, key)| request.get(*cache, key).is_none()));
                number(request.get(CACHE, &keys[at as usize]))
            };
            for (at, key) in keys.iter().enumerate() {
                assert_eq!(get(at as u64), None);
                let kept = request.keep(CACHE, key, Arc::new(at as u64));
                assert_eq!(number(Some(kept)), Some(at as u64));
                assert_eq!(
                    number(Some(request.keep(CACHE, key, Arc::new(0_u64)))),
                    Some(at as u64)
                );
            }
            for key in keys.iter().step_by(3) {
                request.remove(CACHE, key);
                request.remove(CACHE, key);
            }
            for at in 0..1_000 {
                assert_eq!(get(at), (at % 3 != 0).then_some(at));
            }
            for (at, key) in keys.iter().enumerate().skip(1).step_by(3) {
                request.replace(CACHE, key, Arc::new(at as u64 + 1_000));
            }
            let later = RequestHandle::current().expect("the thread polls a request");
            for (at, key) in keys.iter().enumerate().step_by(3) {
                // `request` was made before the value was removed.
                let unkept = request.keep(CACHE, key, Arc::new(0_u64));
                assert_eq!((number(Some(unkept)), get(at as u64)), (Some(0), None));
                later.keep(CACHE, key, Arc::new(at as u64 + 2_000));
            }
            for at in 0..1_000 {
                let expected = at + [2_000, 1_000, 0][at as usize % 3];
                assert_eq!(get(at), Some(expected));
            }
        };
        RequestScope::new().run(request).await;
        assert_eq!(RequestHandle::current(), None);
    }

    #[tokio::test]
    async fn a_request_forgets_all_values_of_a_function() {
        let of = |index: u64, body: u64| key(index << 32 | 7, body);
        let found = |cache: u64, key: &Arc<[u8]>| {
            let request = RequestHandle::current().expect("it is polled in a request");
            request.get(cache, key).is_some()
        };
        let request = async {
            let early = RequestHandle::current().expect("it is polled in a request");
            let keep = |request: RequestHandle, cache: u64, key: &Arc<[u8]>| {
                request.keep(cache, key, Arc::new(1_u64));
            };
            for body in 0..20 {
                keep(early, CACHE, &of(1, body));
                keep(early, CACHE, &of(2, body));
                keep(early, CACHE + 1, &of(1, body));
            }
            early.remove_all(CACHE, Some(1));
            for body in 0..20 {
                assert!(!found(CACHE, &of(1, body)));
                assert!(found(CACHE, &of(2, body)) && found(CACHE + 1, &of(1, body)));
            }
            // These calls began before the removal, and one of them has a key that the request
            // never had.
            keep(early, CACHE, &of(1, 3));
            keep(early, CACHE, &of(1, 99));
            keep(early, CACHE, &of(2, 99));
            assert!(!found(CACHE, &of(1, 3)) && !found(CACHE, &of(1, 99)));
            assert!(found(CACHE, &of(2, 99)));
            let late = RequestHandle::current().expect("it is polled in a request");
            keep(late, CACHE, &of(1, 98));
            assert!(found(CACHE, &of(1, 98)));

            late.remove_all(CACHE, None);
            keep(late, CACHE, &of(2, 97));
            assert!(![of(1, 98), of(2, 99), of(2, 97)].iter().any(|key| found(CACHE, key)));
            assert!(found(CACHE + 1, &of(1, 0)));
        };
        RequestScope::new().run(request).await;
    }

    #[tokio::test]
    async fn a_future_is_polled_and_dropped_in_its_request() {
        /// Stores the id of the request that it is dropped in, plus one.
        struct RecordsRequest(Arc<AtomicU64>);
        impl Drop for RecordsRequest {
            fn drop(&mut self) {
                self.0.store(
                    RequestHandle::current().map_or(0, |request| request.id() + 1),
                    Ordering::Relaxed,
                );
            }
        }
        let dropped_in = Arc::new(AtomicU64::new(0));
        let recorder = RecordsRequest(Arc::clone(&dropped_in));
        let outer = async move {
            let outer = RequestHandle::current();
            let inner = async {
                let inner = RequestHandle::current();
                tokio::task::yield_now().await;
                assert_eq!(RequestHandle::current(), inner);
                inner
            };
            let inner = RequestScope::new().run(inner).await;
            assert!(outer.is_some() && inner.is_some() && outer != inner);
            assert_eq!(RequestHandle::current(), outer);
            let _recorder = recorder;
            std::future::pending().await
        };
        let mut outer = Box::pin(RequestScope::new().run(outer));
        for _ in 0..3 {
            let polled = std::future::poll_fn(|context| Poll::Ready(outer.as_mut().poll(context)));
            assert_eq!(polled.await, Poll::<()>::Pending);
            assert_eq!(RequestHandle::current(), None);
        }
        drop(outer);
        assert_ne!(dropped_in.load(Ordering::Relaxed), 0);
        assert_eq!(RequestHandle::current(), None);
    }
}
