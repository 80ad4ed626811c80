//! The request tier: within one request, a key has one answer.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use crate::key::{KeyHeader, KeyQuery, key_body};
use crate::value::Value;

thread_local! {
    /// The answers of the request that this thread is polling. They are taken out while they are used,
    /// so that a hit can be borrowed from them while its `Clone` makes a call of its own.
    static CURRENT_REQUEST: RequestValuesCell = const { RequestValuesCell(Cell::new(None)) };
}

struct RequestValuesCell(Cell<Option<Box<RequestValues>>>);

impl Drop for RequestValuesCell {
    /// Leaks the answers. A thread that ends while it polls a request ends the program; the `Drop` of a
    /// value could do little then.
    fn drop(&mut self) {
        std::mem::forget(self.0.take());
    }
}

/// The answers of one request.
struct RequestValues {
    request: RequestHandle,
    /// The answers of each cache, by the cache's id. Most requests use one cache.
    caches: Vec<(u64, ValueTable)>,
}

/// Answers by key: a hash table with open addressing and linear probing.
///
/// A hit takes fewer instructions than in the standard map, where each one waits for the one before.
struct ValueTable {
    /// The length is a power of two, and at most half of the slots are used, so every search ends.
    slots: Vec<Option<RequestEntry>>,
    used: usize,
}

struct RequestEntry {
    header: KeyHeader,
    key: Arc<[u8]>,
    /// `None` after the answer was removed. Its slot stays used, because keys behind it were probed past
    /// it.
    value: Option<Value>,
    /// The number of the request's change that last replaced or removed this answer.
    changed_at: u64,
}

/// Identifies a request to a call that was begun in it.
///
/// All methods do nothing while the current thread polls another request or none: a call that is moved
/// out of its request does not take part in it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestHandle {
    id: u64,
    force_miss: bool,
    /// How often the request had replaced or removed an answer when this handle was made.
    changes: u64,
}

/// The answers of the current request, taken out of the thread until this is dropped. A call that is
/// made meanwhile, for instance by a value's `Clone`, runs outside of the request.
pub struct TakenRequestValues(Option<Box<RequestValues>>);

impl TakenRequestValues {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn take() -> Option<TakenRequestValues> {
        let answers =
            CURRENT_REQUEST.try_with(|RequestValuesCell(answers)| answers.take()).ok()??;
        Some(TakenRequestValues(Some(answers)))
    }

    fn belong_to(&self, request: RequestHandle) -> bool {
        self.0.as_ref().is_some_and(|answers| answers.request.id == request.id)
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
        // The cell is empty: a request that was polled meanwhile has left it as it was.
        let answers = self.0.take();
        let put_back =
            |RequestValuesCell(cell): &RequestValuesCell| std::mem::forget(cell.replace(answers));
        let _ = CURRENT_REQUEST.try_with(put_back);
    }
}

impl ValueTable {
    fn new() -> ValueTable {
        ValueTable { slots: empty_slots(16), used: 0 }
    }

    /// Returns the slot of a key, or the free slot for it.
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

    /// Returns the answer of a key, and adds one without a value if there is none.
    fn get_or_insert(&mut self, key: &Arc<[u8]>) -> &mut RequestEntry {
        if (self.used + 1) * 2 > self.slots.len() {
            let larger = empty_slots(self.slots.len() * 2);
            for answer in std::mem::replace(&mut self.slots, larger).into_iter().flatten() {
                let slot = self.slot(&&*answer.key);
                self.slots[slot] = Some(answer);
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
    /// Returns the request that this thread is polling.
    pub(crate) fn current() -> Option<RequestHandle> {
        TakenRequestValues::take()?.0.as_ref().map(|answers| answers.request)
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
            .filter(|answers| answers.belong_to(*self))?
            .find(cache, &key)
            .cloned()
    }

    /// Keeps `value` for the rest of the request, and returns it. If the request has an answer already,
    /// that one stays and is returned.
    ///
    /// Keeps nothing if the request has replaced or removed the answer since this handle was made.
    pub(crate) fn keep(&self, cache: u64, key: &Arc<[u8]>, value: Value) -> Value {
        let kept = self.update(cache, |table, _| {
            let answer = table.get_or_insert(key);
            if answer.value.is_none() && answer.changed_at <= self.changes {
                answer.value = Some(Arc::clone(&value));
            }
            answer.value.clone()
        });
        kept.flatten().unwrap_or(value)
    }

    pub(crate) fn replace(&self, cache: u64, key: &Arc<[u8]>, value: Value) {
        drop(self.set(cache, key, Some(value)));
    }

    pub(crate) fn remove(&self, cache: u64, key: &Arc<[u8]>) {
        drop(self.set(cache, key, None));
    }

    /// Returns the previous value.
    fn set(&self, cache: u64, key: &Arc<[u8]>, value: Option<Value>) -> Option<Value> {
        let set = |table: &mut ValueTable, changes: &mut u64| {
            *changes += 1;
            let answer = table.get_or_insert(key);
            answer.changed_at = *changes;
            std::mem::replace(&mut answer.value, value)
        };
        self.update(cache, set)?
    }

    /// Runs `update` on the answers of a cache and on the request's count of changes.
    ///
    /// The caller drops the result when the answers are back in their cell, because a value's `Drop` may
    /// make a call.
    fn update<T>(
        &self,
        cache: u64,
        update: impl FnOnce(&mut ValueTable, &mut u64) -> T,
    ) -> Option<T> {
        let mut taken = TakenRequestValues::take().filter(|answers| answers.belong_to(*self))?;
        let RequestValues { request, caches } = &mut **taken.0.as_mut()?;
        let index = caches.iter().position(|(id, _)| *id == cache).unwrap_or_else(|| {
            caches.push((cache, ValueTable::new()));
            caches.len() - 1
        });
        Some(update(&mut caches[index].1, &mut request.changes))
    }
}

/// Polls a future in its request. The future and the answers are boxed, because each poll swaps the
/// answers with those of the thread.
struct RequestFuture<F> {
    /// While the future is polled, the answers that the thread had before.
    answers: Option<Box<RequestValues>>,
    future: Option<Pin<Box<F>>>,
}

/// Swaps the answers with those of the thread, and swaps them back when it is dropped.
struct RequestValuesSwap<'r>(&'r mut Option<Box<RequestValues>>);

impl RequestValuesSwap<'_> {
    fn enter(answers: &mut Option<Box<RequestValues>>) -> RequestValuesSwap<'_> {
        let mut swap = RequestValuesSwap(answers);
        swap.swap();
        swap
    }

    fn swap(&mut self) {
        // Without thread-locals, at the end of a thread, the future runs outside of its request.
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
        let RequestFuture { answers, future } = &mut *self;
        let _swap = RequestValuesSwap::enter(answers);
        match future {
            Some(future) => future.as_mut().poll(context),
            None => unreachable!("only `drop` takes the future"),
        }
    }
}

impl<F> Drop for RequestFuture<F> {
    /// Drops the future within its request: what it owns may make calls.
    fn drop(&mut self) {
        let _swap = RequestValuesSwap::enter(&mut self.answers);
        self.future = None;
    }
}

/// A scope for one request, within which each key has one answer.
///
/// That is the first cached value that a call in the scope gets. It stays until the request itself
/// invalidates, overwrites or adds the entry. A result that is not cached answers only its own
/// call: an error, a value that `cache_if` refuses, or a stale value in place of an error.
///
/// Run the handling of a request in a scope, for example in a middleware. A call belongs to the
/// scope that polls it, so calls in spawned tasks do not. An entry's `get` and `first_found` read
/// the answers of the request and add none.
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
///         order(7).await // answered from the request's own memory
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

    /// Sets whether the first call of each key ignores the local tier and memcached, and fetches.
    ///
    /// Use it for a caller who asked for a fresh answer. The fetched value replaces an entry that
    /// may be overwritten, and leaves a write-once entry as it is.
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
    /// Dropping the returned future drops the inner one and the answers of the request.
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
        let answers = Some(Box::new(RequestValues { request, caches: Vec::new() }));
        RequestFuture { answers, future: Some(Box::pin(future)) }
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
        value.map(|value| *value.downcast_ref().expect("a number"))
    }

    #[tokio::test]
    async fn an_answer_is_found_among_kept_and_removed_ones() {
        // Five keys have the same header, and many headers begin their search at the same slot.
        let keys: Vec<_> = (0..1_000).map(|number| key(number % 200 * 8, number)).collect();
        let request = async {
            let request = RequestHandle::current().expect("it is polled in a request");
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
            let later = RequestHandle::current().expect("it is polled in a request");
            for (at, key) in keys.iter().enumerate().step_by(3) {
                // `request` was made before the answer was removed.
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
