//! Tests of `cached_core::testing`, with which a test moves the clock and breaks an in-memory
//! memcached.

use std::time::{Duration, Instant};

use cached_core::testing::{TestCache, TestMemcached};
use cached_core::{Cache, coordinator_cached};
use cached_tests::{Upstream, UpstreamDown};
use serde::{Deserialize, Serialize};

const MINUTE: Duration = Duration::from_secs(60);

#[coordinator_cached(
    name = "test_payment",
    version = state,
    skip(upstream),
    entry = payment_entry
)]
async fn payment(upstream: &Upstream, number: u32, state: &str) -> Result<String, UpstreamDown> {
    Ok(format!("payment {number}, fetch {}", upstream.fetch().await?))
}

#[tokio::test]
async fn entries_expire_by_the_test_clock() {
    for test in [TestCache::local(), TestCache::new()] {
        let upstream = Upstream::default();
        let call = || test.run(payment(&upstream, 7, "paid"));
        let first = call().await;
        test.advance(29 * MINUTE);
        assert_eq!(call().await, first);
        assert_eq!(test.stats("test_payment").fetches, 1);
        test.advance(2 * MINUTE);
        assert_ne!(call().await, first);
        let stats = test.stats("test_payment");
        assert_eq!((stats.fetches, stats.hits(), stats.waits), (2, 1, 0));
    }
}

#[tokio::test]
async fn test_processes_share_entries_until_expiry() {
    let (upstream, one) = (Upstream::default(), TestCache::new());
    let other = one.another_process();
    let first = one.run(payment(&upstream, 7, "paid")).await;
    assert_eq!(other.run(payment(&upstream, 7, "paid")).await, first);
    let key = one.run(async { payment_entry(7, "paid").key() }).await;
    assert!(one.memcached().holds(&key));
    assert_eq!((one.stats("test_payment").fetches, other.stats("test_payment").fetches), (1, 0));

    one.advance(31 * MINUTE);
    assert!(!one.memcached().holds(&key));
    assert_ne!(other.run(payment(&upstream, 7, "paid")).await, first);
}

#[tokio::test]
async fn calls_are_answered_without_memcached() {
    let timeout = Duration::from_millis(20);
    for misbehave in [TestMemcached::fail, TestMemcached::stall] {
        let test = TestCache::with(Cache::builder().remote_timeout(timeout))
            .expect("the settings are valid");
        let upstream = Upstream::default();
        misbehave(&test.memcached());
        let began = Instant::now();
        for number in 0..200 {
            assert!(test.run(payment(&upstream, number, "paid")).await.is_ok());
        }
        let took = began.elapsed();
        // The process stops using the server after a few timeouts.
        assert!(took < 200 * timeout, "few calls wait for the timeout: {took:?}");
        let stats = test.stats("test_payment");
        let has_failed = stats.fetches == 200 && stats.remote_errors > 0;
        assert!(has_failed, "memcached fails, and each call fetches: {stats:?}");

        test.memcached().recover();
        test.advance(MINUTE);
        assert!(test.run(payment(&upstream, 1000, "paid")).await.is_ok());
        assert_eq!(
            test.another_process().run(payment(&upstream, 1000, "paid")).await.ok().as_deref(),
            Some("payment 1000, fetch 201"),
            "the server is used again and has the entry"
        );
    }
}

#[tokio::test]
async fn a_lying_memcached_changes_no_answer() {
    let (upstream, one) = (Upstream::default(), TestCache::new());
    for number in 0..20 {
        one.run(payment(&upstream, number, "paid")).await.expect("the call succeeds");
    }
    one.memcached().lie();
    let other = one.another_process();
    for number in 0..40 {
        let answer =
            other.run(payment(&upstream, number, "paid")).await.expect("the call succeeds");
        assert!(answer.starts_with(&format!("payment {number}, ")), "{answer}");
    }
    let stats = other.stats("test_payment");
    assert_eq!((stats.remote_hits, stats.fetches), (0, 40), "no answer of memcached is used");
}

#[tokio::test]
async fn a_restarted_memcached_is_empty() {
    let (upstream, test) = (Upstream::default(), TestCache::new());
    test.run(payment(&upstream, 7, "paid")).await.expect("the call succeeds");
    test.memcached().clear();
    test.another_process().run(payment(&upstream, 7, "paid")).await.expect("the call succeeds");
    assert_eq!(upstream.fetches(), 2);
}

#[coordinator_cached(name = "test_kept", version = number, ttl = "10m", stale_if_error = "1h", skip(upstream))]
async fn kept(upstream: &Upstream, number: u32) -> Result<String, UpstreamDown> {
    Ok(format!("payment {number}, fetch {}", upstream.fetch().await?))
}

#[tokio::test]
async fn stale_time_follows_the_test_clock() {
    for test in [TestCache::local(), TestCache::new()] {
        let upstream = Upstream::default();
        let first = test.run(kept(&upstream, 7)).await;
        upstream.fail();
        test.advance(69 * MINUTE);
        assert_eq!(test.run(kept(&upstream, 7)).await, first);
        test.advance(2 * MINUTE);
        assert_eq!(test.run(kept(&upstream, 7)).await, Err(UpstreamDown));
        assert_eq!(test.stats("test_kept").stale_answers, 1);
    }
}

#[test]
#[should_panic(expected = "has the cache name `test_paymnt`")]
fn stats_of_an_unknown_name_panic() {
    let _ = TestCache::new().stats("test_paymnt");
}

#[test]
#[should_panic(expected = "no memcached is at `b:11212`")]
fn an_unknown_server_address_panics() {
    let test = TestCache::with(Cache::builder().memcached(["a:11211", "b:11211"]))
        .expect("the settings are valid");
    test.memcached_at("b:11212").fail();
}

#[test]
fn a_test_cache_validates_its_settings() {
    let error = TestCache::with(Cache::builder().namespace("My Shop"))
        .expect_err("the namespace is invalid");
    assert!(error.to_string().contains("namespace `My Shop`"));
}

#[tokio::test]
async fn tests_with_one_builder_share_nothing_else() {
    let builder = Cache::builder().memcached(["a:11211", "b:11211"]);
    let [one, other] =
        [(); 2].map(|()| TestCache::with(builder.clone()).expect("the settings are valid"));
    let upstream = Upstream::default();
    one.run(payment(&upstream, 7, "paid")).await.expect("the call succeeds");
    other.run(payment(&upstream, 7, "paid")).await.expect("the call succeeds");
    assert_eq!(upstream.fetches(), 2);
    one.advance(31 * MINUTE);
    other.run(payment(&upstream, 7, "paid")).await.expect("the call succeeds");
    assert_eq!(other.stats("test_payment").fetches, 1);
    let commands = ["a:11211", "b:11211"].map(|address| one.memcached_at(address).commands());
    assert_eq!(commands.iter().filter(|&&commands| commands > 0).count(), 1, "{commands:?}");
}

/// A type without `PartialEq`. Only its `Debug` text shows that a decoded value has lost a field.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LosesField {
    amount: u32,
    #[serde(skip)]
    #[allow(dead_code, reason = "`Debug` reads it")]
    seen: bool,
    by_name: std::collections::HashMap<String, u32>,
}

#[coordinator_cached(name = "loses_field", version = amount)]
async fn loses_field(amount: u32) -> Result<LosesField, UpstreamDown> {
    let by_name = (0..50).map(|number| (number.to_string(), number)).collect();
    Ok(LosesField { amount, seen: amount > 1, by_name })
}

#[tokio::test]
async fn an_unchanged_debug_text_fails_no_test() {
    let test = TestCache::new();
    test.run(loses_field(1)).await.expect("the call succeeds");
    assert_eq!(test.stats("loses_field").fills, 1);
}

#[tokio::test]
#[should_panic(expected = "`loses_field` (memcached::testing::loses_field)")]
async fn a_value_that_memcached_changes_fails_the_test() {
    let _ = TestCache::new().run(loses_field(2)).await;
}

#[tokio::test]
#[should_panic(expected = "#[serde(skip)]")]
async fn a_lost_field_fails_the_test_even_outside_of_run() {
    let test = TestCache::new();
    let _ = test.cache().scope(loses_field(3)).await;
    test.cache().flush().await;
}

/// Only a `TestCache` compares a value's `Debug` text before and after encoding. A plain `Cache`
/// does not notice the lost field, and stores the value.
#[tokio::test]
async fn texts_are_compared_in_tests_only() {
    let memcached = cached_tests::Memcached::start();
    let cache = crate::functions::new_process_cache(&memcached).await;
    cache.scope(loses_field(4)).await.expect("the call succeeds");
    cache.flush().await;
    assert_eq!(cache.stats().total().fills, 1);
}
