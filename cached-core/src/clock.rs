//! The clock that lifetimes are measured by.

use std::time::Instant;

/// The time as one cache sees it. Clones are the same clock.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock {
    /// How far a test has moved it, in nanoseconds.
    #[cfg(feature = "testing")]
    moved: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Clock {
    #[cfg(not(feature = "testing"))]
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        Instant::now()
    }
}

#[cfg(feature = "testing")]
impl Clock {
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        let moved = self.moved.load(std::sync::atomic::Ordering::Acquire);
        Instant::now() + std::time::Duration::from_nanos(moved)
    }

    /// Moves it on; it never goes back.
    pub(crate) fn advance(&self, by: std::time::Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let add = |moved: u64| Some(moved.saturating_add(by).min(LONGEST));
        let ordering = std::sync::atomic::Ordering::AcqRel;
        let _ = self.moved.fetch_update(ordering, std::sync::atomic::Ordering::Acquire, add);
    }
}

/// A hundred years: what is added to it stays a time.
#[cfg(feature = "testing")]
const LONGEST: u64 = 100 * 365 * 24 * 60 * 60 * 1_000_000_000;
