//! Finds functions that are not worth caching, from their counters.

use std::time::Duration;

use super::Cache;
use crate::declaration::{Declaration, Finding, Ledger};
use crate::stats::{DeclarationStats, DurationHistogram, Stats};

/// A function can count as rarely called only if the cache is at least this old.
const MIN_WATCHED: Duration = Duration::from_secs(60 * 60);
/// A function is rarely called if it is called less than once in this time, on average.
const LONGEST_BETWEEN_CALLS: Duration = Duration::from_secs(60);
/// A hit rate is judged only after this many calls.
const MIN_CALLS: u64 = 1_000;
/// A function is worth caching if at least this percentage of its calls need no fetch.
const MIN_HIT_PERCENT: u64 = 10;
/// Fetches and exchanges with memcached are compared only if there are at least this many of each.
const MIN_DURATIONS: u64 = 100;

impl Ledger {
    /// Returns the functions for which caching saves little, judged by the counters of `cache`
    /// since it was built. Each finding contains its figures, and its `Display` says what to do.
    ///
    /// | finding | condition | not judged before |
    /// |---|---|---|
    /// | [`Finding::FewCalls`] | fewer than one call a minute | the cache is an hour old |
    /// | [`Finding::LowHitRate`] | fewer than 10 % of the calls were answered without a fetch of their own | 1,000 calls |
    /// | [`Finding::CheapFetch`] | nine of ten fetches take no longer than the median exchange with memcached | 100 fetches and 100 exchanges with each server |
    ///
    /// Calls that bypassed the cache or were dropped do not count for the hit rate. A cache that is
    /// off has no findings. The figures are of this process only. A function that seems rarely
    /// called here may be called often on all machines together.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cached_core::{coordinator_cached, ledger, Finding, testing::TestCache};
    /// #[coordinator_cached(name = "worth_doc", version = edition)]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let test = TestCache::local();
    /// test.run(course(1, 2)).await?;
    /// assert!(ledger().not_worth_caching(test.cache()).is_empty());
    ///
    /// test.advance(Duration::from_secs(2 * 60 * 60));
    /// let findings = ledger().not_worth_caching(test.cache());
    /// let course = findings.iter().find(|finding| finding.to_string().contains("worth_doc"));
    /// assert!(matches!(course, Some(Finding::FewCalls { calls: 1, .. })));
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn not_worth_caching(&self, cache: &Cache) -> Vec<Finding> {
        if !cache.is_enabled() {
            return Vec::new();
        }
        let stats = cache.stats();
        let watched = cache.config().clock.now().saturating_duration_since(cache.inner.built);
        let exchange = typical_exchange(cache);
        let judge = |declaration| judge(declaration, &stats, watched, exchange);
        self.iter().flat_map(judge).collect()
    }
}

/// Returns the median duration of an exchange with the fastest memcached server. Returns `None` if
/// there is no server, or if any server has had too few exchanges.
fn typical_exchange(cache: &Cache) -> Option<Duration> {
    let medians = cache.servers().into_iter().map(|server| quantile(server.durations, 0.5));
    medians.collect::<Option<Vec<_>>>()?.into_iter().min()
}

fn quantile(durations: DurationHistogram, fraction: f64) -> Option<Duration> {
    (durations.count() >= MIN_DURATIONS).then(|| durations.quantile(fraction))?
}

/// Returns the findings about one function. `exchange` is the duration of a typical exchange with
/// memcached.
fn judge(
    declaration: &Declaration,
    stats: &Stats,
    watched: Duration,
    exchange: Option<Duration>,
) -> Vec<Finding> {
    // Functions that are not cached have no counters. `audit` reports such functions.
    let Some(counters) = stats.get(declaration.name()) else { return Vec::new() };
    let (name, function, place) = (declaration.name(), declaration.function(), declaration.place());
    let mut findings = Vec::new();

    let calls = counters.calls();
    if watched >= MIN_WATCHED && is_rare(calls, watched) {
        let place = place.clone();
        findings.push(Finding::FewCalls { name, function, place, calls, watched });
    }
    let (calls, saved) = judged_calls(&counters);
    if calls >= MIN_CALLS && saved * 100 < calls * MIN_HIT_PERCENT {
        let place = place.clone();
        findings.push(Finding::LowHitRate { name, function, place, calls, saved });
    }
    let fetch = stats.fetch_durations(name).and_then(|fetches| quantile(fetches, 0.9));
    if let (true, Some(fetch), Some(exchange)) = (declaration.uses_remote(), fetch, exchange)
        && fetch <= exchange
    {
        findings.push(Finding::CheapFetch { name, function, place, fetch, exchange });
    }
    findings
}

fn is_rare(calls: u64, watched: Duration) -> bool {
    u128::from(calls) * LONGEST_BETWEEN_CALLS.as_nanos() < watched.as_nanos()
}

/// Returns the number of calls that used the cache and got an answer, and the number of these calls
/// that needed no fetch of their own.
fn judged_calls(counters: &DeclarationStats) -> (u64, u64) {
    let calls = counters.calls().saturating_sub(counters.bypassed + counters.cancelled);
    (calls, calls.saturating_sub(counters.misses))
}
