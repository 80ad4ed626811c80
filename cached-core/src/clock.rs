//! The clock of a cache, which decides when entries expire. With the feature `testing`, a test can
//! advance it.

use std::ops::Add;
use std::time::{Duration, Instant};

/// A reading of the operating system's coarse clock, which advances only every few milliseconds.
/// Reading it takes a fifth of the time that [`Instant::now`] takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CoarseInstant(u64);

impl CoarseInstant {
    #[inline]
    pub(crate) fn now() -> CoarseInstant {
        // Avoids `coarsetime::Instant::now`, which also writes to memory that all threads share.
        CoarseInstant(coarsetime::Instant::now_without_cache_update().as_ticks())
    }

    /// A time that is later than every other time.
    pub(crate) const NEVER: CoarseInstant = CoarseInstant(u64::MAX);

    /// Returns the duration from `earlier` to this time, or zero if `earlier` is in fact later.
    pub(crate) fn since(self, earlier: CoarseInstant) -> Duration {
        coarsetime::Duration::from_ticks(self.0.saturating_sub(earlier.0)).into()
    }

    /// Returns the time as a number that can be stored in an atomic.
    pub(crate) fn to_ticks(self) -> u64 {
        self.0
    }

    pub(crate) fn from_ticks(ticks: u64) -> CoarseInstant {
        CoarseInstant(ticks)
    }

    /// Returns the milliseconds since a fixed time before the program started.
    pub(crate) fn millis(self) -> u64 {
        coarsetime::Duration::from_ticks(self.0).as_millis()
    }
}

impl Add<Duration> for CoarseInstant {
    type Output = CoarseInstant;

    fn add(self, duration: Duration) -> CoarseInstant {
        CoarseInstant(self.0.saturating_add(coarsetime::Duration::from(duration).as_ticks()))
    }
}

/// The clock of one cache. Clones share the time, which a test can advance.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock {
    /// The nanoseconds by which a test has advanced the clock.
    #[cfg(feature = "testing")]
    advanced_nanos: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Clock {
    #[cfg(not(feature = "testing"))]
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        Instant::now()
    }

    /// Converts the system's time into this clock's time. Without the feature `testing` the two are
    /// equal, so the result is `time`.
    #[cfg(not(feature = "testing"))]
    #[inline]
    pub(crate) fn shift(&self, time: Instant) -> Instant {
        time
    }

    /// Returns the time of the coarse clock, which is up to some milliseconds behind
    /// [`now`](Self::now).
    #[cfg(not(feature = "testing"))]
    #[inline]
    pub(crate) fn coarse(&self) -> CoarseInstant {
        CoarseInstant::now()
    }
}

#[cfg(feature = "testing")]
impl Clock {
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        Instant::now() + self.advanced()
    }

    /// Converts the system's time into this clock's time, by adding the duration by which tests
    /// have advanced the clock.
    #[inline]
    pub(crate) fn shift(&self, time: Instant) -> Instant {
        time + self.advanced()
    }

    #[inline]
    pub(crate) fn coarse(&self) -> CoarseInstant {
        CoarseInstant::now() + self.advanced()
    }

    fn advanced(&self) -> Duration {
        Duration::from_nanos(self.advanced_nanos.load(std::sync::atomic::Ordering::Acquire))
    }

    /// Advances the clock. The sum of all advances is limited to [`MAX_ADVANCE_NANOS`].
    pub(crate) fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let add = |nanos: u64| Some(nanos.saturating_add(by).min(MAX_ADVANCE_NANOS));
        let ordering = std::sync::atomic::Ordering::AcqRel;
        let _ =
            self.advanced_nanos.fetch_update(ordering, std::sync::atomic::Ordering::Acquire, add);
    }
}

/// The limit for the sum of all advances: a hundred years, so that adding a ttl does not overflow.
#[cfg(feature = "testing")]
const MAX_ADVANCE_NANOS: u64 = 100 * 365 * 24 * 60 * 60 * 1_000_000_000;
