//! `cached_core::testing`: a test moves the clock, and breaks memcached, without a server and
//! without sleeping.

use std::time::{Duration, Instant};

use cached_core::testing::TestCache;
use cached_core::{Cache, coordinator_cached};
use cached_tests::{Down, Upstream};

const MINUTE: Duration = Duration::from_secs(60);

#[coordinator_cached(
    name = "test_payment",
    version = state,
    skip(upstream),
    entry = payment_entry
)]
async fn payment(upstream: &Upstream, number: u32, state: &str) -> Result<String, Down> {
    Ok(format!("payment {number}, fetch {}", upstream.answer().await?))
}

#[tokio::test]
async fn after_31_minutes_a_call_fetches_again_in_every_tier() {
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
async fn another_process_finds_what_the_first_one_left_until_it_expires() {
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
async fn with_memcached_down_or_hung_every_call_is_answered() {
    let timeout = Duration::from_millis(20);
    for hang in [false, true] {
        let test = TestCache::with(Cache::builder().remote_timeout(timeout)).expect("it fits");
        let upstream = Upstream::default();
        if hang {
            test.memcached().stall()
        } else {
            test.memcached().fail()
        }
        let began = Instant::now();
        for number in 0..200 {
            assert!(test.run(payment(&upstream, number, "paid")).await.is_ok());
        }
        let took = began.elapsed();
        // Each would have waited for the timeout if the server were not ejected.
        assert!(took < 200 * timeout, "{took:?}");
        let stats = test.stats("test_payment");
        assert!(stats.fetches == 200 && stats.remote_errors > 0, "{stats:?}");

        test.memcached().recover();
        test.advance(MINUTE);
        assert!(test.run(payment(&upstream, 1000, "paid")).await.is_ok());
        assert_eq!(
            test.another_process().run(payment(&upstream, 1000, "paid")).await.ok().as_deref(),
            Some("payment 1000, fetch 201"),
            "it is back in rotation, and has the entry"
        );
    }
}

#[tokio::test]
async fn no_lie_of_a_memcached_changes_an_answer() {
    let (upstream, one) = (Upstream::default(), TestCache::new());
    for number in 0..20 {
        one.run(payment(&upstream, number, "paid")).await.expect("fetched");
    }
    one.memcached().lie();
    let other = one.another_process();
    for number in 0..40 {
        let answer = other.run(payment(&upstream, number, "paid")).await.expect("fetched");
        assert!(answer.starts_with(&format!("payment {number}, ")), "{answer}");
    }
    let stats = other.stats("test_payment");
    assert_eq!((stats.remote_hits, stats.fetches), (0, 40), "nothing of it was believed");
}

#[tokio::test]
async fn a_memcached_that_was_restarted_is_empty() {
    let (upstream, test) = (Upstream::default(), TestCache::new());
    test.run(payment(&upstream, 7, "paid")).await.expect("fetched");
    test.memcached().clear();
    test.another_process().run(payment(&upstream, 7, "paid")).await.expect("fetched");
    assert_eq!(upstream.fetches(), 2);
}

#[coordinator_cached(name = "test_kept", version = number, ttl = "10m", stale_if_error = "1h", skip(upstream))]
async fn kept(upstream: &Upstream, number: u32) -> Result<String, Down> {
    Ok(format!("payment {number}, fetch {}", upstream.answer().await?))
}

#[tokio::test]
async fn what_is_kept_for_errors_is_kept_by_the_same_clock() {
    for test in [TestCache::local(), TestCache::new()] {
        let upstream = Upstream::default();
        let first = test.run(kept(&upstream, 7)).await;
        upstream.fail();
        test.advance(69 * MINUTE);
        assert_eq!(test.run(kept(&upstream, 7)).await, first);
        test.advance(2 * MINUTE);
        assert_eq!(test.run(kept(&upstream, 7)).await, Err(Down));
        assert_eq!(test.stats("test_kept").stale_answers, 1);
    }
}

#[test]
#[should_panic(expected = "has the cache name `test_paymnt`")]
fn statistics_of_a_name_that_nobody_has_panic() {
    let _ = TestCache::new().stats("test_paymnt");
}

#[test]
#[should_panic(expected = "no memcached is at `b:11212`")]
fn a_server_that_nobody_has_cannot_be_broken() {
    let test =
        TestCache::with(Cache::builder().memcached(["a:11211", "b:11211"])).expect("it fits");
    test.memcached_at("b:11212").fail();
}

#[test]
fn a_test_cache_takes_no_settings_that_a_cache_would_not_take() {
    let error = TestCache::with(Cache::builder().namespace("My Shop")).expect_err("it is refused");
    assert!(error.to_string().contains("namespace `My Shop`"));
}

#[tokio::test]
async fn tests_that_share_a_builder_share_nothing_else() {
    let builder = Cache::builder().memcached(["a:11211", "b:11211"]);
    let [one, other] = [(); 2].map(|()| TestCache::with(builder.clone()).expect("it fits"));
    let upstream = Upstream::default();
    one.run(payment(&upstream, 7, "paid")).await.expect("fetched");
    other.run(payment(&upstream, 7, "paid")).await.expect("fetched");
    assert_eq!(upstream.fetches(), 2);
    one.advance(31 * MINUTE);
    other.run(payment(&upstream, 7, "paid")).await.expect("cached");
    assert_eq!(other.stats("test_payment").fetches, 1);
    let asked = ["a:11211", "b:11211"].map(|address| one.memcached_at(address).commands());
    assert_eq!(asked.iter().filter(|&&commands| commands > 0).count(), 1, "{asked:?}");
}
