//! Collects figures as JSON for the console, a web page that shows the state of a cache. The
//! figures are the counters of the cached functions, of the local tier, and of the memcached
//! servers.

use serde_json::{Map, Value, json};

use super::ConsoleState;
use super::history::FunctionSample;
use crate::cache::Cache;
use crate::stats::{DeclarationStats, DurationHistogram, Health, Stats};

/// The counters of one function or of all functions. If they belong to one function, `fetches`
/// holds the durations of its fetches.
struct CallFigures {
    counters: DeclarationStats,
    fetches: Option<DurationHistogram>,
}

impl CallFigures {
    /// Returns the number of calls that got an answer without a fetch of their own. Such an answer
    /// comes from a tier or from another call's fetch. It can also be an earlier fetch's error,
    /// which the option `error_ttl` repeats.
    fn calls_saved(&self) -> u64 {
        let DeclarationStats { waits, paused_answers, .. } = self.counters;
        self.counters.hits() + waits + paused_answers
    }

    fn hit_rate(&self) -> Option<f64> {
        let calls = self.counters.calls();
        (calls > 0).then(|| self.counters.hits() as f64 / calls as f64)
    }

    /// Returns the mean duration of a fetch in seconds.
    fn mean_fetch(&self) -> Option<f64> {
        Some(self.fetches?.mean()?.as_secs_f64())
    }

    /// Returns an estimate, in seconds, of the time that callers saved. The estimate assumes that
    /// each saved call would have taken the mean duration of a fetch.
    fn time_saved(&self) -> Option<f64> {
        Some(self.mean_fetch()? * self.calls_saved() as f64)
    }

    fn report(&self, name: Option<&str>, time_saved: Option<f64>) -> Value {
        let counters = self.counters.counters();
        let counters: Map<String, Value> =
            counters.map(|(name, count)| (name.to_owned(), count.into())).collect();
        json!({
            "name": name,
            "calls": self.counters.calls(),
            "calls_saved": self.calls_saved(),
            "hit_rate": self.hit_rate(),
            "time_saved": time_saved,
            "fetch": self.fetches.as_ref().and_then(durations),
            "counters": counters,
        })
    }
}

fn figures(stats: &Stats) -> impl Iterator<Item = (&'static str, CallFigures)> + '_ {
    stats.iter().map(|(name, counters)| {
        (name, CallFigures { counters, fetches: stats.fetch_durations(name) })
    })
}

/// Returns the number of durations, and their mean and two quantiles in seconds. Returns `None` for
/// an empty histogram.
fn durations(histogram: &DurationHistogram) -> Option<Value> {
    let quantile = |share| histogram.quantile(share).map(|duration| duration.as_secs_f64());
    Some(json!({
        "count": histogram.count(),
        "mean": histogram.mean()?.as_secs_f64(),
        "p50": quantile(0.5),
        "p99": quantile(0.99),
    }))
}

/// Returns the names of all functions. [`FunctionSample::place`] is an index into this list.
pub(super) fn names(cache: &Cache) -> Vec<&'static str> {
    cache.stats().iter().map(|(name, _)| name).collect()
}

/// Returns the current counters of each function that was called.
pub(super) fn sample(cache: &Cache) -> Box<[FunctionSample]> {
    let stats = cache.stats();
    let row = |(place, (_, figures)): (usize, (_, CallFigures))| FunctionSample {
        place: u32::try_from(place).unwrap_or(u32::MAX),
        hits: figures.counters.hits(),
        calls_saved: figures.calls_saved(),
        calls: figures.counters.calls(),
        mean_fetch: figures.mean_fetch().unwrap_or(0.0),
    };
    let called = figures(&stats).enumerate().filter(|(_, (_, one))| one.counters.calls() > 0);
    called.map(row).collect()
}

/// Returns all figures that the console's page polls regularly, except those of the servers.
pub(super) fn report(state: &ConsoleState) -> Value {
    let cache = &state.cache;
    let stats = cache.stats();
    let mut time_saved: Option<f64> = None;
    let caches = figures(&stats).map(|(name, figures)| {
        let saved = figures.time_saved();
        if let Some(saved) = saved {
            *time_saved.get_or_insert(0.0) += saved;
        }
        figures.report(Some(name), saved)
    });
    let caches: Vec<Value> = caches.collect();
    let total = CallFigures { counters: stats.total(), fetches: None };
    json!({
        "instance": state.instance,
        "at": state.age_millis(),
        "enabled": cache.is_enabled(),
        "namespace": cache.config().namespace,
        "searches_entries": cfg!(feature = "memcached"),
        "may_invalidate": state.access.offers_invalidation(),
        "health": health(cache),
        "local": local(&stats),
        "total": total.report(None, time_saved),
        "caches": caches,
    })
}

fn health(cache: &Cache) -> Value {
    let out = match cache.health() {
        Health::Up => Vec::new(),
        Health::Degraded { servers } => servers,
    };
    json!({ "shared": cache.remote().is_some(), "servers": out })
}

fn local(stats: &Stats) -> Value {
    let local = stats.local();
    json!({
        "entries": local.entries,
        "bytes": local.bytes,
        "capacity": local.capacity,
        "evictions": {
            "size": local.evictions_size,
            "expired": local.evictions_expired,
            "replaced": local.evictions_replaced,
            "invalidated": local.evictions_invalidated,
            "cleared": local.evictions_cleared,
        },
    })
}

/// Returns the state and the counters of each memcached server.
pub(super) fn servers(cache: &Cache) -> Vec<Value> {
    let servers = cache.servers().into_iter().map(|server| {
        json!({
            "address": server.address,
            "state": server.state.to_string(),
            "exchanges": server.exchanges,
            "errors": server.errors,
            "timeouts": server.timeouts,
            "ejections": server.ejections,
            "durations": durations(&server.durations),
        })
    });
    servers.collect()
}
