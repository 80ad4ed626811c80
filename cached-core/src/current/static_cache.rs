//! A `static` that can hold a cache, for programs with several caches.

use std::fmt;
use std::panic::Location;
use std::sync::OnceLock;

use super::install_into;
use crate::cache::Cache;
use crate::error::InstallError;

/// The type of a `static` that holds a cache, besides the one that [`Cache::install`] installs.
/// Functions with the option `cache = NAME` use the cache in the `static` of this name.
///
/// The program installs the cache when it starts, as with [`Cache::install`]. As long as no cache
/// is installed here, the functions use [`Cache::current`], as they would without the option. In a
/// test, the `TestCache` is the current cache, so the test need not install a cache here.
///
/// ```
/// use cached_core::{Cache, StaticCache, coordinator_cached};
///
/// static REPORTS: StaticCache = StaticCache::new();
///
/// #[coordinator_cached(name = "static_cache_doc", version = edition, cache = REPORTS)]
/// async fn report(id: u32, edition: u8) -> Result<String, std::io::Error> {
///     Ok(format!("report {id}, edition {edition}"))
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// REPORTS.install(Cache::from_url("local:?local_capacity=8MiB").await?)?;
/// report(1, 2).await?;
/// assert_eq!(REPORTS.get().unwrap().stats().get("static_cache_doc").unwrap().fetches, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct StaticCache {
    installed: OnceLock<(Cache, &'static Location<'static>)>,
}

impl StaticCache {
    /// Returns a `StaticCache` in which no cache is installed.
    #[must_use]
    pub const fn new() -> StaticCache {
        StaticCache { installed: OnceLock::new() }
    }

    /// Installs the cache in this `static`, for as long as the process runs.
    ///
    /// # Errors
    /// Returns an error if a cache is installed here already, or if functions of the program share
    /// a cache name. The cache is then not installed. The error names the places in the source.
    ///
    /// ```
    /// # use cached_core::{Cache, StaticCache};
    /// static REPORTS: StaticCache = StaticCache::new();
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// REPORTS.install(Cache::builder().local_capacity(8 << 20).build().await?)?;
    /// assert!(REPORTS.install(Cache::disabled()).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    #[track_caller]
    pub fn install(&self, cache: Cache) -> Result<(), InstallError> {
        install_into(&self.installed, cache)
    }

    /// Returns the installed cache, or `None` before [`install`](Self::install).
    ///
    /// ```
    /// # use cached_core::StaticCache;
    /// static REPORTS: StaticCache = StaticCache::new();
    /// assert!(REPORTS.get().is_none());
    /// ```
    #[must_use]
    #[inline]
    pub fn get(&self) -> Option<&Cache> {
        self.installed.get().map(|(cache, _)| cache)
    }
}

impl Default for StaticCache {
    fn default() -> StaticCache {
        StaticCache::new()
    }
}

impl fmt::Debug for StaticCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticCache").field("cache", &self.get()).finish()
    }
}
