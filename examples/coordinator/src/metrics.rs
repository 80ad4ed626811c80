//! The route `/metrics`, which Prometheus scrapes. The folder `monitoring` has a dashboard and alert
//! rules for it.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use cached_core::{Cache, DurationHistogram};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder};
use std::time::Duration;

/// How often the exporter frees the memory of durations that it has added up.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Installs the exporter as the recorder of this process, and returns its route.
///
/// # Errors
/// Returns an error if the process has another recorder.
pub(crate) fn metrics_router(cache: Cache) -> Result<Router, BuildError> {
    // Without buckets, a histogram would be printed as a summary, which cannot be added up over
    // several brokers.
    let bounds = DurationHistogram::default();
    let bounds: Vec<f64> =
        bounds.buckets().filter_map(|(bound, _)| Some(bound?.as_secs_f64())).collect();
    let exporter = PrometheusBuilder::new()
        // This setting adds `_total` to the name of each counter. If a metric has a unit, the
        // setting adds the unit to the name.
        .with_recommended_naming(true)
        .set_buckets(&bounds)?
        .install_recorder()?;
    let upkeep = exporter.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP_INTERVAL).await;
            upkeep.run_upkeep();
        }
    });
    let scrape = get(async move || {
        cache.publish_metrics();
        ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], exporter.render())
    });
    Ok(Router::new().route("/metrics", scrape))
}
