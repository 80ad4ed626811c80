//! Tests what the options of `#[coordinator_cached]` do.

use std::time::{Duration, Instant};

use cached_core::testing::TestCache;
use cached_core::{Cache, Tier, coordinator_cached};
use cached_tests::{Memcached, Upstream, UpstreamDown};
use serde::{Deserialize, Serialize};

use crate::functions::local_cache;

/// Returns a cache like that of a new process: it shares only memcached with other caches.
async fn new_process_cache(memcached: &Memcached) -> Cache {
    let builder = Cache::builder().memcached([memcached.address()]);
    builder.remote_timeout(Duration::from_secs(1)).build().await.expect("the settings are valid")
}

async fn sleep(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct AccessToken {
    count: usize,
    valid_for: Duration,
}

#[coordinator_cached(
    name = "token",
    version = user,
    skip(upstream, valid_for),
    ttl_with = |token| token.valid_for,
    entry = token_entry
)]
async fn token(
    upstream: &Upstream,
    user: u32,
    valid_for: Duration,
) -> Result<AccessToken, UpstreamDown> {
    Ok(AccessToken { count: upstream.fetch().await?, valid_for })
}

#[tokio::test]
async fn ttl_with_takes_the_ttl_from_the_value() {
    let upstream = Upstream::default();
    local_cache()
        .await
        .scope(async {
            let brief = Duration::from_millis(700);
            token(&upstream, 1, brief).await.expect("the call succeeds");
            token(&upstream, 2, Duration::from_secs(60)).await.expect("the call succeeds");
            assert_eq!(token(&upstream, 1, brief).await.expect("the call succeeds").count, 1);
            sleep(800).await;
            assert_eq!(token(&upstream, 1, brief).await.expect("the call succeeds").count, 3);
            assert_eq!(token(&upstream, 2, brief).await.expect("the call succeeds").count, 2);
            // A value whose ttl is zero is not cached.
            assert_eq!(
                token(&upstream, 3, Duration::ZERO).await.expect("the call succeeds").count,
                4
            );
            assert_eq!(
                token(&upstream, 3, Duration::ZERO).await.expect("the call succeeds").count,
                5
            );
            // `add` also takes the ttl from the value.
            assert!(token_entry(4).add(AccessToken { count: 0, valid_for: brief }).await);
            assert!(token_entry(4).get().await.is_found());
            sleep(800).await;
            assert!(!token_entry(4).get().await.is_found());
        })
        .await;
}

#[coordinator_cached(name = "lasting", version = user, ttl = valid_for, skip(upstream, valid_for))]
async fn lasting(
    upstream: &Upstream,
    user: u32,
    valid_for: Duration,
) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn a_ttl_expression_may_be_arbitrarily_long() {
    let upstream = Upstream::default();
    let memcached = Memcached::start();
    for cache in [local_cache().await, new_process_cache(&memcached).await] {
        let fetches_before = upstream.fetches();
        cache
            .scope(async {
                for (user, valid_for) in
                    [(2, Duration::MAX), (3, Duration::from_secs(u64::MAX / 2))]
                {
                    let first = lasting(&upstream, user, valid_for).await;
                    assert_eq!(lasting(&upstream, user, valid_for).await, first);
                }
                lasting(&upstream, 1, Duration::from_millis(700)).await.expect("the call succeeds");
                lasting(&upstream, 1, Duration::from_millis(700)).await.expect("the call succeeds");
                sleep(800).await;
                lasting(&upstream, 1, Duration::from_millis(700)).await.expect("the call succeeds");
            })
            .await;
        cache.flush().await;
        let fetches = upstream.fetches() - fetches_before;
        assert_eq!(fetches, 4, "each long ttl needs one fetch, and the short one two");
    }
}

#[coordinator_cached(
    name = "maybe",
    version = user,
    skip(upstream, known),
    none_ttl = "700ms",
    entry = maybe_entry
)]
async fn maybe(upstream: &Upstream, user: u32, known: bool) -> Result<Option<usize>, UpstreamDown> {
    let count = upstream.fetch().await?;
    Ok(known.then_some(count))
}

#[tokio::test]
async fn none_ttl_caches_a_none_for_its_time() {
    let upstream = Upstream::default();
    local_cache()
        .await
        .scope(async {
            assert_eq!(maybe(&upstream, 1, false).await, Ok(None));
            assert_eq!(maybe(&upstream, 1, true).await, Ok(None));
            assert_eq!(maybe_entry(1).get().await.into_option(), Some(None));
            assert_eq!(maybe(&upstream, 2, true).await, Ok(Some(2)));
            sleep(800).await;
            assert_eq!(maybe(&upstream, 1, true).await, Ok(Some(3)));
            assert_eq!(maybe(&upstream, 2, true).await, Ok(Some(2)), "a `Some` has the ttl");
        })
        .await;
}

#[coordinator_cached(
    name = "finished",
    version = user,
    skip(upstream),
    cache_if = |count| count % 2 == 0,
    entry = finished_entry
)]
async fn finished(upstream: &Upstream, user: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn cache_if_decides_which_values_are_cached() {
    let upstream = Upstream::default();
    local_cache()
        .await
        .scope(async {
            assert_eq!(finished(&upstream, 1).await, Ok(1));
            assert_eq!(finished(&upstream, 1).await, Ok(2));
            assert_eq!(finished(&upstream, 1).await, Ok(2));
            assert!(!finished_entry(2).add(3).await);
            assert!(finished_entry(2).add(4).await);
        })
        .await;
}

#[coordinator_cached(name = "bounded", version = user, local_ttl = "700ms", skip(upstream))]
async fn bounded(upstream: &Upstream, user: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn local_ttl_bounds_only_the_local_tier() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    let upstream = Upstream::default();
    cache.scope(bounded(&upstream, 1)).await.expect("the call succeeds");
    cache.flush().await;
    cache.scope(bounded(&upstream, 1)).await.expect("the call succeeds");
    sleep(800).await;
    cache.scope(bounded(&upstream, 1)).await.expect("the call succeeds");
    let stats = cache.stats().get("bounded").expect("the function was called");
    assert_eq!((stats.fetches, stats.local_hits, stats.remote_hits), (1, 1, 1));
}

#[coordinator_cached(
    name = "remote_only",
    version = user,
    local = false,
    skip(upstream),
    entry = remote_only_entry
)]
async fn remote_only(upstream: &Upstream, user: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[coordinator_cached(
    name = "local_only",
    version = user,
    remote = false,
    skip(upstream),
    entry = local_only_entry
)]
async fn local_only(upstream: &Upstream, user: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn a_tier_can_be_left_out() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    let upstream = Upstream::default();
    cache
        .scope(async {
            assert_eq!(remote_only(&upstream, 1).await, Ok(1));
            cache.flush().await;
            assert_eq!(remote_only(&upstream, 1).await, Ok(1));
            assert_eq!(remote_only_entry(1).get().await.tier(), Some(Tier::Remote));
            assert!(remote_only_entry(2).add(7).await);
            assert_eq!(remote_only(&upstream, 2).await, Ok(7));

            assert_eq!(local_only(&upstream, 1).await, Ok(2));
            cache.flush().await;
            assert_eq!(local_only(&upstream, 1).await, Ok(2));
            assert_eq!(local_only_entry(1).get().await.tier(), Some(Tier::Local));
            let key = local_only_entry(1).key().to_string();
            assert_eq!(memcached.remaining_ttl(&key), None, "memcached has no item");
        })
        .await;
}

#[coordinator_cached(
    name = "kept",
    version = user,
    ttl = "2s",
    stale_if_error = "3s",
    skip(upstream),
    entry = kept_entry
)]
async fn kept(upstream: &Upstream, user: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn stale_if_error_answers_a_failed_fetch() {
    let upstream = Upstream::default();
    let cache = local_cache().await;
    cache
        .scope(async {
            assert_eq!(kept(&upstream, 1).await, Ok(1));
            upstream.fail();
            sleep(2100).await;
            assert!(!kept_entry(1).get().await.is_found(), "the entry has expired");
            assert_eq!(kept(&upstream, 1).await, Ok(1));
            assert_eq!(kept(&upstream, 1).await, Ok(1));
            assert_eq!(upstream.fetches(), 3, "each call fetches");
            assert_eq!(
                kept(&upstream, 2).await,
                Err(UpstreamDown),
                "this user has no expired value"
            );
            upstream.recover();
            assert_eq!(kept(&upstream, 1).await, Ok(5));
            assert_eq!(kept(&upstream, 1).await, Ok(5), "the value is cached again");
            upstream.fail();
            sleep(5200).await;
            assert_eq!(
                kept(&upstream, 1).await,
                Err(UpstreamDown),
                "the value is kept for three seconds"
            );
        })
        .await;
    assert_eq!(cache.stats().get("kept").expect("the function was called").stale_answers, 2);
}

#[tokio::test]
async fn stale_if_error_serves_values_of_other_processes() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default();
    assert_eq!(a.scope(kept(&upstream, 1)).await, Ok(1));
    a.flush().await;
    upstream.fail();
    sleep(2200).await;
    // After one process's fetch has failed, the next process can fetch at once, without waiting.
    let began = Instant::now();
    for process in [&b, &a, &b] {
        assert_eq!(process.scope(kept(&upstream, 1)).await, Ok(1));
        process.flush().await;
    }
    let took = began.elapsed();
    assert!(took < Duration::from_millis(1500), "no call waits for another process: {took:?}");
    assert_eq!(b.stats().get("kept").expect("the function was called").stale_answers, 2);
    // Once fetches succeed, the expired item is replaced for all processes.
    upstream.recover();
    let fetched = b.scope(kept(&upstream, 1)).await.expect("the call succeeds");
    assert!(fetched > 1);
    b.flush().await;
    let c = new_process_cache(&memcached).await;
    assert_eq!(c.scope(kept(&upstream, 1)).await, Ok(fetched));
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct UserTheme {
    theme: String,
}

#[coordinator_cached(name = "settings", version = user, infallible, skip(upstream))]
async fn settings(upstream: &Upstream, user: u32) -> UserTheme {
    UserTheme { theme: format!("{:?}", upstream.fetch().await) }
}

#[tokio::test]
async fn infallible_caches_the_whole_return_value() {
    let upstream = Upstream::default();
    local_cache()
        .await
        .scope(async {
            let first = settings(&upstream, 1).await;
            assert_eq!(settings(&upstream, 1).await, first);
            assert_eq!(upstream.fetches(), 1);
        })
        .await;
}

#[coordinator_cached(
    name = "price",
    overwrite(reason = "the upstream has no versions of a price"),
    ttl = "3s",
    refresh_ahead = "2s",
    skip(upstream),
    entry = price_entry
)]
async fn price(upstream: Upstream, course: u32) -> Result<usize, UpstreamDown> {
    sleep(20).await;
    upstream.fetch().await
}

#[tokio::test]
async fn refresh_ahead_delays_no_caller() {
    let upstream = Upstream::default();
    local_cache()
        .await
        .scope(async {
            let price = || price(upstream.clone(), 1);
            assert_eq!(price().await, Ok(1));
            sleep(500).await;
            assert_eq!(price().await, Ok(1));
            assert_eq!(upstream.fetches(), 1, "the refresh is not due yet");
            sleep(700).await;
            for _ in 0..50 {
                assert_eq!(price().await, Ok(1), "no caller waits for the refresh");
            }
            sleep(300).await;
            assert_eq!(upstream.fetches(), 2, "one caller refreshes the entry");
            assert_eq!(price().await, Ok(2));
            // A failed refresh keeps the entry, and a later caller tries again.
            upstream.fail();
            sleep(1200).await;
            for fetches in 3..=4 {
                assert_eq!(price().await, Ok(2));
                sleep(200).await;
                assert_eq!(upstream.fetches(), fetches);
            }
        })
        .await;
}

#[coordinator_cached(
    name = "fleet_price",
    overwrite(reason = "the upstream has no versions of a price"),
    ttl = "8s",
    local_ttl = "1s",
    refresh_ahead = "4s",
    skip(upstream)
)]
async fn fleet_price(upstream: Upstream, course: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn only_one_process_refreshes_an_entry() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    // Each fetch takes so long that both processes read the item before the refresh ends.
    let upstream = Upstream::default().taking_millis(100);
    let price = |cache: &Cache| cache.scope(fleet_price(upstream.clone(), 1));
    assert_eq!(price(&a).await, Ok(1));
    a.flush().await;
    assert_eq!(price(&b).await, Ok(1));
    assert_eq!(upstream.fetches(), 1, "the refresh is not due yet");
    sleep(4200).await;
    // Both processes read an item that expires soon, and one of them refreshes it.
    assert_eq!(tokio::join!(price(&a), price(&b)), (Ok(1), Ok(1)));
    sleep(300).await;
    a.flush().await;
    b.flush().await;
    assert_eq!(upstream.fetches(), 2);
    assert_eq!(a.stats().total().refreshes + b.stats().total().refreshes, 1);
    let c = new_process_cache(&memcached).await;
    assert_eq!(price(&c).await, Ok(2), "a third process reads the new value");
}

#[tokio::test]
async fn an_overwrite_during_a_refresh_wins() {
    let upstream = Upstream::default();
    local_cache()
        .await
        .scope(async {
            let price = || price(upstream.clone(), 1);
            assert_eq!(price().await, Ok(1));
            sleep(1200).await;
            assert_eq!(price().await, Ok(1), "this call starts a refresh");
            price_entry(1).overwrite(77).await.expect("no server can fail");
            sleep(100).await;
            assert_eq!(upstream.fetches(), 2);
            assert_eq!(price().await, Ok(77));
        })
        .await;
}

#[coordinator_cached(
    name = "long_stale",
    version = user,
    ttl = "1s",
    stale_if_error = "1h",
    skip(upstream),
    entry = long_stale_entry
)]
async fn long_stale(upstream: &Upstream, user: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn failed_fetches_do_not_shorten_stale_time() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default();
    assert_eq!(a.scope(long_stale(&upstream, 1)).await, Ok(1));
    a.flush().await;
    let key = a.scope(async { long_stale_entry(1).key().to_string() }).await;
    upstream.fail();
    let (began, before) =
        (Instant::now(), memcached.remaining_ttl(&key).expect("the item is there"));
    sleep(1200).await;
    for _ in 0..20 {
        assert_eq!(b.scope(long_stale(&upstream, 1)).await, Ok(1));
        b.flush().await;
    }
    let left = memcached.remaining_ttl(&key).expect("the item is still there");
    let passed = began.elapsed().as_secs() as i64 + 1;
    assert!(left >= before - passed, "{before} s were left, and {passed} s later {left} s are");
}

#[coordinator_cached(
    name = "jittered",
    version = number,
    ttl = "30s",
    skip(upstream),
    entry = jittered_entry
)]
async fn jittered(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[coordinator_cached(
    name = "briefly_or_none",
    version = user,
    ttl = "500ms",
    none_ttl = "1h",
    skip(upstream)
)]
async fn briefly_or_none(upstream: &Upstream, user: u32) -> Result<Option<usize>, UpstreamDown> {
    upstream.fetch().await.map(|_| None)
}

#[tokio::test]
async fn values_memcached_cannot_hold_last_five_seconds() {
    let test = TestCache::with(Cache::builder().jitter(1.0)).expect("the settings are valid");
    let upstream = Upstream::default();
    let mut not_in_memcached = Vec::new();
    for number in 0..600 {
        test.run(jittered(&upstream, number)).await.expect("the call succeeds");
        let key = test.run(async { jittered_entry(number).key() }).await;
        if !test.memcached().holds(&key) {
            not_in_memcached.push(number);
        }
    }
    // About one entry in 30 gets a ttl below a second, which memcached cannot store.
    let fetches = not_in_memcached.len() + 600;
    test.run(briefly_or_none(&upstream, 1)).await.expect("the call succeeds");
    test.advance(Duration::from_secs(6));
    for number in not_in_memcached {
        test.run(jittered(&upstream, number)).await.expect("the call succeeds");
    }
    test.run(briefly_or_none(&upstream, 1)).await.expect("the call succeeds");
    assert_eq!(upstream.fetches(), fetches + 2);
}

#[tokio::test]
async fn every_fetch_is_filled_or_counted_as_dropped() {
    let test = TestCache::with(Cache::builder().jitter(1.0)).expect("the settings are valid");
    let upstream = Upstream::default();
    for number in 0..600 {
        test.run(jittered(&upstream, number)).await.expect("the call succeeds");
    }
    let stats = test.stats("jittered");
    assert_eq!(stats.fills + stats.fills_dropped, 600, "{stats:?}");
}
