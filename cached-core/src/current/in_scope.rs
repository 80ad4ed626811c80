//! Carries the scopes of a task into a future that another task polls. The scopes say which cache
//! and which request a call belongs to.

use std::future::Future;
use std::pin::Pin;
#[cfg(feature = "tower")]
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::task::JoinHandle;
use tokio::task::futures::TaskLocalFuture;

use super::SCOPED;
use crate::cache::Cache;
#[cfg(feature = "tower")]
use crate::outcome::OutcomeRecorder;
#[cfg(feature = "tower")]
use crate::tier::request::RequestScope;
use crate::tier::request::{RequestFuture, in_current_request};

/// Carries the running [`Cache::scope`] and [`RequestScope`](crate::RequestScope) into a future.
///
/// A spawned task is outside of the scopes of the task that spawned it. Its calls use the cache
/// that is installed for the whole process, and may get another tenant's answers. So wrap the
/// future of the task: `tokio::spawn(in_scope(work))`. This function captures the scopes in which
/// it is called. The returned future runs `work` in these scopes, even if another task or thread
/// polls it.
///
/// All tasks of a request share the answers of the request, so a key has the same answer in all of
/// them. After the first call of this function in a request, each lookup in the request's answers
/// takes a lock.
///
/// - Use this function for each future that another task or thread polls: `tokio::spawn`,
///   `JoinSet::spawn`, `spawn_blocking`
///   (`let work = in_scope(work); spawn_blocking(move || handle.block_on(work))`).
/// - Futures that the task itself polls need no `in_scope`: `join!`, `select!`, `FuturesUnordered`.
/// - A stream, such as the body of a response, can be polled after its scope has ended. If the
///   stream creates a future then, it is too late to call this function. Instead, take the cache
///   while the scope runs, with `let cache = Cache::current();`, and wrap each future in
///   `cache.scope(…)`.
///
/// Outside of every scope, the function has no effect.
///
/// # Cancellation
/// Dropping the returned future drops the given future within its scopes.
///
/// ```
/// # use cached_core::{Cache, coordinator_cached, in_scope};
/// #[coordinator_cached(name = "in_scope_doc", version = edition)]
/// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
///     Ok(format!("course {id}, edition {edition}"))
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let tenant = Cache::builder().build().await.unwrap();
/// tenant
///     .scope(async {
///         let one = tokio::spawn(in_scope(course(1, 2)));
///         let other = tokio::spawn(in_scope(course(2, 2)));
///         one.await.unwrap()?;
///         other.await.unwrap()
///     })
///     .await?;
/// assert_eq!(tenant.stats().get("in_scope_doc").unwrap().fetches, 2);
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap();
/// ```
pub fn in_scope<F: Future>(future: F) -> impl Future<Output = F::Output> + use<F> {
    let future = in_current_request(future);
    match SCOPED.try_with(Cache::clone) {
        Ok(cache) => FutureInScope::Scoped(Box::pin(SCOPED.scope(cache, future))),
        Err(_) => FutureInScope::Unscoped(future),
    }
}

impl Cache {
    /// Spawns a task that has this cache as its current cache, and that belongs to the running
    /// [`RequestScope`](crate::RequestScope), if there is one.
    ///
    /// In a [`scope`](Self::scope), `Cache::current().spawn(work)` does the same as
    /// `tokio::spawn(in_scope(work))`; see [`in_scope`].
    ///
    /// # Panics
    /// Panics outside of a tokio runtime, as `tokio::spawn` does.
    ///
    /// # Cancellation
    /// The task goes on if the handle is dropped, and ends if the handle is aborted.
    ///
    /// ```
    /// # use cached_core::Cache;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::builder().build().await?;
    /// let task = cache.spawn(async { /* annotated functions called here use `cache` */ 7 });
    /// assert_eq!(task.await.unwrap(), 7);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        tokio::spawn(self.scope(in_current_request(future)))
    }
}

/// A future that is polled and dropped within the scopes in which this `FutureInScope` was created.
pub(crate) enum FutureInScope<F> {
    /// The future was created in the scope of a cache. It is boxed, because tokio's future is not
    /// `Unpin`.
    Scoped(Pin<Box<TaskLocalFuture<Cache, RequestFuture<F>>>>),
    /// The future was created outside of every cache's scope.
    Unscoped(RequestFuture<F>),
}

#[cfg(feature = "tower")]
impl<F: Future> FutureInScope<F> {
    /// Runs the future that `make` returns in a new request scope. If `cache` is given, the future
    /// also runs in the scope of this cache. `make` is called in the same scopes.
    pub(crate) fn new(
        cache: Option<&Cache>,
        scope: RequestScope,
        recorders: Vec<Arc<OutcomeRecorder>>,
        make: impl FnOnce() -> F,
    ) -> FutureInScope<F> {
        let make = || scope.run_made(recorders, make);
        match cache {
            Some(cache) => FutureInScope::Scoped(Box::pin(cache.scope_made(make))),
            None => FutureInScope::Unscoped(make()),
        }
    }
}

impl<F: Future> Future for FutureInScope<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        match &mut *self {
            FutureInScope::Scoped(future) => future.as_mut().poll(context),
            FutureInScope::Unscoped(future) => Pin::new(future).poll(context),
        }
    }
}
