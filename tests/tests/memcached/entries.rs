//! Tests `add`, `overwrite` and `first_found` in cases in which memcached refuses a value, fails,
//! or has another value.
//!
//! Each key has a *home server*. While this server is lost, another server, the *gutter server*,
//! keeps each value of the key for ten seconds.

use std::time::{Duration, Instant};

use cached_core::testing::{TestCache, TestMemcached};
use cached_core::{Cache, CacheError, coordinator_cached, first_found};
use cached_tests::{Upstream, UpstreamDown};
use serde::{Deserialize, Serialize};

use crate::functions::test_cache;

#[coordinator_cached(name = "price", version = number, skip(upstream), entry = price_entry)]
async fn price(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    let _ = number;
    upstream.fetch().await
}

#[coordinator_cached(
    name = "stock",
    overwrite(reason = "the warehouse counts anew"),
    local_ttl = "20m",
    skip(upstream),
    entry = stock_entry
)]
async fn stock(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    let _ = number;
    upstream.fetch().await
}

/// Returns the cache of a process that uses two in-memory servers.
fn two_servers() -> TestCache {
    test_cache(Cache::builder().memcached(["a:1", "b:1"]))
}

/// Makes enough calls to *eject* the failing server: after several failures in a row, this process
/// no longer uses the server.
async fn eject(test: &TestCache, upstream: &Upstream) {
    for number in 1000..1020 {
        test.run(price(upstream, number)).await.expect("the call succeeds");
    }
}

/// Returns a number whose `price` and `stock` entries both have this server as their home.
async fn number_at(server: &TestMemcached, test: &TestCache) -> u32 {
    let upstream = Upstream::default();
    let process = test.another_process();
    for number in 0..100 {
        let (one, other) = process
            .run(async {
                price(&upstream, number).await.expect("the call succeeds");
                stock(&upstream, number).await.expect("the call succeeds");
                (price_entry(number), stock_entry(number))
            })
            .await;
        if server.holds(&one.key()) && server.holds(&other.key()) {
            one.invalidate().await.expect("memcached is reached");
            other.invalidate().await.expect("memcached is reached");
            return number;
        }
    }
    panic!("no number up to 100 has this server as its home");
}

/// After the gutter server has dropped the added value, another process might fetch a different
/// value. The process that added the first value must have dropped it by then.
#[tokio::test]
async fn an_add_in_the_gutter_is_kept_briefly() {
    let (test, upstream) = (two_servers(), Upstream::default());
    let (other, home) = (test.another_process(), test.memcached_at("a:1"));
    let number = number_at(&home, &test).await;
    home.fail();
    eject(&test, &upstream).await;
    assert!(test.run(async { price_entry(number).add(99).await }).await);
    assert_eq!(test.run(price(&upstream, number)).await, Ok(99));
    home.recover();
    test.advance(Duration::from_secs(60));
    let answer = other.run(price(&upstream, number)).await;
    assert_ne!(answer, Ok(99));
    assert_eq!(test.run(price(&upstream, number)).await, answer);
}

#[tokio::test]
async fn an_overwrite_in_the_gutter_is_kept_briefly() {
    let (test, upstream) = (two_servers(), Upstream::default());
    let (other, home) = (test.another_process(), test.memcached_at("a:1"));
    let number = number_at(&home, &test).await;
    // The invalidation fails, so this process must repeat the invalidation before it uses the home
    // server again. Until then, the key's values go to the gutter server.
    home.fail();
    test.run(async { stock_entry(number).invalidate().await })
        .await
        .expect_err("the home server fails");
    home.recover();
    test.run(async { stock_entry(number).overwrite(99).await })
        .await
        .expect("memcached is reached");
    assert_eq!(test.run(stock(&upstream, number)).await, Ok(99));
    test.advance(Duration::from_secs(15));
    for process in [&other, &test] {
        assert_ne!(process.run(stock(&upstream, number)).await, Ok(99));
    }
}

#[coordinator_cached(
    name = "price_here",
    version = number,
    remote = false,
    skip(upstream),
    entry = price_here_entry
)]
async fn price_here(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    let _ = number;
    upstream.fetch().await
}

#[tokio::test]
async fn first_found_mixes_local_and_shared_entries() {
    let (test, upstream) = (TestCache::new(), Upstream::default());
    test.run(price(&upstream, 1)).await.expect("the call succeeds");
    for place in 0..3 {
        let other = test.another_process();
        let found = other.run(async {
            let mut entries = vec![price_entry(2), price_entry(1)];
            entries.insert(place, price_here_entry(1));
            first_found(entries).await
        });
        assert_eq!(found.await, Some(1), "the local entry is at position {place}");
    }
    test.run(price_here(&upstream, 1)).await.expect("the call succeeds");
    let both = async { first_found([price_entry(2), price_here_entry(1)]).await };
    assert_eq!(test.run(both).await, Some(2));
}

/// Returns a value that is too large for memcached.
fn too_large() -> Vec<u8> {
    vec![9; 3 << 20]
}

#[coordinator_cached(name = "report", version = number, entry = report_entry)]
async fn report(number: u32) -> Result<Vec<u8>, UpstreamDown> {
    let _ = number;
    Ok(vec![1; 10])
}

#[coordinator_cached(
    name = "draft",
    overwrite(reason = "an author edits the draft"),
    entry = draft_entry
)]
async fn draft(number: u32) -> Result<Vec<u8>, UpstreamDown> {
    let _ = number;
    Ok(vec![1; 10])
}

/// When memcached refuses a value as too large, it also removes the key's present item. It does so
/// even for a write that must not replace an item. An `add` must nevertheless keep the present
/// item.
#[tokio::test]
async fn an_oversized_add_keeps_the_present_entry() {
    let test = TestCache::new();
    let entry = test.run(async { report_entry(1) }).await;
    test.another_process().run(report(1)).await.expect("the call succeeds");
    assert!(!entry.add(too_large()).await);
    assert!(test.memcached().holds(&entry.key()));
    assert_eq!(test.run(report(1)).await, Ok(vec![1; 10]));

    // If there is no entry, the process keeps the added value in its local tier for a few seconds.
    let entry = test.run(async { report_entry(2) }).await;
    assert!(entry.add(too_large()).await);
    assert_eq!(test.run(report(2)).await, Ok(too_large()));
    test.advance(Duration::from_secs(6));
    assert_eq!(test.run(report(2)).await, Ok(vec![1; 10]));
}

#[tokio::test]
async fn an_oversized_overwrite_is_an_error() {
    let test = TestCache::new();
    let entry = test.run(async { draft_entry(1) }).await;
    test.run(draft(1)).await.expect("the call succeeds");
    let error = entry.overwrite(too_large()).await.expect_err("the value is too large");
    assert!(matches!(error, CacheError::NotStorable(why) if why.contains("large")), "{error:?}");
    assert!(!test.memcached().holds(&entry.key()), "the old item is removed");
    assert_eq!(test.run(draft(1)).await, Ok(too_large()));
}

/// A type whose field `text` is skipped by serde. A value with a text is not stored in memcached,
/// because it would be read back without the text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct NoteWithSkippedText {
    #[serde(skip)]
    text: Option<String>,
    lines: u32,
}

#[coordinator_cached(name = "note", version = lines, entry = note_entry)]
async fn note(lines: u32) -> Result<NoteWithSkippedText, UpstreamDown> {
    Ok(NoteWithSkippedText { text: None, lines })
}

#[tokio::test]
async fn an_unshareable_add_keeps_the_present_entry() {
    let test = TestCache::new();
    let unshareable = |lines| NoteWithSkippedText { text: Some("read me".into()), lines };
    let first = test.another_process().run(note(1)).await.expect("the call succeeds");
    assert!(!test.run(async { note_entry(1).add(unshareable(1)).await }).await);
    assert_eq!(test.run(note(1)).await, Ok(first));
    // The process keeps this value for a few seconds only, because another process might fetch a
    // value that memcached can store.
    assert!(test.run(async { note_entry(2).add(unshareable(2)).await }).await);
    assert_eq!(test.run(note(2)).await, Ok(unshareable(2)));
    test.advance(Duration::from_secs(6));
    assert_ne!(test.run(note(2)).await, Ok(unshareable(2)));
}

#[coordinator_cached(
    name = "token",
    version = number,
    ttl_with = |millis| Duration::from_millis(*millis),
    entry = token_entry
)]
async fn token(number: u32) -> Result<u64, UpstreamDown> {
    let _ = number;
    Ok(60_000)
}

#[tokio::test]
async fn a_brief_add_respects_the_entry_in_memcached() {
    let test = TestCache::new();
    let first = test.another_process().run(token(1)).await;
    assert!(!test.run(async { token_entry(1).add(900).await }).await);
    assert_eq!(test.run(token(1)).await, first);
    assert!(test.run(async { token_entry(2).add(900).await }).await);
    assert_eq!(test.run(token(2)).await, Ok(900));
}

#[coordinator_cached(
    name = "quote",
    version = number,
    ttl = "10m",
    stale_if_error = "1h",
    skip(upstream),
    entry = quote_entry
)]
async fn quote(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    let _ = number;
    upstream.fetch().await
}

#[tokio::test]
async fn an_add_replaces_an_expired_entry() {
    for test in [TestCache::local(), TestCache::new()] {
        let upstream = Upstream::default();
        test.run(quote(&upstream, 1)).await.expect("the call succeeds");
        assert!(!test.run(async { quote_entry(1).add(99).await }).await);
        test.advance(Duration::from_secs(11 * 60));
        assert!(!test.run(async { quote_entry(1).get().await.is_found() }).await);
        assert!(test.run(async { quote_entry(1).add(99).await }).await);
        assert!(!test.run(async { quote_entry(1).add(100).await }).await);
        assert_eq!(test.run(quote(&upstream, 1)).await, Ok(99));
    }
    let (test, upstream) = (TestCache::new(), Upstream::default());
    test.run(quote(&upstream, 1)).await.expect("the call succeeds");
    test.advance(Duration::from_secs(11 * 60));
    assert!(test.run(async { quote_entry(1).add(99).await }).await);
    assert_eq!(test.another_process().run(quote(&upstream, 1)).await, Ok(99));
}

/// The delay that the test allows for, because the machine might be busy.
const LATENESS: Duration = Duration::from_millis(300);

#[tokio::test]
async fn an_overwrite_on_hanging_servers_times_out() {
    const TIMEOUT: Duration = Duration::from_millis(800);
    for addresses in [&["a:1"][..], &["a:1", "b:1"]] {
        let builder = Cache::builder().memcached(addresses).remote_timeout(TIMEOUT);
        let test = test_cache(builder);
        addresses.iter().for_each(|address| test.memcached_at(address).stall());
        let began = Instant::now();
        let overwritten = test.run(async { stock_entry(1).overwrite(99).await }).await;
        let took = began.elapsed();
        let Err(CacheError::Remote(error)) = overwritten else { panic!("{overwritten:?}") };
        let why = error.to_string();
        let has_address = addresses.iter().any(|address| why.contains(address));
        assert!(has_address, "the error names the server: {why}");
        assert!(took < TIMEOUT + LATENESS, "{addresses:?} cost one timeout: {took:?}");
    }
}

/// Without a runtime, no call can wait for memcached.
#[test]
fn a_change_without_a_runtime_is_an_error() {
    let test = two_servers();
    let changes = async {
        let invalidated = stock_entry(1).invalidate().await;
        assert!(matches!(invalidated, Err(CacheError::Remote(_))), "{invalidated:?}");
        let overwritten = stock_entry(1).overwrite(99).await;
        assert!(matches!(overwritten, Err(CacheError::Remote(_))), "{overwritten:?}");
        assert!(price_entry(1).add(99).await);
    };
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let polled = std::pin::pin!(test.run(changes)).as_mut().poll(&mut context);
    assert_eq!(polled, std::task::Poll::Ready(()));
}
