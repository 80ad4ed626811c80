//! Checks that the broker's cache counts correctly. Five *witnesses* count the same calls: the
//! upstream services, the cache's own counters, two HTTP pages, and the headers that the customers
//! received. After a load test, this module compares their counts.

use crate::broker::http_client;
use cached_core::Cache;
use reqwest::header::HeaderMap;
use serde_json::Value;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// The sums of the counts in all `Cache-Status` headers that the customers have received.
#[derive(Default)]
pub(crate) struct CacheStatusTotals {
    calls: AtomicU64,
    hits: AtomicU64,
    fetches: AtomicU64,
}

impl CacheStatusTotals {
    /// Adds the counts in the header's parameter `detail`, for example `detail="3 calls: 2 local
    /// hits, 1 miss"`.
    pub(crate) fn add(&self, headers: &HeaderMap) {
        let status = headers.get("cache-status").and_then(|status| status.to_str().ok());
        let detail = status.and_then(|status| status.split_once("detail=\""));
        let Some((_, detail)) = detail else { return };
        for part in detail.split([':', ',', '"']) {
            let Some((count, what)) = part.trim().split_once(' ') else { continue };
            let counter = match what {
                "call" | "calls" => &self.calls,
                "miss" | "misses" | "bypassed" => &self.fetches,
                _ if what.ends_with("hit") || what.ends_with("hits") => &self.hits,
                _ => continue,
            };
            counter.fetch_add(count.parse().unwrap_or(0), Ordering::Relaxed);
        }
    }

    fn counts(&self) -> Counts {
        let [calls, hits, fetches] = [&self.calls, &self.hits, &self.fetches]
            .map(|counter| Some(counter.load(Ordering::Relaxed)));
        Counts { calls, hits, fetches }
    }
}

/// The counts of one witness. A count is `None` if the witness cannot know it.
#[derive(Clone, Copy, PartialEq)]
struct Counts {
    calls: Option<u64>,
    hits: Option<u64>,
    fetches: Option<u64>,
}

/// The name of each witness, with its counts.
pub(crate) struct CountsByWitness(Vec<(&'static str, Counts)>);

impl CountsByWitness {
    /// Asks every witness. `upstream` is the number of fetches that the upstream services have
    /// counted.
    ///
    /// # Errors
    /// Returns an error if the broker at this address does not answer.
    pub(crate) async fn collect(
        address: &str,
        cache: &Cache,
        upstream: u64,
        headers: &CacheStatusTotals,
    ) -> Result<CountsByWitness, String> {
        let total = cache.stats().total();
        let counters = (Some(total.calls()), Some(total.hits()), Some(total.fetches));
        let page: Value = serde_json::from_str(&read(address, "/_cache/api/caches").await?)
            .map_err(|error| format!("/_cache/api/caches: {error}"))?;
        let on_page = |name: &str| page["total"]["counters"][name].as_u64();
        let page_hits = ["request_hits", "local_hits", "remote_hits"].map(on_page);
        let page_hits = page_hits.into_iter().sum();
        let metrics = read(address, "/metrics").await?;
        let sum = |name: &str, labels: &str| {
            let lines = metrics.lines().filter(|line| line.starts_with(name));
            let values = lines.filter(|line| line.contains(labels)).filter_map(|line| {
                line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok())
            });
            Some(values.sum::<f64>() as u64)
        };
        let scraped = (
            sum("cache_gets_total{", ""),
            sum("cache_gets_total{", "result=\"hit\""),
            sum("cache_fetches_total{", ""),
        );
        let counts = |(calls, hits, fetches)| Counts { calls, hits, fetches };
        Ok(CountsByWitness(vec![
            ("the upstream services", counts((None, None, Some(upstream)))),
            ("the counters of the cache", counts(counters)),
            ("/metrics", counts(scraped)),
            (
                "the page /_cache",
                counts((page["total"]["calls"].as_u64(), page_hits, on_page("fetches"))),
            ),
            ("the headers Cache-Status", headers.counts()),
        ]))
    }

    /// Returns true if all witnesses that know a count have the same number for it.
    pub(crate) fn is_unanimous(&self) -> bool {
        let agree = |figure: fn(&Counts) -> Option<u64>| {
            let mut known = self.0.iter().filter_map(|(_, counts)| figure(counts));
            known.next().is_some_and(|first| known.all(|other| other == first))
        };
        agree(|counts| counts.calls)
            && agree(|counts| counts.hits)
            && agree(|counts| counts.fetches)
    }
}

/// Gets this path from the broker, and returns the response's body.
async fn read(address: &str, path: &str) -> Result<String, String> {
    let failed = |error: reqwest::Error| format!("{path}: {error}");
    let answer = http_client().get(format!("http://{address}{path}")).send().await;
    let answer = answer.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    answer.text().await.map_err(failed)
}

impl fmt::Display for CountsByWitness {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:28}{:>12}{:>12}{:>12}", "who counted", "calls", "hits", "fetches")?;
        for (name, Counts { calls, hits, fetches }) in &self.0 {
            write!(out, "\n{name:28}")?;
            for count in [calls, hits, fetches] {
                let count = count.map_or_else(|| "-".to_owned(), |count| count.to_string());
                write!(out, "{count:>12}")?;
            }
        }
        let verdict = if self.is_unanimous() { "All agree." } else { "They do not agree." };
        write!(out, "\n{verdict}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn headers_are_added_up() {
        let counts = CacheStatusTotals::default();
        for header in [
            "broker; fwd=miss; stored; detail=\"3 calls: 2 local hits, 1 miss\"",
            "broker; hit; ttl=5; detail=\"1 call: 1 request hit\"",
            "broker; fwd=miss; collapsed; detail=\"2 calls: 1 remote hit, 1 waited\"",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("cache-status", HeaderValue::from_static(header));
            counts.add(&headers);
        }
        counts.add(&HeaderMap::new());
        let expected = Counts { calls: Some(6), hits: Some(4), fetches: Some(1) };
        assert!(counts.counts() == expected);
    }

    #[test]
    fn one_witness_with_another_figure_is_noticed() {
        let counts = |calls, fetches| Counts { calls, hits: Some(1), fetches };
        let two = |first, second| CountsByWitness(vec![("a", first), ("b", second)]);
        let agreement = two(counts(None, Some(3)), counts(Some(4), Some(3)));
        assert!(agreement.is_unanimous(), "{agreement}");
        let agreement = two(counts(None, Some(3)), counts(Some(4), Some(2)));
        assert!(!agreement.is_unanimous() && agreement.to_string().ends_with("They do not agree."));
    }
}
