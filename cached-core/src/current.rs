//! The current cache, which an annotated function uses if it does not name a cache.
//!
//! Inside a [`Cache::scope`], this is the cache of the scope. Outside of every scope, it is the
//! installed cache. If no cache is installed, it is the *embedded* cache, a local cache with the
//! default settings.

mod in_scope;
mod recording;
mod static_cache;

use std::future::Future;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, OnceLock};

#[cfg(feature = "tower")]
use tokio::task::futures::TaskLocalFuture;

use crate::cache::Cache;
use crate::config::Config;
use crate::declaration::shared_names;
use crate::error::InstallError;
#[cfg(feature = "tower")]
pub(crate) use in_scope::FutureInScope;
pub use in_scope::in_scope;
pub use recording::{with_outcome, with_outcomes};
pub use static_cache::StaticCache;

tokio::task_local! {
    static SCOPED: Cache;
}

/// A cache for the whole process, and the source location of the call that installed it.
type InstalledCache = OnceLock<(Cache, &'static Location<'static>)>;

static INSTALLED: InstalledCache = OnceLock::new();

static EMBEDDED: LazyLock<Cache> = LazyLock::new(|| Cache::new(Config::default()));

/// True after the first call of `Cache::scope`. Until then, no annotated function needs to look for
/// a scope.
static SCOPE_USED: AtomicBool = AtomicBool::new(false);

/// Returns the installed or the embedded cache if no task has ever used a scope.
#[inline]
pub(crate) fn process_cache_if_unscoped<'c>() -> Option<&'c Cache> {
    (!SCOPE_USED.load(Ordering::Relaxed)).then(process_cache)
}

#[inline]
fn process_cache() -> &'static Cache {
    INSTALLED.get().map_or_else(|| &*EMBEDDED, |(cache, _)| cache)
}

/// Returns true if the running task has probably lost its scope. This is assumed if the program
/// uses scopes and has installed no cache, but this task uses `cache` outside of every scope.
pub(crate) fn has_lost_its_scope(cache: &Cache) -> bool {
    SCOPE_USED.load(Ordering::Relaxed)
        && INSTALLED.get().is_none()
        && tokio::task::try_id().is_some()
        && SCOPED.try_with(|_| ()).is_err()
        && cache.id() == EMBEDDED.id()
}

/// Puts a cache into `place`. Returns an error if `place` has a cache already, or if two annotated
/// functions of the program have the same cache name.
#[track_caller]
fn install_into(place: &InstalledCache, cache: Cache) -> Result<(), InstallError> {
    let shared_names = shared_names();
    if !shared_names.is_empty() {
        return Err(InstallError::SharedNames(shared_names));
    }
    let second = Location::caller();
    place.set((cache, second)).map_err(|_| {
        let first = place.get().map_or(second, |(_, first)| first);
        InstallError::AlreadyInstalled { first, second }
    })
}

impl Cache {
    /// Returns the cache that annotated functions use if they are called here.
    ///
    /// This is the cache of the enclosing [`scope`](Self::scope). Outside of every scope, it is the
    /// [`install`](Self::install)ed cache or, if no cache is installed, an embedded local cache of
    /// 64 MiB. The method also works outside of a runtime.
    ///
    /// ```
    /// # use cached_core::Cache;
    /// println!("{}", Cache::current().stats());
    /// ```
    #[must_use]
    pub fn current() -> Cache {
        // The cache must be cloned, because the caller can leave the scope and still use the cache.
        SCOPED.try_with(Cache::clone).unwrap_or_else(|_| process_cache().clone())
    }

    /// Makes this cache the cache of the whole process, for as long as the process runs.
    ///
    /// # Errors
    /// Returns an error and does not install the cache if another cache is installed already, or if
    /// two annotated functions of the program have the same cache name. The error names the source
    /// locations of the two calls or functions.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = cached_core::Cache::from_env().await.unwrap();
    /// cache.install().unwrap();
    /// # });
    /// ```
    #[track_caller]
    pub fn install(&self) -> Result<(), InstallError> {
        install_into(&INSTALLED, self.clone())
    }

    /// Runs a future with this cache as the current cache, for example in a test or for one tenant.
    ///
    /// Every annotated function that the future calls uses this cache. A task that the future
    /// spawns uses this cache only if the task's future is wrapped, as in
    /// `tokio::spawn(in_scope(work))`; see [`in_scope`]. The returned future owns the cache, so it
    /// does not borrow from `self`.
    ///
    /// # Cancellation
    /// Dropping the returned future drops the given future.
    ///
    /// ```
    /// # use cached_core::Cache;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::builder().build().await?;
    /// cache.scope(async { /* annotated functions called here use `cache` */ }).await;
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        // `Relaxed` is enough, because a thread can receive the returned future only after this
        // store.
        SCOPE_USED.store(true, Ordering::Relaxed);
        SCOPED.scope(self.clone(), future)
    }

    /// Calls `make`, and returns a future that runs the future from `make`. This cache is the
    /// current cache in both.
    #[cfg(feature = "tower")]
    fn scope_made<F: Future>(&self, make: impl FnOnce() -> F) -> TaskLocalFuture<Cache, F> {
        SCOPE_USED.store(true, Ordering::Relaxed);
        let future = SCOPED.sync_scope(self.clone(), make);
        SCOPED.scope(self.clone(), future)
    }
}
