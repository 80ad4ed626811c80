//! Removes many entries at once from the tiers of this process.

use std::thread;

use tokio::sync::oneshot;

use super::Cache;
use crate::declaration::Declaration;
use crate::error::UnknownNameError;
use crate::event::Event;
use crate::tier::local::run_deferred_drops;
use crate::tier::request::RequestHandle;

/// If there are more entries than this, a separate thread removes them. Removing fewer entries
/// takes less than a millisecond.
const MAX_REMOVED_BY_CALLER: usize = 1024;

impl Cache {
    /// Removes all entries from the tiers of this process, and returns how many entries the local
    /// tier had.
    ///
    /// - After the method has returned, no call in this process is answered with a value that this
    ///   process had before.
    /// - A running fetch stores nothing in this process. Callers that already wait for the fetch
    ///   still receive its result.
    /// - The current [`RequestScope`](crate::RequestScope) forgets its answers from this cache.
    ///   Other requests keep the answers that they have.
    /// - **memcached keeps its entries**, and a running fetch can still store its value there. The
    ///   next call might read an old value from memcached. To remove an entry from memcached too,
    ///   call [`CacheEntry::invalidate`](crate::CacheEntry::invalidate).
    /// - Other processes keep their entries.
    ///
    /// Removing a million entries takes a second or two. A separate thread removes them, so no call
    /// is blocked. [`DeclarationStats::invalidations`](crate::DeclarationStats::invalidations)
    /// counts the entries.
    ///
    /// # Cancellation
    /// If the future is dropped after its first poll, the entries are still removed, but the
    /// current request might keep its answers.
    ///
    /// ```
    /// # use cached_core::{Cache, coordinator_cached};
    /// #[coordinator_cached(name = "clear_doc", version = edition)]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::builder().build().await.unwrap();
    /// cache.scope(course(1, 2)).await?;
    /// assert_eq!(cache.clear().await, 1);
    /// cache.scope(course(1, 2)).await?; // fetches again
    /// assert_eq!(cache.stats().get("clear_doc").unwrap().fetches, 2);
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn clear(&self) -> usize {
        self.remove_all_from_process(None).await
    }

    /// Removes all entries of one function from the tiers of this process, and returns how many
    /// entries the local tier had. `name` is the cache name of the function.
    ///
    /// The rules of [`clear`](Self::clear) apply to the entries of this function: memcached and
    /// other processes keep their entries. In addition, values that other functions are fetching
    /// might not be stored in this process.
    ///
    /// # Errors
    /// Returns an error if no function of the program has this name. The error lists similar names.
    ///
    /// # Cancellation
    /// If the future is dropped after its first poll, the entries are still removed, as with
    /// [`clear`](Self::clear).
    ///
    /// ```
    /// # use cached_core::{Cache, coordinator_cached};
    /// #[coordinator_cached(name = "invalidate_all_doc", version = edition)]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::builder().build().await?;
    /// cache.scope(async { course(1, 2).await?; course(2, 2).await }).await?;
    /// assert_eq!(cache.invalidate_all("invalidate_all_doc").await?, 2);
    /// assert!(cache.invalidate_all("invalidate_all_dog").await.is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn invalidate_all(&self, name: &str) -> Result<usize, UnknownNameError> {
        let declaration = Declaration::by_name(name)?;
        // A declaration without an index is not cached, for example because another function has
        // the same cache name.
        if declaration.index().is_none() {
            return Ok(0);
        }
        Ok(self.remove_all_from_process(Some(declaration)).await)
    }

    async fn remove_all_from_process(&self, function: Option<&'static Declaration>) -> usize {
        let removed = match self.inner.local.entry_count() {
            0..=MAX_REMOVED_BY_CALLER => self.remove_all_here(function),
            _ => self.remove_all_on_thread(function).await,
        };
        // The request tier is cleared last, because another task of the request might have found an
        // old value until now.
        if let Some(request) = RequestHandle::current() {
            request.remove_all(self.id(), function.and_then(Declaration::index));
        }
        removed
    }

    async fn remove_all_on_thread(&self, function: Option<&'static Declaration>) -> usize {
        let (done, removed) = oneshot::channel();
        let cache = self.clone();
        let run = move || {
            let _ = done.send(cache.remove_all_here(function));
        };
        let thread = thread::Builder::new().name("cached-clearing".to_owned()).spawn(run);
        if thread.is_ok()
            && let Ok(removed) = removed.await
        {
            return removed;
        }
        // The thread could not be started, or it panicked.
        self.remove_all_here(function)
    }

    /// Removes the entries of a function, or of all functions, from the local tier. A running fetch
    /// or read does not store its result.
    fn remove_all_here(&self, function: Option<&'static Declaration>) -> usize {
        let index = function.and_then(Declaration::index);
        let entries = self.inner.local.begin_clearing(index).finish();
        // A *flight* is one key's fetch, which several callers can share. The flight might have
        // found an old value before the clearing, so later callers must not join it.
        self.inner.flights.detach_all(index);
        self.inner.fetch_pauses.end_all(index);
        self.emit(Event::Cleared { function, entries });
        run_deferred_drops();
        entries
    }
}
