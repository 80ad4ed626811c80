//! Tests the feature `metrics`. The output of a Prometheus exporter must agree with the number of
//! fetches that the upstream counted, and with the state of memcached.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Memcached, Scrape, Upstream, UpstreamDown, poll_once};
use metrics::{Key, KeyName, Metadata, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::functions::new_process_cache;

#[coordinator_cached(name = "measured", version = edition, skip(upstream), entry = measured_entry)]
async fn measured(upstream: &Upstream, id: u32, edition: u8) -> Result<String, UpstreamDown> {
    Ok(format!("course {id}, edition {edition}, fetch {}", upstream.fetch().await?))
}

#[coordinator_cached(
    name = "measured_title",
    overwrite(reason = "a title has no version of its own"),
    skip(upstream),
    entry = measured_title_entry
)]
async fn measured_title(upstream: &Upstream, id: u32) -> Result<String, UpstreamDown> {
    Ok(format!("course {id}, fetch {}", upstream.fetch().await?))
}

fn recorder() -> PrometheusRecorder {
    PrometheusBuilder::new().with_recommended_naming(true).build_recorder()
}

fn scrape(cache: &Cache, prometheus: &PrometheusHandle) -> Scrape {
    cache.publish_metrics();
    Scrape::read(&prometheus.render())
}

/// Returns the metric's counts for these values of a label, in the same order.
fn counts<const N: usize>(
    scrape: &Scrape,
    metric: &str,
    cache: &str,
    label: &str,
    values: [&str; N],
) -> [u64; N] {
    values.map(|value| {
        let count = scrape.sum(metric, &[("cache", cache), (label, value)]);
        count.unwrap_or_else(|| panic!("{metric} has {label}={value}: {scrape:?}")) as u64
    })
}

#[tokio::test]
async fn the_exporter_agrees_with_the_upstream() {
    let memcached = Memcached::start();
    let recorder = recorder();
    let prometheus = recorder.handle();
    // This recorder is for the current thread only. The runtime of this test has no other thread,
    // so the recorder misses nothing.
    let _guard = metrics::set_default_local_recorder(&recorder);
    let upstream = Upstream::default().taking_millis(2);
    let (cache, other) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);

    // `other` stands for another process. It fetches ten values, which `cache` then reads from
    // memcached.
    for id in 0..10 {
        other.scope(measured(&upstream, id, 1)).await.expect("the upstream answers");
    }
    other.flush().await;
    let mut calls = 0;
    for id in 0..30 {
        for _ in 0..4 {
            cache.scope(measured(&upstream, id, 1)).await.expect("the upstream answers");
            calls += 1;
        }
    }
    // Five calls share one fetch.
    let shared = || cache.scope(measured(&upstream, 100, 1));
    let _ = tokio::join!(shared(), shared(), shared(), shared(), shared());
    calls += 5;
    // One fetch fails, and one call is dropped while it fetches.
    upstream.fail();
    cache.scope(measured(&upstream, 101, 1)).await.expect_err("the upstream is down");
    upstream.recover();
    {
        let mut call = pin!(cache.scope(measured(&upstream, 102, 1)));
        while upstream.fetches() < 33 {
            assert!(poll_once(call.as_mut()).await.is_none());
            tokio::task::yield_now().await;
        }
    }
    calls += 2;
    cache.flush().await;
    let fetches = upstream.fetches() as u64 - 10;
    assert_eq!(fetches, 20 + 1 + 1 + 1);

    let scraped = scrape(&cache, &prometheus);
    let gets = |results| counts(&scraped, "cache_gets_total", "measured", "result", results);
    let tiers = counts(&scraped, "cache_gets_total", "measured", "tier", ["local", "remote"]);
    assert_eq!(tiers, [30 * 3, 10]);
    assert_eq!(gets(["miss", "wait", "cancelled", "stale", "bypass"]), [20 + 1 + 1, 4, 1, 0, 0]);
    let total = scraped.sum("cache_gets_total", &[("cache", "measured")]);
    assert_eq!(total, Some(f64::from(calls)), "each call is counted once");

    let outcomes = ["value", "error", "cancelled", "bypass"];
    let fetched = counts(&scraped, "cache_fetches_total", "measured", "outcome", outcomes);
    assert_eq!(fetched, [21, 1, 1, 0]);
    assert_eq!(fetched.iter().sum::<u64>(), fetches);
    let durations = |outcome| {
        scraped.sum(
            "cache_fetch_duration_seconds_count",
            &[("cache", "measured"), ("outcome", outcome)],
        )
    };
    // The counts above are the counts of `cache` alone. The histogram covers both caches: `other`
    // fetched 10 values, and `cache` fetched 21.
    assert_eq!((durations("value"), durations("error")), (Some(31.0), Some(1.0)));
    let seconds = scraped.sum("cache_fetch_duration_seconds_sum", &[("cache", "measured")]);
    assert!(seconds.is_some_and(|sum| (32.0 * 0.002..5.0).contains(&sum)), "{seconds:?}");

    let fills = counts(&scraped, "cache_fills_total", "measured", "outcome", ["stored", "failed"]);
    assert_eq!(fills, [21, 0]);
    // A *lease* is the right to fetch. The fetch that failed and the fetch that was dropped had
    // each won a lease too.
    let leases = counts(&scraped, "cache_leases_total", "measured", "outcome", ["won", "busy"]);
    assert_eq!(leases, [23, 0]);
    assert_eq!(scraped.sum("cache_entries", &[]), Some(31.0));
    assert!(scraped.sum("cache_size_bytes", &[]) > Some(31.0 * 500.0));

    let port = memcached.port().to_string();
    let server = [("server_address", "127.0.0.1"), ("server_port", &*port)];
    assert_eq!(scraped.sum("cache_server_up", &server), Some(1.0));
    let gets = scraped.sum(
        "db_client_operation_duration_seconds_count",
        &[server[0], server[1], ("db_operation_name", "get"), ("db_system_name", "memcached")],
    );
    // `other` makes ten reads, and `cache` makes one read for each of its 33 keys.
    assert_eq!(gets, Some(10.0 + 33.0));
}

#[tokio::test]
async fn changes_evictions_and_outages_are_published() {
    let mut memcached = Memcached::start();
    let recorder = recorder();
    let prometheus = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let upstream = Upstream::default();
    let cache = new_process_cache(&memcached).await;
    cache
        .scope(async {
            measured_title(&upstream, 1).await.expect("the upstream answers");
            let entry = measured_title_entry(1);
            entry.overwrite("Rust".to_owned()).await.expect("memcached answers");
            entry.invalidate().await.expect("memcached answers");
        })
        .await;
    let scraped = scrape(&cache, &prometheus);
    let of = [("cache", "measured_title"), ("cache_namespace", "test")];
    assert_eq!(scraped.sum("cache_overwrites_total", &of), Some(1.0));
    assert_eq!(scraped.sum("cache_invalidations_total", &of), Some(1.0));
    let causes = ["invalidated", "size", "expired", "replaced", "cleared"];
    let evicted = counts(&scraped, "cache_evictions_total", "measured_title", "cause", causes);
    assert!(evicted[0] >= 1 && evicted[1..] == [0, 0, 0, 0], "{evicted:?}");

    memcached.kill();
    for id in 10..20 {
        cache.scope(measured_title(&upstream, id)).await.expect("the upstream answers");
    }
    let scraped = scrape(&cache, &prometheus);
    assert_eq!(scraped.sum("cache_server_up", &[]), Some(0.0));
    assert_eq!(scraped.sum("cache_server_ejections_total", &[]), Some(1.0));
    let failed = [("error_type", "unreachable")];
    let failed = scraped.sum("db_client_operation_duration_seconds_count", &failed);
    assert!(failed > Some(0.0), "{failed:?}");
}

#[tokio::test]
async fn no_metric_shows_a_key() {
    let memcached = Memcached::start();
    let recorder = recorder();
    let prometheus = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let upstream = Upstream::default();
    let cache = new_process_cache(&memcached).await;
    cache.scope(measured(&upstream, 471_147, 1)).await.expect("the upstream answers");
    cache.flush().await;
    cache.publish_metrics();
    let text = prometheus.render();
    let digest = cache.scope(async { measured_entry(471_147, 1).key().digest().to_string() }).await;
    assert!(text.contains("cache_gets_total") && text.contains("db_client_operation"), "{text}");
    assert!(!text.contains("471147") && !text.contains(&digest[..8]), "{text}");
}

fn publisher_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux lists the threads");
    // A thread can end while the test reads the thread's name.
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "cached-metrics").count()
}

#[tokio::test]
async fn a_publisher_ends_with_guard_or_cache() {
    let prometheus = PrometheusBuilder::new().with_recommended_naming(true);
    let prometheus = prometheus.install_recorder().expect("the process has no other recorder");
    let builder = Cache::builder().namespace("published");
    let cache = builder.build().await.expect("the settings are valid");
    let interval = Duration::from_millis(10);
    let publisher = cache.publish_metrics_every(interval).expect("a thread can be started");
    let upstream = Upstream::default();
    let misses = || {
        let labels = [("cache", "measured"), ("result", "miss"), ("cache_namespace", "published")];
        Scrape::read(&prometheus.render()).sum("cache_gets_total", &labels).unwrap_or(0.0)
    };
    let wait_until = |is_so: &dyn Fn() -> bool| {
        let give_up = Instant::now() + Duration::from_secs(10);
        while !is_so() {
            assert!(Instant::now() < give_up, "the condition holds within ten seconds");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    cache.scope(measured(&upstream, 1, 1)).await.expect("the upstream answers");
    wait_until(&|| misses() == 1.0);

    drop(publisher);
    wait_until(&|| publisher_threads() == 0);
    cache.scope(measured(&upstream, 2, 1)).await.expect("the upstream answers");
    assert_eq!(misses(), 1.0, "nothing is published any more");

    cache.publish_metrics_every(interval).expect("a thread can be started").detach();
    wait_until(&|| misses() == 2.0);
    assert_eq!(publisher_threads(), 1);
    drop(cache);
    wait_until(&|| publisher_threads() == 0);
}

/// A recorder whose histograms panic.
struct PanickingRecorder;

impl metrics::HistogramFn for PanickingRecorder {
    fn record(&self, _: f64) {
        std::panic::resume_unwind(Box::new("the recorder panics"));
    }
}

impl metrics::Recorder for PanickingRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> metrics::Counter {
        metrics::Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::from_arc(Arc::new(PanickingRecorder))
    }
}

#[tokio::test]
async fn a_panicking_recorder_harms_no_call() {
    let memcached = Memcached::start();
    let (cache, upstream) = (new_process_cache(&memcached).await, Upstream::default());
    let _guard = metrics::set_default_local_recorder(&PanickingRecorder);
    let shared = || cache.scope(measured(&upstream, 1, 1));
    let answers = tokio::join!(shared(), shared(), shared());
    assert!(answers.0.is_ok() && answers.1.is_ok() && answers.2.is_ok());
    cache.flush().await;
    let again = new_process_cache(&memcached).await;
    again.scope(measured(&upstream, 1, 1)).await.expect("memcached answers");
    assert_eq!(upstream.fetches(), 1);
}

/// A published counter can only rise: the method `Counter::absolute` ignores a lower count. So a
/// count that is published too high once would stay too high.
#[test]
fn failed_fetches_are_never_published_as_values() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("the runtime starts");
    let cache = runtime.block_on(async { Cache::builder().build().await });
    let cache = cache.expect("the settings are valid");
    let upstream = Upstream::default();
    upstream.fail();
    for task in 0..2 {
        let upstream = upstream.clone();
        runtime.spawn(cache.scope(async move {
            loop {
                let _ = measured(&upstream, task, 1).await;
                tokio::task::yield_now().await;
            }
        }));
    }
    let give_up = Instant::now() + Duration::from_millis(500);
    while Instant::now() < give_up {
        let stats = cache.stats();
        let ended = stats.fetch_durations("measured").expect("the function is declared").count();
        let errors = stats.get("measured").expect("the function is declared").fetch_errors;
        assert!(errors >= ended, "{ended} fetches have ended, {errors} with an error");
    }
    runtime.shutdown_background();
    assert!(upstream.fetches() > 100, "there is a load");
}
