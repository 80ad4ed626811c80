//! Publishes the counters and gauges of a cache through the crate `metrics`.
//!
//! The cache has counters of its own, so metrics add no cost to a hit. [`Cache::publish_metrics`]
//! copies the counters to the recorder. `telemetry/durations.rs` records the two histograms: the
//! durations of fetches, and of exchanges with memcached.

use std::convert::Infallible;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};

use super::{Cache, CacheInner};
use crate::stats::DeclarationStats;
#[cfg(feature = "memcached")]
use crate::stats::{ServerState, ServerStats};
#[cfg(feature = "memcached")]
use crate::telemetry::durations::server_labels;
use crate::telemetry::durations::{
    CacheLabels, EXCHANGE_DURATION, FETCH_DURATION, catch_recorder_panic,
};

/// [`Cache::publish_metrics_every`] raises a shorter interval to this one.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
/// How often the publishing thread checks, while it waits, whether its cache still exists.
const LIFE_POLL_INTERVAL: Duration = Duration::from_secs(1);

impl Cache {
    /// Copies the counters and gauges of this cache to the recorder of the crate `metrics`.
    ///
    /// Call this method before each scrape, or use
    /// [`publish_metrics_every`](Self::publish_metrics_every). It can be called often and from
    /// several threads, because it sets each counter to its total instead of adding to it.
    /// Histograms do not need this method: each fetch and each memcached exchange records its
    /// duration when it ends. The [guide](crate::guide::telemetry) lists all names and labels. No
    /// label contains a key.
    ///
    /// If the cache has a namespace, each metric of its functions and entries has the label
    /// `cache.namespace`. Publishing never lowers a counter. If two caches of a process have the
    /// same namespace or none, each counter shows the larger of their values. This also holds if
    /// the second cache is built after the first one was dropped.
    ///
    /// The method blocks while it sets a few dozen values for each annotated function. Without a
    /// recorder it does nothing. A panic of the recorder reaches the caller of this method.
    ///
    /// The method needs the feature `metrics`.
    ///
    /// ```
    /// # use cached_core::{Cache, coordinator_cached};
    /// # use metrics_exporter_prometheus::PrometheusBuilder;
    /// #[coordinator_cached(name = "publish_doc", version = edition)]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let builder = PrometheusBuilder::new().with_recommended_naming(true);
    /// let prometheus = builder.install_recorder().unwrap(); // in `main`
    /// let cache = Cache::builder().build().await.unwrap();
    /// cache.scope(course(1, 2)).await?;
    ///
    /// cache.publish_metrics(); // in the handler of `/metrics`
    /// let text = prometheus.render();
    /// let misses = "cache_gets_total{cache=\"publish_doc\",tier=\"none\",result=\"miss\"} 1";
    /// assert!(text.contains(misses), "{text}");
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
    pub fn publish_metrics(&self) {
        describe();
        let labels = CacheLabels::new(self.inner.config.namespace.as_ref());
        let stats = self.stats();
        for (name, counters) in stats.iter() {
            let ended = stats.fetch_durations(name).map_or(0, |durations| durations.count());
            publish_function(&labels, name, &counters, ended);
        }
        let local = stats.local();
        let set = |name: &'static str, value: u64| {
            gauge!(name, labels.with([])).set(value as f64);
        };
        set("cache.entries", local.entries);
        set("cache.size", local.bytes);
        set("cache.capacity", local.capacity);
        #[cfg(feature = "memcached")]
        self.servers().iter().for_each(publish_server);
    }

    /// Starts a thread that calls [`publish_metrics`](Self::publish_metrics) at once, and then once
    /// in each interval. An interval below 10 ms counts as 10 ms.
    ///
    /// The thread ends when the returned [`MetricsPublisher`] is dropped, or within a second after
    /// all clones of the cache are dropped. A panic of the recorder is caught. A slow recorder
    /// delays no task, because the thread is not part of an async runtime. The thread uses the
    /// global recorder, and not a recorder of `metrics::with_local_recorder`. After a `fork`, the
    /// child process does not have the thread.
    ///
    /// The method needs the feature `metrics`.
    ///
    /// # Errors
    /// Returns an error if the operating system cannot start a thread.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = cached_core::Cache::builder().build().await.unwrap();
    /// let publisher = cache.publish_metrics_every(Duration::from_secs(10))?;
    /// // … the program runs …
    /// drop(publisher);
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
    pub fn publish_metrics_every(&self, interval: Duration) -> io::Result<MetricsPublisher> {
        let interval = interval.max(SHORTEST_INTERVAL);
        let cache: Weak<CacheInner> = Arc::downgrade(&self.inner);
        let (stop, stopped) = channel();
        thread::Builder::new().name("cached-metrics".into()).spawn(move || {
            let is_alive = || cache.strong_count() > 0;
            while let Some(inner) = cache.upgrade() {
                catch_recorder_panic(|| Cache { inner }.publish_metrics());
                if !wait(&stopped, interval, is_alive) {
                    return;
                }
            }
        })?;
        Ok(MetricsPublisher { stop })
    }
}

/// Waits for the interval, and returns true. Returns false early if the sender of `stopped` is
/// dropped, or if `is_alive` returns false.
fn wait(stopped: &Receiver<Infallible>, interval: Duration, is_alive: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while let Some(left) = interval.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
        if stopped.recv_timeout(left.min(LIFE_POLL_INTERVAL)) != Err(RecvTimeoutError::Timeout)
            || !is_alive()
        {
            return false;
        }
    }
    true
}

/// The handle of a thread that publishes the metrics of a cache. Dropping this value ends the
/// thread.
///
/// [`Cache::publish_metrics_every`] returns this type.
#[must_use = "the metrics are published only until this value is dropped"]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub struct MetricsPublisher {
    /// The thread ends when this sender is dropped.
    stop: Sender<Infallible>,
}

impl MetricsPublisher {
    /// Lets the thread run until all clones of the cache are dropped.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = cached_core::Cache::builder().build().await.unwrap();
    /// cache.publish_metrics_every(Duration::from_secs(10))?.detach();
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn detach(self) {
        std::mem::forget(self.stop);
    }
}

impl fmt::Debug for MetricsPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsPublisher").finish_non_exhaustive()
    }
}

/// Sets the counters of one annotated function. A fetch is a run of the function's body, and
/// `ended` counts the fetches that returned.
fn publish_function(
    labels: &CacheLabels,
    name: &'static str,
    counters: &DeclarationStats,
    ended: u64,
) {
    let gets = [
        ("request", "hit", counters.request_hits),
        ("local", "hit", counters.local_hits),
        ("remote", "hit", counters.remote_hits),
        ("none", "wait", counters.waits),
        ("none", "miss", counters.misses),
        ("none", "stale", counters.stale_answers),
        ("none", "paused", counters.paused_answers),
        ("none", "bypass", counters.bypassed),
        ("none", "cancelled", counters.cancelled),
    ];
    for (tier, result, count) in gets {
        let labels = labels.with([("cache", name), ("tier", tier), ("result", result)]);
        counter!("cache.gets", labels).absolute(count);
    }
    let set = |metric: &'static str, label: &'static str, counts: &[(&'static str, u64)]| {
        for (value, count) in counts {
            let labels = labels.with([("cache", name), (label, value)]);
            counter!(metric, labels).absolute(*count);
        }
    };
    let fetches = [
        ("value", ended.saturating_sub(counters.fetch_errors)),
        ("error", counters.fetch_errors),
        ("bypass", counters.bypassed),
        ("cancelled", counters.fetches_cancelled),
    ];
    set("cache.fetches", "outcome", &fetches);
    let fills = [
        ("stored", counters.fills),
        ("queue_full", counters.fills_queue_full),
        ("not_storable", counters.fills_not_storable),
        ("ttl_too_short", counters.fills_ttl_too_short),
        ("overtaken", counters.fills_overtaken),
        ("failed", counters.fills_failed),
    ];
    set("cache.fills", "outcome", &fills);
    let leases = [
        ("won", counters.leases_won),
        ("busy", counters.leases_busy),
        ("timeout", counters.lease_timeouts),
    ];
    set("cache.leases", "outcome", &leases);
    let evictions = [
        ("size", counters.evictions_size),
        ("expired", counters.evictions_expired),
        ("replaced", counters.evictions_replaced),
        ("invalidated", counters.evictions_invalidated),
        ("cleared", counters.evictions_cleared),
    ];
    set("cache.evictions", "cause", &evictions);
    for (metric, count) in [
        ("cache.refreshes", counters.refreshes),
        ("cache.invalidations", counters.invalidations),
        ("cache.overwrites", counters.overwrites),
    ] {
        counter!(metric, labels.with([("cache", name)])).absolute(count);
    }
}

/// Sets the gauge and the counter of one memcached server.
#[cfg(feature = "memcached")]
fn publish_server(server: &ServerStats) {
    let labels = server_labels(&server.address);
    let is_up = f64::from(u8::from(server.state == ServerState::Up));
    gauge!("cache.server.up", labels.clone()).set(is_up);
    counter!("cache.server.ejections", labels).absolute(server.ejections);
}

/// Describes every metric to the recorder. Each publication does this again, because the program
/// may have changed the recorder since the last one.
fn describe() {
    describe_counter!("cache.gets", Unit::Count, "Calls, by the tier and the way of their answer");
    describe_counter!("cache.fetches", Unit::Count, "Runs of the functions' bodies");
    describe_counter!("cache.fills", Unit::Count, "Fetched values that were to go to memcached");
    describe_counter!("cache.leases", Unit::Count, "Leases that calls asked memcached for");
    describe_counter!("cache.evictions", Unit::Count, "Entries that left the local tier");
    describe_counter!("cache.refreshes", Unit::Count, "Fetches in the background");
    describe_counter!("cache.invalidations", Unit::Count, "Entries that were invalidated");
    describe_counter!("cache.overwrites", Unit::Count, "Entries that were overwritten");
    describe_counter!("cache.server.ejections", Unit::Count, "Times that a server was taken out");
    describe_gauge!("cache.entries", Unit::Count, "Entries of the local tier");
    describe_gauge!("cache.size", Unit::Bytes, "Memory of the local tier's entries");
    describe_gauge!("cache.capacity", Unit::Bytes, "Memory that the local tier may take");
    describe_gauge!("cache.server.up", Unit::Count, "1 if calls use the server, otherwise 0");
    describe_histogram!(FETCH_DURATION, Unit::Seconds, "Duration of fetches");
    describe_histogram!(EXCHANGE_DURATION, Unit::Seconds, "Duration of exchanges with memcached");
}
