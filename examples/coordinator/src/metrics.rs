//! The route `/metrics`, which Prometheus scrapes. The folder `monitoring` has a dashboard and
//! alert rules for it.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use cached_core::{Cache, DurationHistogram};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder};
use std::time::Duration;

/// How often the exporter adds up the recorded durations and frees their memory.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Installs the exporter as the metrics recorder of this process, and returns the route `/metrics`.
///
/// # Errors
/// Returns an error if the process already has a recorder.
pub(crate) fn metrics_router(cache: Cache) -> Result<Router, BuildError> {
    // Without buckets, the exporter would print each histogram as a summary. The summaries of
    // several processes cannot be added up.
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
