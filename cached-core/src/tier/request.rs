//! The request tier: within one request a key has one answer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use smallvec::SmallVec;

use crate::key::{ByHead, Head, Sought, body};
use crate::value::Value;

tokio::task_local! {
    static ANSWERS: Answers;
}

/// Whether there was any request, ever: where there was none, the task is not asked for it.
static IS_USED: AtomicBool = AtomicBool::new(false);

/// Answers by the heads of their keys. Several keys may have the same.
type ByKey = HashMap<Head, WithHead, ByHead>;
type WithHead = SmallVec<[(Arc<[u8]>, Value); 1]>;

/// The answers of one request. They are reached through the task alone, so they need no lock.
struct Answers {
    request: Request,
    /// By the cache that gave them; a request may use several, and mostly uses one.
    caches: RefCell<Vec<(u64, ByKey)>>,
}

/// A request, as a call remembers it. What it asks of a request that its task is not in is not
/// done: a call that was begun in a request and is run elsewhere is no part of it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    id: u64,
    force_miss: bool,
}

impl Request {
    /// The running request, if there is one.
    #[inline]
    pub(crate) fn current() -> Option<Request> {
        if !IS_USED.load(Ordering::Relaxed) {
            return None;
        }
        ANSWERS.try_with(|answers| answers.request).ok()
    }

    /// Tells this request from every other of the process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn force_miss(&self) -> bool {
        self.force_miss
    }

    pub(crate) fn get(&self, cache: u64, key: &[u8]) -> Option<Value> {
        self.serve(cache, &key, Value::clone)
    }

    /// What `serve` makes of the request's answer, if it has one.
    #[inline]
    pub(crate) fn serve<T>(
        &self,
        cache: u64,
        key: &impl Sought,
        serve: impl FnOnce(&Value) -> T,
    ) -> Option<T> {
        let serve = |answers: &Answers| {
            let caches = answers.caches.borrow();
            let (_, answers) = caches.iter().find(|(id, _)| *id == cache)?;
            let with_head = answers.get(&key.head())?;
            with_head.iter().find(|(other, _)| key.is(body(other))).map(|(_, value)| serve(value))
        };
        ANSWERS.try_with(serve).ok().flatten()
    }

    /// Keeps the first answer for the rest of the request; returns the one that is kept.
    pub(crate) fn keep(&self, cache: u64, key: &Arc<[u8]>, value: Value) -> Value {
        let kept = |answers: &mut ByKey| {
            let with_head = answers.entry(Head::of(key)).or_default();
            if let Some((_, kept)) = with_head.iter().find(|(other, _)| other == key) {
                return Arc::clone(kept);
            }
            with_head.push((Arc::clone(key), Arc::clone(&value)));
            Arc::clone(&value)
        };
        self.change(cache, kept).unwrap_or(value)
    }

    pub(crate) fn replace(&self, cache: u64, key: &Arc<[u8]>, value: Value) {
        let replaced = |answers: &mut ByKey| {
            let with_head = answers.entry(Head::of(key)).or_default();
            let before = taken(with_head, key);
            with_head.push((Arc::clone(key), value));
            before
        };
        drop(self.change(cache, replaced));
    }

    pub(crate) fn remove(&self, cache: u64, key: &[u8]) {
        let removed = |answers: &mut ByKey| taken(answers.get_mut(&Head::of(key))?, key);
        drop(self.change(cache, removed));
    }

    /// What it returns is dropped outside of the borrow: a value's own `Drop` may make a call.
    fn change<T>(&self, cache: u64, change: impl FnOnce(&mut ByKey) -> T) -> Option<T> {
        let change = |answers: &Answers| {
            if answers.request != *self {
                return None;
            }
            // Borrowed already where a value's own `Clone` makes a call; that one is not kept.
            let mut caches = answers.caches.try_borrow_mut().ok()?;
            let known = caches.iter().position(|(id, _)| *id == cache);
            let index = known.unwrap_or_else(|| {
                caches.push((cache, HashMap::default()));
                caches.len() - 1
            });
            Some(change(&mut caches[index].1))
        };
        ANSWERS.try_with(change).ok().flatten()
    }
}

/// Takes a key's answer out of those with its head.
fn taken(with_head: &mut WithHead, key: &[u8]) -> Option<Value> {
    let place = with_head.iter().position(|(other, _)| **other == *key)?;
    Some(with_head.swap_remove(place).1)
}

/// A request, within which a key has one answer.
///
/// Wrap the handling of a request in it, for instance in a middleware. Calls in tasks that the
/// request spawns are outside of it.
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
pub struct RequestScope {
    force_miss: bool,
}

impl RequestScope {
    /// A request like any other.
    #[must_use]
    pub fn new() -> RequestScope {
        RequestScope::default()
    }

    /// Whether the first call of each key skips what the local tier and memcached hold and
    /// fetches. What it fetches replaces an overwritable entry and leaves a write-once one as it
    /// is. For a caller who asked for a fresh answer.
    #[must_use]
    pub fn force_miss(mut self, force_miss: bool) -> RequestScope {
        self.force_miss = force_miss;
        self
    }

    /// Runs the request. The future may be spawned, and may be dropped at any time.
    pub fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> + use<F> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        // Whoever polls the future sees this: it was handed over since.
        IS_USED.store(true, Ordering::Relaxed);
        let request = Request { id, force_miss: self.force_miss };
        ANSWERS.scope(Answers { request, caches: RefCell::default() }, future)
    }
}
