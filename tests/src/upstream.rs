use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// What the functions of a test fetch from. It counts its fetches; every test has its own, so that
/// tests do not disturb each other. A clone is the same upstream.
#[derive(Debug, Clone, Default)]
pub struct Upstream {
    fetches: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
    takes: Duration,
}

/// The error of an upstream that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down;

impl Upstream {
    /// Each of its answers takes so long; without this it answers at once.
    #[must_use]
    pub fn taking(self, millis: u64) -> Upstream {
        Upstream { takes: Duration::from_millis(millis), ..self }
    }

    /// One fetch. The answer is its number; the first is 1.
    ///
    /// # Errors
    /// `Down` while the upstream fails. That is a fetch too.
    pub async fn answer(&self) -> Result<usize, Down> {
        let fetch = self.fetches.fetch_add(1, Ordering::SeqCst) + 1;
        // Without a runtime nobody can sleep.
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        if self.fails.load(Ordering::SeqCst) { Err(Down) } else { Ok(fetch) }
    }

    /// How often it was asked.
    #[must_use]
    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    /// From here on it fails.
    pub fn fail(&self) {
        self.fails.store(true, Ordering::SeqCst);
    }

    /// From here on it works again.
    pub fn recover(&self) {
        self.fails.store(false, Ordering::SeqCst);
    }
}
