//! Finds the functions that are not worth caching, by their counters.

use std::time::Duration;

use super::Cache;
use crate::declaration::{Declaration, Finding, Ledger};
use crate::stats::{DeclarationStats, DurationHistogram, Stats};

/// Before a cache is this old, no function counts as rarely called.
const MIN_WATCHED: Duration = Duration::from_secs(60 * 60);
/// A function that is called less often than once in this time is rarely called.
const LONGEST_BETWEEN_CALLS: Duration = Duration::from_secs(60);
/// The hit rate is judged after this number of calls.
const MIN_CALLS: u64 = 1_000;
/// Fewer hits than this in a hundred calls are too few.
const MIN_HIT_PERCENT: u64 = 10;
/// Durations are compared if there are as many of both.
const MIN_DURATIONS: u64 = 100;

impl Ledger {
    /// Returns the functions that do not earn their place in a cache, judged by what has happened in it
    /// since it was built. Each finding has the figures, and its `Display` says what to do.
    ///
    /// | finding | condition | not judged before |
    /// |---|---|---|
    /// | [`Finding::FewCalls`] | fewer than one call a minute | the cache is an hour old |
    /// | [`Finding::LowHitRate`] | fewer than 10 % of the calls were answered without a fetch of their own | 1,000 calls |
    /// | [`Finding::CheapFetch`] | nine fetches of ten take no longer than the median exchange with memcached | 100 fetches and 100 exchanges with each server |
    ///
    /// A call that bypassed the cache, or that its caller dropped, says nothing about the hit rate. A
    /// cache that is off has no findings. The figures are those of this process: where a program runs
    /// on a hundred machines, each of them may have a call a minute.
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

/// Returns the median duration of an exchange with the fastest memcached server. Returns `None` if there
/// is no server, or if one of them has had few exchanges.
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
    // A function that is not cached is a finding of the audit.
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

/// Returns the number of calls that used the cache and were answered, and how many of them were answered
/// without a fetch of their own.
fn judged_calls(counters: &DeclarationStats) -> (u64, u64) {
    let calls = counters.calls().saturating_sub(counters.bypassed + counters.cancelled);
    (calls, calls.saturating_sub(counters.misses))
}
