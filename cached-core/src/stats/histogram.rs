//! Histograms of durations.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the buckets, in nanoseconds: 1, 2 and 5 times each power of ten, from 50 µs
/// to 50 s. They include every bound that OpenTelemetry recommends for
/// `db.client.operation.duration`. One more bucket counts the longer durations.
const BOUNDS_NANOS: [u64; BOUND_COUNT] = {
    let mut bounds = [0; BOUND_COUNT];
    let (mut index, mut bound) = (0, 50_000);
    while index < BOUND_COUNT {
        bounds[index] = bound;
        // 5, 10, 20, 50, …
        bound = if index % 3 == 2 { bound / 2 * 5 } else { bound * 2 };
        index += 1;
    }
    bounds
};
const BOUND_COUNT: usize = 19;
const BUCKET_COUNT: usize = BOUND_COUNT + 1;

/// A histogram to which several threads add durations without a lock.
#[derive(Default)]
pub(crate) struct LiveHistogram {
    buckets: [AtomicU64; BUCKET_COUNT],
    sum_nanos: AtomicU64,
}

impl LiveHistogram {
    /// Adds a duration. A thread that reads it back also sees every counter that the recording
    /// thread increased before this call.
    pub(crate) fn record(&self, duration: Duration) {
        let nanos = nanos(duration);
        // Most fetches fall into one of the first buckets, so the search is short.
        let bucket = BOUNDS_NANOS.iter().position(|bound| nanos <= *bound).unwrap_or(BOUND_COUNT);
        self.buckets[bucket].fetch_add(1, Ordering::Release);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> DurationHistogram {
        DurationHistogram {
            buckets: self.buckets.each_ref().map(|bucket| bucket.load(Ordering::Acquire)),
            sum_nanos: self.sum_nanos.load(Ordering::Relaxed),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A snapshot of a histogram of durations. For each of its 19 bounds, from 50 µs to 50 s, it counts
/// the durations up to that bound.
///
/// [`Stats::fetch_durations`](crate::Stats::fetch_durations) returns the histogram of a function's
/// fetches, which are the runs of its body. [`ServerStats::durations`](crate::ServerStats) is the
/// histogram of the requests to a memcached server and their replies.
///
/// ```
/// # use std::time::Duration;
/// # use cached_core::{Cache, coordinator_cached};
/// #[coordinator_cached(name = "histogram_doc", version = edition)]
/// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
///     tokio::time::sleep(Duration::from_millis(3)).await;
///     Ok(format!("course {id}, edition {edition}"))
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let cache = Cache::builder().build().await.unwrap();
/// cache.scope(course(1, 2)).await?;
/// let durations = cache.stats().fetch_durations("histogram_doc").unwrap();
/// assert_eq!(durations.count(), 1);
/// assert!(durations.mean() >= Some(Duration::from_millis(3)));
/// assert!(durations.quantile(0.99) >= Some(Duration::from_millis(2)));
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DurationHistogram {
    buckets: [u64; BUCKET_COUNT],
    sum_nanos: u64,
}

impl DurationHistogram {
    /// Returns the number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the sum of the durations.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_nanos)
    }

    /// Returns the mean of the durations, or `None` if there are none.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        self.sum_nanos.checked_div(self.count()).map(Duration::from_nanos)
    }

    /// Returns the upper bound of each bucket, and the number of durations that are not longer than
    /// the bound. The last bucket has no bound, so its number is the [`count`](Self::count).
    ///
    /// ```
    /// # use std::time::Duration;
    /// let histogram = cached_core::DurationHistogram::default();
    /// let bounds: Vec<_> = histogram.buckets().map(|(bound, _)| bound).collect();
    /// assert_eq!(bounds.len(), 20);
    /// assert_eq!(bounds[0], Some(Duration::from_micros(50)));
    /// assert_eq!(bounds[18], Some(Duration::from_secs(50)));
    /// assert_eq!(bounds[19], None);
    /// ```
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        let bounds = BOUNDS_NANOS.iter().map(|bound| Some(Duration::from_nanos(*bound)));
        bounds.chain([None]).zip(&self.buckets).scan(0, |cumulative, (bound, count)| {
            *cumulative += count;
            Some((bound, *cumulative))
        })
    }

    /// Estimates a quantile: a duration that the given fraction of the recorded durations does not
    /// exceed. For example, 0.5 gives the median. The estimate is in the same bucket as the exact
    /// quantile, so it is wrong by a factor of 2.5 at most. For exact quantiles below 50 µs, the
    /// factor can be larger. If the exact quantile is above 50 s, the estimate is 50 s.
    ///
    /// Returns `None` if there are no durations, or if the fraction is not a number from 0 to 1.
    #[must_use]
    pub fn quantile(&self, fraction: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 || !(0.0..=1.0).contains(&fraction) {
            return None;
        }
        let rank = (fraction * count as f64).max(1.0);
        let mut below = 0;
        let mut lower = 0;
        for (upper, in_bucket) in BOUNDS_NANOS.iter().zip(self.buckets) {
            if in_bucket > 0 && (below + in_bucket) as f64 >= rank {
                let part = (rank - below as f64) / in_bucket as f64;
                let nanos = lower as f64 + part * (upper - lower) as f64;
                return Some(Duration::from_nanos(nanos as u64));
            }
            below += in_bucket;
            lower = *upper;
        }
        Some(Duration::from_nanos(lower))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(millis: &[u64]) -> DurationHistogram {
        let live = LiveHistogram::default();
        millis.iter().for_each(|millis| live.record(Duration::from_millis(*millis)));
        live.read()
    }

    #[test]
    fn bounds_follow_1_2_5_steps() {
        let micros = [50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000];
        let bounds: Vec<u64> = BOUNDS_NANOS.iter().map(|bound| bound / 1_000).collect();
        assert_eq!(bounds[..10], micros);
        assert_eq!(bounds[10..], micros[1..].iter().map(|b| b * 1_000).collect::<Vec<_>>());
    }

    #[test]
    fn each_duration_is_counted_in_one_bucket() {
        let histogram = histogram(&[0, 1, 2, 3, 100_000]);
        assert_eq!((histogram.count(), histogram.sum()), (5, Duration::from_millis(100_006)));
        let at_most = |millis| {
            let bound = Some(Duration::from_millis(millis));
            let found = histogram.buckets().find(|(upper, _)| *upper == bound);
            found.expect("there is such a bound").1
        };
        assert_eq!([1, 2, 5, 50_000].map(at_most), [2, 3, 4, 4]);
        assert_eq!(histogram.buckets().last(), Some((None, 5)));
    }

    #[test]
    fn an_estimated_quantile_is_in_the_right_bucket() {
        let durations: Vec<u64> = (1..=1_000).collect();
        let histogram = histogram(&durations);
        for (fraction, exact) in [(0.001, 1), (0.1, 100), (0.5, 500), (0.9, 900), (1.0, 1_000)] {
            let estimate = histogram.quantile(fraction).expect("there are durations").as_millis();
            let bucket = |millis: u128| {
                let nanos = (millis * 1_000_000) as u64;
                BOUNDS_NANOS.iter().position(|bound| nanos <= *bound)
            };
            assert_eq!(bucket(estimate), bucket(exact), "{fraction}: {estimate} ms");
        }
        assert_eq!(histogram.mean(), Some(Duration::from_micros(500_500)));
    }

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(DurationHistogram::default().quantile(0.5), None);
        assert_eq!(DurationHistogram::default().mean(), None);
        let longest = histogram(&[60_000]);
        assert_eq!(longest.quantile(0.5), Some(Duration::from_secs(50)));
        assert_eq!([-0.1, 1.1, f64::NAN].map(|fraction| longest.quantile(fraction)), [None; 3]);
    }
}
