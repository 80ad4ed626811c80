//! The clock that lifetimes are measured by.

use std::ops::Add;
use std::time::{Duration, Instant};

/// A time of [`Clock::coarse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CoarseInstant(u64);

impl CoarseInstant {
    #[inline]
    pub(crate) fn now() -> CoarseInstant {
        // Without the crate's own memory of the last time, which every thread would write to.
        CoarseInstant(coarsetime::Instant::now_without_cache_update().as_ticks())
    }

    /// The last time that there is.
    pub(crate) const NEVER: CoarseInstant = CoarseInstant(u64::MAX);

    /// How long it is from then to this; zero where it was before.
    pub(crate) fn since(self, then: CoarseInstant) -> Duration {
        coarsetime::Duration::from_ticks(self.0.saturating_sub(then.0)).into()
    }

    /// As a number to be kept in an atomic one.
    pub(crate) fn number(self) -> u64 {
        self.0
    }

    pub(crate) fn of_number(number: u64) -> CoarseInstant {
        CoarseInstant(number)
    }

    /// In milliseconds since some time before the program began.
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

    /// What [`now`](Self::now) said, or would have, at a time of the system's.
    #[cfg(all(feature = "memcached", not(feature = "testing")))]
    #[inline]
    pub(crate) fn at(&self, time: Instant) -> Instant {
        time
    }

    /// Now, in a fifth of the time, but perhaps a tick of the system's timer ago.
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
        Instant::now() + self.moved()
    }

    #[cfg(feature = "memcached")]
    #[inline]
    pub(crate) fn at(&self, time: Instant) -> Instant {
        time + self.moved()
    }

    #[inline]
    pub(crate) fn coarse(&self) -> CoarseInstant {
        CoarseInstant::now() + self.moved()
    }

    fn moved(&self) -> Duration {
        Duration::from_nanos(self.moved.load(std::sync::atomic::Ordering::Acquire))
    }

    /// Moves it on; it never goes back.
    pub(crate) fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let add = |moved: u64| Some(moved.saturating_add(by).min(LONGEST));
        let ordering = std::sync::atomic::Ordering::AcqRel;
        let _ = self.moved.fetch_update(ordering, std::sync::atomic::Ordering::Acquire, add);
    }
}

/// A hundred years: what is added to it stays a time.
#[cfg(feature = "testing")]
const LONGEST: u64 = 100 * 365 * 24 * 60 * 60 * 1_000_000_000;
