//! A stand-in for the upstream service that a cached function would call in production.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// The service that the cached functions of a test fetch from. It counts the fetches. Each test
/// creates its own upstream; clones share the count and the failure switch.
#[derive(Debug, Clone, Default)]
pub struct Upstream {
    fetches: Arc<AtomicUsize>,
    is_failing: Arc<AtomicBool>,
    fetch_time: Duration,
}

/// The error of every fetch while the upstream fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamDown;

impl Upstream {
    /// Sets how long each fetch takes, in milliseconds. By default a fetch takes no time.
    #[must_use]
    pub fn taking_millis(self, millis: u64) -> Upstream {
        Upstream { fetch_time: Duration::from_millis(millis), ..self }
    }

    /// Fetches once and returns the number of this fetch; the first is 1.
    ///
    /// # Errors
    /// Returns [`UpstreamDown`] while the upstream fails. A failed fetch is counted too.
    pub async fn fetch(&self) -> Result<usize, UpstreamDown> {
        let fetch = self.fetches.fetch_add(1, Ordering::SeqCst) + 1;
        // A timer needs a runtime, and some tests run without one.
        if !self.fetch_time.is_zero() {
            tokio::time::sleep(self.fetch_time).await;
        }
        if self.is_failing.load(Ordering::SeqCst) { Err(UpstreamDown) } else { Ok(fetch) }
    }

    /// Returns the number of fetches so far.
    #[must_use]
    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    /// Makes every fetch fail from now on.
    pub fn fail(&self) {
        self.is_failing.store(true, Ordering::SeqCst);
    }

    /// Makes fetches succeed again.
    pub fn recover(&self) {
        self.is_failing.store(false, Ordering::SeqCst);
    }
}
