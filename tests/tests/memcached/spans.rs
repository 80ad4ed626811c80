//! Tests of the spans and events that the library emits with the feature `tracing`.

use std::pin::pin;
use std::time::Duration;

use cached_core::testing::TestCache;
use cached_core::{Cache, coordinator_cached, first_found};
use cached_tests::{
    CollectedSpan, Memcached, SpanCollector, Upstream, UpstreamDown, collect_logs, logged,
    poll_once,
};
use log::Level;
use tracing::{Instrument, info_span};

use crate::functions::{new_process_cache, payment};

/// The function's body opens a span of its own, as an HTTP client does.
#[coordinator_cached(name = "traced", version = edition, skip(upstream), entry = traced_entry)]
async fn traced(upstream: &Upstream, id: u32, edition: u8) -> Result<String, UpstreamDown> {
    async {
        tokio::task::yield_now().await;
        Ok(format!("course {id}, edition {edition}, fetch {}", upstream.fetch().await?))
    }
    .instrument(info_span!("upstream.call"))
    .await
}

#[coordinator_cached(
    name = "traced_rate",
    overwrite(reason = "a rate has no version of its own"),
    ttl = "10m",
    refresh_ahead = "2m",
    skip(upstream)
)]
async fn traced_rate(upstream: Upstream, key: u32) -> Result<usize, UpstreamDown> {
    let _ = key;
    upstream.fetch().await
}

#[coordinator_cached(name = "traced_panic", version = edition)]
async fn traced_panic(edition: u8) -> Result<u8, UpstreamDown> {
    tokio::task::yield_now().await;
    panic!("edition {edition} does not exist");
}

/// Returns the field of a span, or an empty text.
fn field<'s>(span: &'s CollectedSpan, name: &str) -> &'s str {
    span.fields.get(name).map_or("", String::as_str)
}

#[tokio::test]
async fn only_a_miss_has_spans() {
    let memcached = Memcached::start();
    let (spans, _guard) = SpanCollector::install();
    let upstream = Upstream::default().taking_millis(5);
    let call = || traced(&upstream, 7, 1).instrument(info_span!("request"));
    let cache = new_process_cache(&memcached).await;
    cache.scope(call()).await.expect("the upstream answers");

    let fetch = spans.span("cache.fetch");
    assert_eq!(spans.parent(&fetch), Some("request"));
    assert_eq!(spans.parent(&spans.span("upstream.call")), Some("cache.fetch"));
    let digest = cache.scope(async { traced_entry(7, 1).key().digest().to_string() }).await;
    for (name, value) in [
        ("cache.name", "traced"),
        ("cache.key.digest", &*digest),
        ("cache.fetch.reason", "miss"),
        ("cache.outcome", "value"),
        ("otel.kind", "internal"),
    ] {
        assert_eq!(field(&fetch, name), value, "{name}: {fetch:?}");
    }
    assert!(fetch.entered >= 2, "the span is entered for each poll: {fetch:?}");
    assert!(fetch.is_closed, "{fetch:?}");

    let read = spans.span("cache.remote");
    assert_eq!(spans.parent(&read), Some("request"), "the write runs in the background");
    let port = memcached.port().to_string();
    for (name, value) in [
        ("cache.name", "traced"),
        ("cache.key.digest", &*digest),
        ("cache.outcome", "lease_won"),
        ("otel.kind", "client"),
        ("db.system.name", "memcached"),
        ("db.operation.name", "get"),
        ("server.address", "127.0.0.1"),
        ("server.port", &*port),
    ] {
        assert_eq!(field(&read, name), value, "{name}: {read:?}");
    }
    assert!(read.is_closed && !read.fields.contains_key("error.type"), "{read:?}");

    cache.flush().await;
    spans.clear();
    let other = new_process_cache(&memcached).await;
    other.scope(call()).await.expect("the upstream answers");
    assert_eq!(field(&spans.span("cache.remote"), "cache.outcome"), "hit");
    assert!(spans.spans("cache.fetch").is_empty(), "memcached has the value");

    spans.clear();
    for _ in 0..3 {
        other.scope(call()).await.expect("the upstream answers");
    }
    assert_eq!(spans.spans("request").len(), 3);
    assert!(spans.spans("cache.remote").is_empty() && spans.spans("cache.fetch").is_empty());
    assert_eq!(upstream.fetches(), 1);
}

#[tokio::test]
async fn a_change_has_a_span_for_each_exchange() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    let (spans, _guard) = SpanCollector::install();
    let changes = async {
        assert!(traced_entry(8, 1).add("a course".to_owned()).await);
        traced_entry(8, 1).invalidate().await.expect("memcached answers");
    };
    cache.scope(changes.instrument(info_span!("request"))).await;
    let exchanges = spans.spans("cache.remote");
    let operations: Vec<_> =
        exchanges.iter().map(|span| field(span, "db.operation.name")).collect();
    assert_eq!(operations, ["get", "set", "BATCH delete"], "{exchanges:?}");
    assert_eq!(field(&exchanges[2], "db.operation.batch.size"), "2");
    assert!(exchanges.iter().all(|span| spans.parent(span) == Some("request")), "{exchanges:?}");
}

#[tokio::test]
async fn a_batch_of_reads_has_one_span() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    let (spans, _guard) = SpanCollector::install();
    let look = async { first_found([1, 2, 3].map(|edition| traced_entry(9, edition))).await };
    let found = cache.scope(look.instrument(info_span!("request"))).await;
    assert_eq!(found, None);
    let read = spans.span("cache.remote");
    assert_eq!(spans.parent(&read), Some("request"));
    assert_eq!(field(&read, "db.operation.name"), "BATCH get");
    assert_eq!(field(&read, "db.operation.batch.size"), "3");
    assert_eq!(field(&read, "cache.outcome"), "miss");
}

#[tokio::test]
async fn a_cancelled_fetch_says_so() {
    let test = TestCache::local();
    let (spans, _guard) = SpanCollector::install();
    let upstream = Upstream::default().taking_millis(60_000);
    let call = traced(&upstream, 1, 1);
    {
        let mut call = pin!(test.run(call));
        assert!(poll_once(call.as_mut()).await.is_none(), "the fetch takes a minute");
        assert!(!spans.span("cache.fetch").is_closed);
    }
    let fetch = spans.span("cache.fetch");
    assert_eq!(field(&fetch, "cache.outcome"), "cancelled");
    assert!(fetch.is_closed);
}

#[tokio::test]
async fn a_failed_or_panicked_fetch_says_so() {
    let test = TestCache::local();
    let (spans, _guard) = SpanCollector::install();
    let upstream = Upstream::default();
    upstream.fail();
    assert!(test.run(traced(&upstream, 1, 1)).await.is_err());
    let fetch = spans.span("cache.fetch");
    for (name, value) in
        [("cache.outcome", "error"), ("error.type", "_OTHER"), ("otel.status_code", "ERROR")]
    {
        assert_eq!(field(&fetch, name), value, "{name}: {fetch:?}");
    }

    spans.clear();
    let panicked = tokio::spawn(test.cache().scope(traced_panic(1))).await;
    assert!(panicked.expect_err("the body panics").is_panic());
    let fetch = spans.span("cache.fetch");
    assert_eq!(field(&fetch, "cache.outcome"), "panicked");
    assert!(fetch.is_closed);
}

#[tokio::test]
async fn a_call_without_the_cache_has_a_span() {
    let (spans, _guard) = SpanCollector::install();
    let upstream = Upstream::default();
    Cache::disabled().scope(traced(&upstream, 1, 1)).await.expect("the upstream answers");
    let fetch = spans.span("cache.fetch");
    assert_eq!(field(&fetch, "cache.fetch.reason"), "bypass");
    assert_eq!(field(&fetch, "cache.outcome"), "returned");
    assert_eq!(spans.parent(&spans.span("upstream.call")), Some("cache.fetch"));
}

#[tokio::test]
async fn a_refresh_span_follows_its_callers_span() {
    let test = TestCache::local();
    let (spans, _guard) = SpanCollector::install();
    let upstream = Upstream::default();
    let call = || test.run(traced_rate(upstream.clone(), 1).instrument(info_span!("request")));
    call().await.expect("the upstream answers");
    test.advance(Duration::from_secs(9 * 60));
    spans.clear();
    assert_eq!(call().await, Ok(1), "the caller gets the old value");
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(upstream.fetches(), 2);
    let fetch = spans.span("cache.fetch");
    assert_eq!(field(&fetch, "cache.fetch.reason"), "refresh");
    assert_eq!(field(&fetch, "cache.outcome"), "value");
    assert_eq!((spans.parent(&fetch), &fetch.follows_from[..]), (None, &["request"][..]));
}

#[tokio::test]
async fn an_exchange_with_a_killed_server_fails() {
    let mut memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    let (spans, _guard) = SpanCollector::install();
    memcached.kill();
    let upstream = Upstream::default();
    cache.scope(traced(&upstream, 1, 1)).await.expect("the upstream answers");
    let read = spans.span("cache.remote");
    for (name, value) in
        [("cache.outcome", "error"), ("error.type", "unreachable"), ("otel.status_code", "ERROR")]
    {
        assert_eq!(field(&read, name), value, "{name}: {read:?}");
    }
}

/// A log message of the library goes to the thread's `tracing` subscriber, or to the `log` crate if
/// there is no subscriber. It never goes to both.
#[tokio::test]
async fn a_line_appears_once() {
    collect_logs();
    let upstream = Upstream::default();
    let eject = async |edition: &str| {
        let mut memcached = Memcached::start();
        let cache = new_process_cache(&memcached).await;
        memcached.kill();
        for number in 0..20 {
            let number = number.to_string();
            let call = payment(&upstream, &number, edition);
            cache.scope(call).await.expect("the upstream answers");
        }
        memcached.address()
    };
    let (spans, guard) = SpanCollector::install();
    let address = eject("traced").await;
    let events = spans.events("the server is ejected");
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0].level, tracing::Level::WARN);
    assert_eq!(events[0].fields["server.address"], address);
    assert!(logged(Level::Debug, &address).is_empty(), "the subscriber has the lines");

    drop(guard);
    spans.clear();
    let address = eject("logged").await;
    assert_eq!(logged(Level::Warn, &address).len(), 1, "without a subscriber the log has the line");
    assert!(spans.events("").is_empty());
}

/// A call's future is dropped while other code of the same task panics.
#[tokio::test]
async fn a_panic_of_other_code_is_not_one_of_the_fetch() {
    let test = TestCache::local();
    let (spans, _guard) = SpanCollector::install();
    let upstream = Upstream::default().taking_millis(60_000);
    let task = tokio::spawn(test.cache().scope(async move {
        let mut call = pin!(traced(&upstream, 1, 1));
        assert!(poll_once(call.as_mut()).await.is_none(), "the fetch takes a minute");
        panic!("this code is not the fetch");
    }));
    assert!(task.await.expect_err("the task panics").is_panic());
    assert_eq!(field(&spans.span("cache.fetch"), "cache.outcome"), "cancelled");
}
