//! The request tier: within one request a key has one answer.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::value::Value;

tokio::task_local! {
    static REQUEST: Arc<Request>;
}

/// The answers of one request.
#[derive(Default)]
pub(crate) struct Request {
    force_miss: bool,
    /// By the cache that gave them; a request may use several.
    answers: Mutex<HashMap<u64, Answers>>,
}

type Answers = HashMap<Arc<[u8]>, Value>;

impl Request {
    /// The running request's, if there is one.
    pub(crate) fn current() -> Option<Arc<Request>> {
        REQUEST.try_with(Arc::clone).ok()
    }

    pub(crate) fn force_miss(&self) -> bool {
        self.force_miss
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Answers>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, cache: u64, key: &[u8]) -> Option<Value> {
        self.lock().get(&cache)?.get(key).cloned()
    }

    /// Keeps the first answer for the rest of the request; returns the one that is kept.
    pub(crate) fn keep(&self, cache: u64, key: &Arc<[u8]>, value: Value) -> Value {
        let mut answers = self.lock();
        Arc::clone(answers.entry(cache).or_default().entry(Arc::clone(key)).or_insert(value))
    }

    pub(crate) fn replace(&self, cache: u64, key: &Arc<[u8]>, value: Value) {
        self.lock().entry(cache).or_default().insert(Arc::clone(key), value);
    }

    pub(crate) fn remove(&self, cache: u64, key: &[u8]) {
        if let Some(answers) = self.lock().get_mut(&cache) {
            answers.remove(key);
        }
    }
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
        let request = Request { force_miss: self.force_miss, ..Request::default() };
        REQUEST.scope(Arc::new(request), future)
    }
}
