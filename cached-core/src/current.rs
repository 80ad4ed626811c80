//! Which cache a call uses: the running scope's, else the installed one, else an embedded one.

use std::future::Future;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, OnceLock};

use crate::cache::Cache;
use crate::declaration::shared_names;
use crate::error::InstallError;

tokio::task_local! {
    static SCOPED: Cache;
}

static INSTALLED: OnceLock<(Cache, &'static Location<'static>)> = OnceLock::new();

static EMBEDDED: LazyLock<Cache> = LazyLock::new(|| Cache::new(crate::config::Config::default()));

/// Whether any cache was made a future's, ever: where none was, the task is not asked for it.
static IS_USED: AtomicBool = AtomicBool::new(false);

/// The current cache, where it is known to be the process's.
#[inline]
pub(crate) fn current_of_process<'c>() -> Option<&'c Cache> {
    (!IS_USED.load(Ordering::Relaxed)).then(of_process)
}

#[inline]
fn of_process() -> &'static Cache {
    INSTALLED.get().map_or_else(|| &*EMBEDDED, |(cache, _)| cache)
}

impl Cache {
    /// The cache of the running [`scope`](Self::scope), else the [`install`](Self::install)ed one,
    /// else an embedded local one, of 64 MiB. Also outside of a runtime.
    #[must_use]
    pub fn current() -> Cache {
        // Out of the scope's own: what is done with it may enter another.
        SCOPED.try_with(Cache::clone).unwrap_or_else(|_| of_process().clone())
    }

    /// Makes this the process's cache, for good.
    ///
    /// # Errors
    /// With both places, when a cache is installed already, or when functions share a cache name;
    /// in the second case the cache *is* installed, and the functions that share a name go without.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = cached_core::Cache::from_env().await.unwrap();
    /// cache.install().unwrap();
    /// # });
    /// ```
    #[track_caller]
    pub fn install(&self) -> Result<(), InstallError> {
        let second = Location::caller();
        if INSTALLED.set((self.clone(), second)).is_err() {
            let first = INSTALLED.get().map_or(second, |(_, first)| first);
            return Err(InstallError::AlreadyInstalled { first, second });
        }
        let shared = shared_names();
        if shared.is_empty() {
            return Ok(());
        }
        Err(InstallError::SharedNames(shared.iter().map(ToString::to_string).collect()))
    }

    /// Makes this the cache of one future and of what it calls; for tests and tenants. The future
    /// returned owns its cache and can be spawned. Tasks that it spawns are outside of the scope.
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
        // Whoever polls the future sees this: it was handed over since.
        IS_USED.store(true, Ordering::Relaxed);
        SCOPED.scope(self.clone(), future)
    }
}
