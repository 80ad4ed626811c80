//! The current cache: that of the running scope, else the installed one, else an embedded one.

use std::future::Future;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, OnceLock};

use crate::cache::Cache;
use crate::config::Config;
use crate::declaration::shared_names;
use crate::error::InstallError;

tokio::task_local! {
    static SCOPED: Cache;
}

static INSTALLED: OnceLock<(Cache, &'static Location<'static>)> = OnceLock::new();

static EMBEDDED: LazyLock<Cache> = LazyLock::new(|| Cache::new(Config::default()));

/// True once `Cache::scope` was called. Until then no task has a cache of its own, and a call does
/// not have to look for one.
static SCOPE_USED: AtomicBool = AtomicBool::new(false);

/// Returns the process's cache if no scope has ever been used.
#[inline]
pub(crate) fn process_cache_if_unscoped<'c>() -> Option<&'c Cache> {
    (!SCOPE_USED.load(Ordering::Relaxed)).then(process_cache)
}

#[inline]
fn process_cache() -> &'static Cache {
    INSTALLED.get().map_or_else(|| &*EMBEDDED, |(cache, _)| cache)
}

impl Cache {
    /// Returns the cache that annotated functions use here and now.
    ///
    /// That is the cache of the running [`scope`](Self::scope), else the
    /// [`install`](Self::install)ed one, else an embedded local cache of 64 MiB. The method also
    /// works outside of a runtime.
    ///
    /// ```
    /// # use cached_core::Cache;
    /// println!("{}", Cache::current().stats());
    /// ```
    #[must_use]
    pub fn current() -> Cache {
        // A clone, because the caller may enter another scope while it uses the cache.
        SCOPED.try_with(Cache::clone).unwrap_or_else(|_| process_cache().clone())
    }

    /// Makes this the cache of the whole process, for as long as the process runs.
    ///
    /// # Errors
    /// The cache is not installed if another one is installed already, or if functions of the
    /// program share a cache name. The error names both places.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = cached_core::Cache::from_env().await.unwrap();
    /// cache.install().unwrap();
    /// # });
    /// ```
    #[track_caller]
    pub fn install(&self) -> Result<(), InstallError> {
        let shared_names = shared_names();
        if !shared_names.is_empty() {
            return Err(InstallError::SharedNames(shared_names));
        }
        let second = Location::caller();
        INSTALLED.set((self.clone(), second)).map_err(|_| {
            let first = INSTALLED.get().map_or(second, |(_, first)| first);
            InstallError::AlreadyInstalled { first, second }
        })
    }

    /// Runs a future with this cache as the current one. Use it in tests and for tenants.
    ///
    /// Everything that the future calls uses this cache; tasks that it spawns do not. The returned
    /// future owns the cache, so it can be spawned itself.
    ///
    /// # Cancellation
    /// Dropping the returned future drops the inner one.
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
        // `Relaxed` is enough: the thread that polls the future received it after this store.
        SCOPE_USED.store(true, Ordering::Relaxed);
        SCOPED.scope(self.clone(), future)
    }
}
