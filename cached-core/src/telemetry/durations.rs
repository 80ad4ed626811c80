//! Records the histograms `cache.fetch.duration` and `db.client.operation.duration` with the crate
//! `metrics`.
//!
//! The recorders of `metrics` cannot set a whole histogram at once, so each duration is recorded
//! when it is known. `cache/metrics.rs` publishes the counters and gauges.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
#[cfg(feature = "memcached")]
use std::time::Instant;

use metrics::{Label, SharedString};

use crate::event::{Event, FetchOutcome};
use crate::unwind::catch_panic;

/// The name of the histogram for fetches.
pub(crate) const FETCH_DURATION: &str = "cache.fetch.duration";
/// The name of the histogram for exchanges with memcached. OpenTelemetry defines this name.
pub(crate) const EXCHANGE_DURATION: &str = "db.client.operation.duration";

/// The labels that all metrics of one cache have.
#[derive(Clone)]
pub(crate) struct CacheLabels {
    namespace: Option<Arc<str>>,
}

impl CacheLabels {
    pub(crate) fn new(namespace: Option<&Arc<str>>) -> CacheLabels {
        CacheLabels { namespace: namespace.cloned() }
    }

    /// Returns `labels`, and adds the cache's namespace if the cache has one. The namespace keeps
    /// the metrics of several caches in a process apart.
    pub(crate) fn with<const N: usize>(
        &self,
        labels: [(&'static str, &'static str); N],
    ) -> Vec<Label> {
        let mut all = Vec::with_capacity(N + 1);
        all.extend(labels.map(|(name, value)| Label::from_static_parts(name, value)));
        if let Some(namespace) = &self.namespace {
            let namespace = SharedString::from(Arc::clone(namespace));
            all.push(Label::new("cache.namespace", namespace));
        }
        all
    }

    /// Records the fetch's duration, if the event is the end of a fetch.
    #[inline]
    pub(crate) fn record(&self, event: &Event<'_>) {
        if let Event::FetchEnded { entry, outcome, took, .. } = event {
            let outcome = match outcome {
                FetchOutcome::Value => "value",
                FetchOutcome::Error => "error",
            };
            let labels = || self.with([("cache", entry.name()), ("outcome", outcome)]);
            record(FETCH_DURATION, labels, *took);
        }
    }
}

fn record(histogram: &'static str, labels: impl FnOnce() -> Vec<Label>, took: Duration) {
    catch_recorder_panic(|| {
        metrics::histogram!(histogram, labels()).record(took.as_secs_f64());
    });
}

/// Runs code of the program's recorder. A panic of the recorder must not reach the call that is
/// measured. The first panic in the process is logged.
pub(crate) fn catch_recorder_panic(run: impl FnOnce()) {
    static HAS_PANICKED: AtomicBool = AtomicBool::new(false);
    if catch_panic(run).is_none() && !HAS_PANICKED.swap(true, Ordering::Relaxed) {
        super::write_line!(
            warn,
            "the recorder of the crate `metrics` has panicked; its later panics are not logged"
        );
    }
}

/// Measures one exchange with memcached.
#[cfg(feature = "memcached")]
pub(super) struct ExchangeTimer {
    began: Instant,
    address: Arc<str>,
    operation: &'static str,
}

#[cfg(feature = "memcached")]
impl ExchangeTimer {
    #[inline]
    pub(super) fn start(subject: super::ExchangeSubject<'_>) -> ExchangeTimer {
        let super::ExchangeSubject { address, operation, .. } = subject;
        ExchangeTimer { began: Instant::now(), address: Arc::clone(address), operation }
    }

    /// Records the duration of the exchange. `error` is the value of the label `error.type`, or
    /// `None` if the exchange succeeded.
    pub(super) fn end(self, error: Option<&'static str>) {
        let took = self.began.elapsed();
        let labels = || {
            let mut labels = server_labels(&self.address);
            labels.push(Label::from_static_parts("db.system.name", "memcached"));
            labels.push(Label::from_static_parts("db.operation.name", self.operation));
            labels.extend(error.map(|kind| Label::from_static_parts("error.type", kind)));
            labels
        };
        record(EXCHANGE_DURATION, labels, took);
    }
}

/// Returns the labels `server.address` and `server.port` of a server.
#[cfg(feature = "memcached")]
pub(crate) fn server_labels(address: &str) -> Vec<Label> {
    let (host, port) = super::exchange::host_and_port(address);
    let mut labels = Vec::with_capacity(5);
    labels.push(Label::new("server.address", host.to_owned()));
    labels.extend(port.map(|port| Label::new("server.port", port.to_string())));
    labels
}
