use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// The service that the cached functions of a test fetch from. It counts the fetches. Each test has an
/// upstream of its own; clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Upstream {
    fetches: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
    takes: Duration,
}

/// The error of every fetch while the upstream fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamDown;

impl Upstream {
    /// Sets how long each fetch takes. The default is no time at all.
    #[must_use]
    pub fn taking(self, millis: u64) -> Upstream {
        Upstream { takes: Duration::from_millis(millis), ..self }
    }

    /// Fetches once and returns the number of this fetch; the first is 1.
    ///
    /// # Errors
    /// Returns [`UpstreamDown`] while the upstream fails. A failed fetch is counted too.
    pub async fn fetch(&self) -> Result<usize, UpstreamDown> {
        let fetch = self.fetches.fetch_add(1, Ordering::SeqCst) + 1;
        // A timer needs a runtime, and some tests run without one.
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        if self.fails.load(Ordering::SeqCst) { Err(UpstreamDown) } else { Ok(fetch) }
    }

    /// Returns how many fetches there were.
    #[must_use]
    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    /// Makes every fetch fail from now on.
    pub fn fail(&self) {
        self.fails.store(true, Ordering::SeqCst);
    }

    /// Makes fetches succeed again.
    pub fn recover(&self) {
        self.fails.store(false, Ordering::SeqCst);
    }
}
