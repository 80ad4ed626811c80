//! The request tier: within one request, a key has one value.
//!
//! A request is the future that a [`RequestScope`] runs, for example the handling of one HTTP request. The
//! request owns its values. While a thread polls the request, the values are in a thread-local of the
//! thread.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use crate::key::{KeyHeader, KeyQuery, key_body};
use crate::value::Value;

thread_local! {
    /// The values of the request that this thread is polling. Each access takes the values out of the
    /// cell. So a hit can be borrowed from the values while the `Clone` of the hit calls another annotated
    /// function.
    static CURRENT_REQUEST: RequestValuesCell = const { RequestValuesCell(Cell::new(None)) };
}

/// The type of the thread-local in which a thread holds the values of a request.
struct RequestValuesCell(Cell<Option<Box<RequestValues>>>);

impl Drop for RequestValuesCell {
    /// Leaks the values. The cell holds values only if the thread ends while it polls a request. The
    /// program is then exiting, and the `Drop` of a value could do little.
    fn drop(&mut self) {
        std::mem::forget(self.0.take());
    }
}

/// The values that one request has, in all caches.
struct RequestValues {
    request: RequestHandle,
    /// The ids of the caches, each with the values from this cache. Most requests use one cache.
    caches: Vec<(u64, ValueTable)>,
}

/// The values that one request has in one cache: a hash table with open addressing and linear probing.
///
/// A hit takes fewer instructions than a hit in the standard `HashMap`.
struct ValueTable {
    /// The length is a power of two. At most half of the slots are used, so every search ends at a free
    /// slot.
    slots: Vec<Option<RequestEntry>>,
    /// The number of slots that are not free.
    used: usize,
}

/// A key, and the value that the request has for this key.
struct RequestEntry {
    header: KeyHeader,
    key: Arc<[u8]>,
    /// `None` after the value was removed. The slot stays used, because the search for another key may
    /// have to pass this slot.
    value: Option<Value>,
    /// The request's change count right after this value was last replaced or removed. It is 0 for a value
    /// that was never replaced or removed.
    changed_at: u64,
}

/// A reference to a request. A call makes a handle of the current request when the call begins.
///
/// The methods find and change no values while the current thread polls another request, or polls no
/// request. So a call that is moved out of its request does not take part in the request any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestHandle {
    id: u64,
    force_miss: bool,
    /// The change count when this handle was made: how often the request had replaced or removed a value.
    /// In [`RequestValues`] the count is up to date.
    changes: u64,
}

/// The values of the current request, taken out of the thread. `Drop` puts them back.
///
/// While the values are taken out, a call of an annotated function runs outside of the request. Such a
/// call can come from the `Clone` of a value.
pub struct TakenRequestValues(Option<Box<RequestValues>>);

impl TakenRequestValues {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn take() -> Option<TakenRequestValues> {
        let values = CURRENT_REQUEST.try_with(|RequestValuesCell(values)| values.take()).ok()??;
        Some(TakenRequestValues(Some(values)))
    }

    fn belong_to(&self, request: RequestHandle) -> bool {
        self.0.as_ref().is_some_and(|values| values.request.id == request.id)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn find(&self, cache: u64, key: &impl KeyQuery) -> Option<&Value> {
        let (_, table) = self.0.as_ref()?.caches.iter().find(|(id, _)| *id == cache)?;
        table.slots[table.slot(key)].as_ref()?.value.as_ref()
    }
}

impl Drop for TakenRequestValues {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn drop(&mut self) {
        // `forget` leaks nothing, because the cell is empty. If a request was polled in the meantime, that
        // request has removed its own values from the cell.
        let values = self.0.take();
        let put_back =
            |RequestValuesCell(cell): &RequestValuesCell| std::mem::forget(cell.replace(values));
        let _ = CURRENT_REQUEST.try_with(put_back);
    }
}

impl ValueTable {
    fn new() -> ValueTable {
        ValueTable { slots: empty_slots(16), used: 0 }
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
        slot.get_or_insert_with(|| RequestEntry {
            header: KeyHeader::read(key),
            key: Arc::clone(key),
            value: None,
            changed_at: 0,
        })
    }
}

fn empty_slots(count: usize) -> Vec<Option<RequestEntry>> {
    std::iter::repeat_with(|| None).take(count).collect()
}

impl RequestHandle {
    /// Returns a handle of the request that this thread is polling.
    pub(crate) fn current() -> Option<RequestHandle> {
        TakenRequestValues::take()?.0.as_ref().map(|values| values.request)
    }

    /// Returns an id that no other request of the process has.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn force_miss(&self) -> bool {
        self.force_miss
    }

    pub(crate) fn get(&self, cache: u64, key: &[u8]) -> Option<Value> {
        TakenRequestValues::take()
            .filter(|values| values.belong_to(*self))?
            .find(cache, &key)
            .cloned()
    }

    /// Keeps `value` for the rest of the request and returns `value`. If the request already has a value
    /// for the key, the earlier value stays and is returned.
    ///
    /// If the request has removed the key's value since this handle was made, `value` is returned and not
    /// kept.
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

    /// Runs `update` on the table of a cache and on the request's change count.
    ///
    /// `update` must return the values that it removes, and must not drop them. The `Drop` of a value may
    /// call an annotated function, which needs the values of the request back in the thread.
    fn update<T>(
        &self,
        cache: u64,
        update: impl FnOnce(&mut ValueTable, &mut u64) -> T,
    ) -> Option<T> {
        let mut taken = TakenRequestValues::take().filter(|values| values.belong_to(*self))?;
        let RequestValues { request, caches } = &mut **taken.0.as_mut()?;
        let index = caches.iter().position(|(id, _)| *id == cache).unwrap_or_else(|| {
            caches.push((cache, ValueTable::new()));
            caches.len() - 1
        });
        Some(update(&mut caches[index].1, &mut request.changes))
    }
}

/// A future that is polled within its request.
///
/// Each poll swaps the values of the request with the values in the thread. The values are boxed, so that
/// a swap moves one pointer. The future is boxed, so that `poll` can access both fields without `unsafe`.
struct RequestFuture<F> {
    /// The values of the request. While the future is polled, the values that the thread had before.
    values: Option<Box<RequestValues>>,
    /// `None` after `drop` has dropped the future.
    future: Option<Pin<Box<F>>>,
}

/// A guard that has swapped the values of a request with the values in the thread. `Drop` swaps them back.
struct RequestValuesSwap<'r>(&'r mut Option<Box<RequestValues>>);

impl RequestValuesSwap<'_> {
    fn enter(values: &mut Option<Box<RequestValues>>) -> RequestValuesSwap<'_> {
        let mut swap = RequestValuesSwap(values);
        swap.swap();
        swap
    }

    fn swap(&mut self) {
        // A thread that is ending has no thread-locals. The future then runs outside of its request.
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
        let RequestFuture { values, future } = &mut *self;
        let _swap = RequestValuesSwap::enter(values);
        match future {
            Some(future) => future.as_mut().poll(context),
            None => unreachable!("only `drop` takes the future"),
        }
    }
}

impl<F> Drop for RequestFuture<F> {
    /// Drops the future within its request. The values that the future owns may call annotated functions in
    /// their `Drop`.
    fn drop(&mut self) {
        let _swap = RequestValuesSwap::enter(&mut self.values);
        self.future = None;
    }
}

/// A scope for one request. Within the scope, each key has one value.
///
/// The first cached value that a call in the scope returns becomes the value of the key. It stays the
/// value until the request itself invalidates, overwrites or adds the entry. A result that is not cached
/// is returned only by its own call. Such results are an error, a value that `cache_if` rejects, and a
/// stale value in place of an error.
///
/// Run the handling of a request in a scope, for example in a middleware. A call belongs to the scope
/// that polls the call. A spawned task is outside of the scope, and so are the calls in the task.
/// The method `get` of an entry and the function `first_found` read the values of the request and add
/// none.
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

    /// Sets whether the first call for each key ignores the local tier and memcached, and runs the function.
    ///
    /// Use this option for a client that asked for fresh data. The fetched value replaces an entry that
    /// may be overwritten. A write-once entry stays as it is.
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
        let request = RequestHandle { id, force_miss: self.force_miss, changes: 0 };
        let values = Some(Box::new(RequestValues { request, caches: Vec::new() }));
        RequestFuture { values, future: Some(Box::pin(future)) }
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
