//! The request tier: within one request a key has one answer.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use crate::key::{KeyHeader, KeyQuery, key_body};
use crate::value::Value;

thread_local! {
    /// The answers of the request that this thread runs just now. Taken and not borrowed, so that one can
    /// be lent, and what is done with it may make calls.
    static ANSWERS: Here = const { Here(Cell::new(None)) };
}

struct Here(Cell<Option<Box<Answers>>>);

impl Drop for Here {
    /// Drops no value, whose own `Drop` could do little at the end of a thread: one that ends in a
    /// request ends the program.
    fn drop(&mut self) {
        std::mem::forget(self.0.take());
    }
}

/// The answers of one request.
struct Answers {
    request: RequestHandle,
    caches: ByCache,
}

/// Answers by the cache that gave them; a request may use several, and mostly uses one.
type ByCache = Vec<(u64, ByKey)>;

/// Answers by their keys, in an open table whose places are probed in a row (linear probing). The
/// standard map takes some instructions more of a hit, each of which waits for the one before.
struct ByKey {
    /// As many as a power of two, and at most half of them taken, so that each search ends.
    places: Vec<Option<Answer>>,
    taken: usize,
}

struct Answer {
    head: KeyHeader,
    key: Arc<[u8]>,
    /// `None` once it was removed. Its place stays taken, for those that were put behind it.
    value: Option<Value>,
    /// Which of the request's changes was the last one of this answer.
    changed: u64,
}

/// A request, as a call remembers it. What it asks of a request that its task is not in is not
/// done: a call that was begun in a request and is run elsewhere is no part of it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestHandle {
    id: u64,
    force_miss: bool,
    /// How often the request has removed or replaced an answer, so far.
    changes: u64,
}

/// The answers of the running request, until this is dropped. Who makes a call meanwhile, as a
/// value's own `Clone` may, is outside of the request.
pub struct TakenAnswers(Option<Box<Answers>>);

impl TakenAnswers {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn take() -> Option<TakenAnswers> {
        let answers = ANSWERS.try_with(|Here(answers)| answers.take()).ok()??;
        Some(TakenAnswers(Some(answers)))
    }

    fn is_of(&self, request: RequestHandle) -> bool {
        self.0.as_ref().is_some_and(|answers| answers.request.id == request.id)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn find(&self, cache: u64, key: &impl KeyQuery) -> Option<&Value> {
        let (_, answers) = self.0.as_ref()?.caches.iter().find(|(id, _)| *id == cache)?;
        answers.places[answers.place(key)].as_ref()?.value.as_ref()
    }
}

impl Drop for TakenAnswers {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn drop(&mut self) {
        // There is nothing in its place: a request that ran meanwhile is over.
        let answers = self.0.take();
        let _ = ANSWERS.try_with(|Here(here)| std::mem::forget(here.replace(answers)));
    }
}

impl ByKey {
    fn new() -> ByKey {
        ByKey { places: none(16), taken: 0 }
    }

    /// The place of a key, or the free one that it would take.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn place(&self, key: &impl KeyQuery) -> usize {
        let last = self.places.len() - 1;
        let mut place = key.header().hash() as usize & last;
        while let Some(other) = &self.places[place]
            && !(other.head == key.header() && key.matches(key_body(&other.key)))
        {
            place = (place + 1) & last;
        }
        place
    }

    /// The answer of a key, which has a place from now on.
    fn answer(&mut self, key: &Arc<[u8]>) -> &mut Answer {
        if (self.taken + 1) * 2 > self.places.len() {
            let twice = none(self.places.len() * 2);
            for answer in std::mem::replace(&mut self.places, twice).into_iter().flatten() {
                let place = self.place(&&*answer.key);
                self.places[place] = Some(answer);
            }
        }
        let place = self.place(&&**key);
        let place = &mut self.places[place];
        self.taken += usize::from(place.is_none());
        let new =
            || Answer { head: KeyHeader::read(key), key: Arc::clone(key), value: None, changed: 0 };
        place.get_or_insert_with(new)
    }
}

fn none(places: usize) -> Vec<Option<Answer>> {
    std::iter::repeat_with(|| None).take(places).collect()
}

impl RequestHandle {
    /// The running request, if there is one.
    pub(crate) fn current() -> Option<RequestHandle> {
        TakenAnswers::take()?.0.as_ref().map(|answers| answers.request)
    }

    /// Tells this request from every other of the process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn force_miss(&self) -> bool {
        self.force_miss
    }

    pub(crate) fn get(&self, cache: u64, key: &[u8]) -> Option<Value> {
        TakenAnswers::take().filter(|in_hand| in_hand.is_of(*self))?.find(cache, &key).cloned()
    }

    /// Keeps the first answer for the rest of the request, unless the request has removed or replaced
    /// it since this was asked for; returns the one that is kept, if there is one, and else `value`.
    pub(crate) fn keep(&self, cache: u64, key: &Arc<[u8]>, value: Value) -> Value {
        let kept = self.change(cache, |answers, _| {
            let answer = answers.answer(key);
            if answer.value.is_none() && answer.changed <= self.changes {
                answer.value = Some(Arc::clone(&value));
            }
            answer.value.clone()
        });
        kept.flatten().unwrap_or(value)
    }

    pub(crate) fn replace(&self, cache: u64, key: &Arc<[u8]>, value: Value) {
        drop(self.put(cache, key, Some(value)));
    }

    pub(crate) fn remove(&self, cache: u64, key: &Arc<[u8]>) {
        drop(self.put(cache, key, None));
    }

    /// Returns what was there.
    fn put(&self, cache: u64, key: &Arc<[u8]>, value: Option<Value>) -> Option<Value> {
        let put = |answers: &mut ByKey, changes: &mut u64| {
            *changes += 1;
            let answer = answers.answer(key);
            answer.changed = *changes;
            std::mem::replace(&mut answer.value, value)
        };
        self.change(cache, put)?
    }

    /// Lets `change` have the answers, and the request's count of changes. What it returns is dropped
    /// when the answers are in their place again: a value's own `Drop` may make a call.
    fn change<T>(&self, cache: u64, change: impl FnOnce(&mut ByKey, &mut u64) -> T) -> Option<T> {
        let mut in_hand = TakenAnswers::take().filter(|in_hand| in_hand.is_of(*self))?;
        let Answers { request, caches } = &mut **in_hand.0.as_mut()?;
        Some(change(of(caches, cache), &mut request.changes))
    }
}

/// The answers of this cache.
fn of(caches: &mut ByCache, cache: u64) -> &mut ByKey {
    let known = caches.iter().position(|(id, _)| *id == cache);
    let index = known.unwrap_or_else(|| {
        caches.push((cache, ByKey::new()));
        caches.len() - 1
    });
    &mut caches[index].1
}

/// A future in its request. It is in a box, and so are the answers, to be put in their place and
/// out again each time it is polled.
struct InRequest<F> {
    /// While it is polled what was in their place before.
    answers: Option<Box<Answers>>,
    future: Option<Pin<Box<F>>>,
}

/// Within the request, until it is dropped.
struct Entered<'r>(&'r mut Option<Box<Answers>>);

impl Entered<'_> {
    fn enter(answers: &mut Option<Box<Answers>>) -> Entered<'_> {
        let mut entered = Entered(answers);
        entered.change_places();
        entered
    }

    fn change_places(&mut self) {
        // At the end of a thread it is run outside of its request.
        let _ = ANSWERS.try_with(|Here(here)| {
            let before = here.replace(self.0.take());
            *self.0 = before;
        });
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.change_places();
    }
}

impl<F: Future> Future for InRequest<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let InRequest { answers, future } = &mut *self;
        let _entered = Entered::enter(answers);
        match future {
            Some(future) => future.as_mut().poll(context),
            None => unreachable!("it is there until this is dropped"),
        }
    }
}

impl<F> Drop for InRequest<F> {
    /// What it holds may make calls of the request when it is dropped.
    fn drop(&mut self) {
        let _entered = Entered::enter(&mut self.answers);
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
        let answers = Some(Box::new(Answers { request, caches: Vec::new() }));
        InRequest { answers, future: Some(Box::pin(future)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE: u64 = 1;

    fn key(head: u64, body: u64) -> Arc<[u8]> {
        Arc::from([head, body].map(u64::to_ne_bytes).as_flattened())
    }

    fn number(value: Option<Value>) -> Option<u64> {
        value.map(|value| *value.downcast_ref().expect("a number"))
    }

    #[tokio::test]
    async fn an_answer_is_found_whatever_was_kept_or_removed_around_it() {
        // Five with each head, of which many begin their search at one place.
        let keys: Vec<_> = (0..1_000).map(|number| key(number % 200 * 8, number)).collect();
        let ask = async {
            let request = RequestHandle::current().expect("it runs in one");
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
            let later = RequestHandle::current().expect("it runs in one");
            for (at, key) in keys.iter().enumerate().step_by(3) {
                // It was asked for before.
                let overtaken = request.keep(CACHE, key, Arc::new(0_u64));
                assert_eq!((number(Some(overtaken)), get(at as u64)), (Some(0), None));
                later.keep(CACHE, key, Arc::new(at as u64 + 2_000));
            }
            for at in 0..1_000 {
                let expected = at + [2_000, 1_000, 0][at as usize % 3];
                assert_eq!(get(at), Some(expected));
            }
        };
        RequestScope::new().run(ask).await;
        assert_eq!(RequestHandle::current(), None);
    }

    #[tokio::test]
    async fn a_request_is_where_its_future_is_polled_and_dropped() {
        struct Looks(Arc<AtomicU64>);
        impl Drop for Looks {
            fn drop(&mut self) {
                self.0.store(
                    RequestHandle::current().map_or(0, |request| request.id() + 1),
                    Ordering::Relaxed,
                );
            }
        }
        let dropped_in = Arc::new(AtomicU64::new(0));
        let looks = Looks(Arc::clone(&dropped_in));
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
            let _looks = looks;
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
