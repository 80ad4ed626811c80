//! The attribute's options, each by what it does.

use std::time::{Duration, Instant};

use cached_core::testing::TestCache;
use cached_core::{Cache, Tier, coordinator_cached};
use cached_tests::{Down, Memcached, Upstream};
use serde::{Deserialize, Serialize};

async fn local() -> Cache {
    Cache::builder().build().await.expect("the defaults fit")
}

async fn process(memcached: &Memcached) -> Cache {
    let builder = Cache::builder().memcached([memcached.address()]);
    builder.remote_timeout(Duration::from_secs(1)).build().await.expect("fits")
}

async fn after(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Token {
    count: usize,
    lives: Duration,
}

#[coordinator_cached(
    name = "token",
    version = user,
    skip(upstream, lives),
    ttl_with = |token| token.lives,
    entry = token_entry
)]
async fn token(upstream: &Upstream, user: u32, lives: Duration) -> Result<Token, Down> {
    Ok(Token { count: upstream.answer().await?, lives })
}

#[tokio::test]
async fn ttl_with_takes_the_lifetime_from_the_value() {
    let upstream = Upstream::default();
    local()
        .await
        .scope(async {
            let brief = Duration::from_millis(700);
            token(&upstream, 1, brief).await.expect("fetched");
            token(&upstream, 2, Duration::from_secs(60)).await.expect("fetched");
            assert_eq!(token(&upstream, 1, brief).await.expect("cached").count, 1);
            after(800).await;
            assert_eq!(token(&upstream, 1, brief).await.expect("fetched").count, 3);
            assert_eq!(token(&upstream, 2, brief).await.expect("cached").count, 2);
            // A value without any lifetime left is not cached.
            assert_eq!(token(&upstream, 3, Duration::ZERO).await.expect("fetched").count, 4);
            assert_eq!(token(&upstream, 3, Duration::ZERO).await.expect("fetched").count, 5);
            // What is added lives as its value says, too.
            assert!(token_entry(4).add(Token { count: 0, lives: brief }).await);
            assert!(token_entry(4).get().await.is_found());
            after(800).await;
            assert!(!token_entry(4).get().await.is_found());
        })
        .await;
}

#[coordinator_cached(name = "lasting", version = user, ttl = lives, skip(upstream, lives))]
async fn lasting(upstream: &Upstream, user: u32, lives: Duration) -> Result<usize, Down> {
    upstream.answer().await
}

#[tokio::test]
async fn ttl_may_be_an_expression_of_any_length() {
    let upstream = Upstream::default();
    let memcached = Memcached::start();
    for cache in [local().await, process(&memcached).await] {
        let fetched = upstream.fetches();
        cache
            .scope(async {
                for lives in [Duration::MAX, Duration::from_secs(u64::MAX / 2)] {
                    let user = lives.as_secs() as u32;
                    let first = lasting(&upstream, user, lives).await;
                    assert_eq!(lasting(&upstream, user, lives).await, first);
                }
                lasting(&upstream, 1, Duration::from_millis(700)).await.expect("fetched");
                lasting(&upstream, 1, Duration::from_millis(700)).await.expect("cached");
                after(800).await;
                lasting(&upstream, 1, Duration::from_millis(700)).await.expect("fetched");
            })
            .await;
        cache.flush().await;
        assert!(upstream.fetches() - fetched <= 4, "{}", upstream.fetches() - fetched);
    }
}

#[coordinator_cached(
    name = "maybe",
    version = user,
    skip(upstream, known),
    none_ttl = "700ms",
    entry = maybe_entry
)]
async fn maybe(upstream: &Upstream, user: u32, known: bool) -> Result<Option<usize>, Down> {
    let count = upstream.answer().await?;
    Ok(known.then_some(count))
}

#[tokio::test]
async fn none_ttl_caches_a_none_for_so_long() {
    let upstream = Upstream::default();
    local()
        .await
        .scope(async {
            assert_eq!(maybe(&upstream, 1, false).await, Ok(None));
            assert_eq!(maybe(&upstream, 1, true).await, Ok(None));
            assert_eq!(maybe_entry(1).get().await.into_option(), Some(None));
            assert_eq!(maybe(&upstream, 2, true).await, Ok(Some(2)));
            after(800).await;
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
async fn finished(upstream: &Upstream, user: u32) -> Result<usize, Down> {
    upstream.answer().await
}

#[tokio::test]
async fn cache_if_caches_only_what_it_is_true_for() {
    let upstream = Upstream::default();
    local()
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
async fn bounded(upstream: &Upstream, user: u32) -> Result<usize, Down> {
    upstream.answer().await
}

#[tokio::test]
async fn local_ttl_bounds_the_local_tier_alone() {
    let memcached = Memcached::start();
    let cache = process(&memcached).await;
    let upstream = Upstream::default();
    cache.scope(bounded(&upstream, 1)).await.expect("fetched");
    cache.flush().await;
    cache.scope(bounded(&upstream, 1)).await.expect("cached");
    after(800).await;
    cache.scope(bounded(&upstream, 1)).await.expect("cached");
    let stats = cache.stats().get("bounded").expect("called");
    assert_eq!((stats.fetches, stats.local_hits, stats.remote_hits), (1, 1, 1));
}

#[coordinator_cached(
    name = "remote_only",
    version = user,
    local = false,
    skip(upstream),
    entry = remote_only_entry
)]
async fn remote_only(upstream: &Upstream, user: u32) -> Result<usize, Down> {
    upstream.answer().await
}

#[coordinator_cached(
    name = "local_only",
    version = user,
    remote = false,
    skip(upstream),
    entry = local_only_entry
)]
async fn local_only(upstream: &Upstream, user: u32) -> Result<usize, Down> {
    upstream.answer().await
}

#[tokio::test]
async fn a_tier_can_be_left_out() {
    let memcached = Memcached::start();
    let cache = process(&memcached).await;
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
            assert_eq!(memcached.remaining(&key), None, "nothing went to memcached");
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
async fn kept(upstream: &Upstream, user: u32) -> Result<usize, Down> {
    upstream.answer().await
}

#[tokio::test]
async fn stale_if_error_serves_an_expired_value_when_the_fetch_fails() {
    let upstream = Upstream::default();
    let cache = local().await;
    cache
        .scope(async {
            assert_eq!(kept(&upstream, 1).await, Ok(1));
            upstream.fail();
            after(2100).await;
            assert!(!kept_entry(1).get().await.is_found(), "it has expired");
            assert_eq!(kept(&upstream, 1).await, Ok(1));
            assert_eq!(kept(&upstream, 1).await, Ok(1));
            assert_eq!(upstream.fetches(), 3, "each call tries");
            assert_eq!(kept(&upstream, 2).await, Err(Down), "there is nothing to serve");
            upstream.recover();
            assert_eq!(kept(&upstream, 1).await, Ok(5));
            assert_eq!(kept(&upstream, 1).await, Ok(5), "replaced");
            upstream.fail();
            after(5200).await;
            assert_eq!(kept(&upstream, 1).await, Err(Down), "kept no longer than declared");
        })
        .await;
    assert_eq!(cache.stats().get("kept").expect("called").stale_answers, 2);
}

#[tokio::test]
async fn stale_if_error_also_serves_what_another_process_left_in_memcached() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached).await, process(&memcached).await);
    let upstream = Upstream::default();
    assert_eq!(a.scope(kept(&upstream, 1)).await, Ok(1));
    a.flush().await;
    upstream.fail();
    after(2200).await;
    // A fetch that fails gives the right to replace the item back: nobody waits for it.
    let began = Instant::now();
    for process in [&b, &a, &b] {
        assert_eq!(process.scope(kept(&upstream, 1)).await, Ok(1));
        process.flush().await;
    }
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    assert_eq!(b.stats().get("kept").expect("called").stale_answers, 2);
    // When it works again, what expired is replaced, for everybody.
    upstream.recover();
    let fetched = b.scope(kept(&upstream, 1)).await.expect("fetched");
    assert!(fetched > 1);
    b.flush().await;
    let c = process(&memcached).await;
    assert_eq!(c.scope(kept(&upstream, 1)).await, Ok(fetched));
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Settings {
    theme: String,
}

#[coordinator_cached(name = "settings", version = user, infallible, skip(upstream))]
async fn settings(upstream: &Upstream, user: u32) -> Settings {
    Settings { theme: format!("{:?}", upstream.answer().await) }
}

#[tokio::test]
async fn infallible_caches_the_returned_value_whole() {
    let upstream = Upstream::default();
    local()
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
async fn price(upstream: Upstream, course: u32) -> Result<usize, Down> {
    after(20).await;
    upstream.answer().await
}

#[tokio::test]
async fn refresh_ahead_refreshes_in_the_background_while_all_are_served() {
    let upstream = Upstream::default();
    local()
        .await
        .scope(async {
            let price = || price(upstream.clone(), 1);
            assert_eq!(price().await, Ok(1));
            after(500).await;
            assert_eq!(price().await, Ok(1));
            assert_eq!(upstream.fetches(), 1, "not due yet");
            after(700).await;
            for _ in 0..50 {
                assert_eq!(price().await, Ok(1), "nobody waits for the refresh");
            }
            after(300).await;
            assert_eq!(upstream.fetches(), 2, "one of them refreshed it");
            assert_eq!(price().await, Ok(2));
            // A refresh that fails leaves the entry, and the next caller tries.
            upstream.fail();
            after(1200).await;
            for fetches in 3..=4 {
                assert_eq!(price().await, Ok(2));
                after(200).await;
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
async fn fleet_price(upstream: Upstream, course: u32) -> Result<usize, Down> {
    upstream.answer().await
}

#[tokio::test]
async fn refresh_ahead_is_done_once_across_processes() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached).await, process(&memcached).await);
    // So long that both have read the item before it is refreshed.
    let upstream = Upstream::default().taking(100);
    let price = |cache: &Cache| cache.scope(fleet_price(upstream.clone(), 1));
    assert_eq!(price(&a).await, Ok(1));
    a.flush().await;
    assert_eq!(price(&b).await, Ok(1));
    assert_eq!(upstream.fetches(), 1, "not due yet");
    after(4200).await;
    // Both read an item that is about to go; one of them refreshes it.
    assert_eq!(tokio::join!(price(&a), price(&b)), (Ok(1), Ok(1)));
    after(300).await;
    a.flush().await;
    b.flush().await;
    assert_eq!(upstream.fetches(), 2);
    assert_eq!(a.stats().total().refreshes + b.stats().total().refreshes, 1);
    let c = process(&memcached).await;
    assert_eq!(price(&c).await, Ok(2), "the fleet has the new one");
}

#[tokio::test]
async fn an_invalidation_during_a_refresh_wins() {
    let upstream = Upstream::default();
    local()
        .await
        .scope(async {
            let price = || price(upstream.clone(), 1);
            assert_eq!(price().await, Ok(1));
            after(1200).await;
            assert_eq!(price().await, Ok(1), "and refreshes");
            price_entry(1).overwrite(77).await.expect("no memcached");
            after(100).await;
            assert_eq!(upstream.fetches(), 2);
            assert_eq!(price().await, Ok(77));
        })
        .await;
}

#[coordinator_cached(
    name = "kept_long",
    version = user,
    ttl = "1s",
    stale_if_error = "1h",
    skip(upstream),
    entry = kept_long_entry
)]
async fn kept_long(upstream: &Upstream, user: u32) -> Result<usize, Down> {
    upstream.answer().await
}

#[tokio::test]
async fn fetches_that_fail_do_not_shorten_how_long_a_value_is_kept() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached).await, process(&memcached).await);
    let upstream = Upstream::default();
    assert_eq!(a.scope(kept_long(&upstream, 1)).await, Ok(1));
    a.flush().await;
    let key = a.scope(async { kept_long_entry(1).key().to_string() }).await;
    upstream.fail();
    let (began, before) = (Instant::now(), memcached.remaining(&key).expect("it is there"));
    after(1200).await;
    for _ in 0..20 {
        assert_eq!(b.scope(kept_long(&upstream, 1)).await, Ok(1));
        b.flush().await;
    }
    let left = memcached.remaining(&key).expect("it is there still");
    let passed = began.elapsed().as_secs() as i64 + 1;
    assert!(left >= before - passed, "{before} s, {passed} s later {left} s");
}

#[coordinator_cached(
    name = "jittered",
    version = number,
    ttl = "30s",
    skip(upstream),
    entry = jittered_entry
)]
async fn jittered(upstream: &Upstream, number: u32) -> Result<usize, Down> {
    upstream.answer().await
}

#[coordinator_cached(
    name = "briefly_or_none",
    version = user,
    ttl = "500ms",
    none_ttl = "1h",
    skip(upstream)
)]
async fn briefly_or_none(upstream: &Upstream, user: u32) -> Result<Option<usize>, Down> {
    upstream.answer().await.map(|_| None)
}

#[tokio::test]
async fn what_memcached_was_not_asked_for_is_not_kept_as_if_it_had_it() {
    let test = TestCache::with(Cache::builder().jitter(1.0)).expect("it fits");
    let upstream = Upstream::default();
    let mut alone = Vec::new();
    for number in 0..600 {
        test.run(jittered(&upstream, number)).await.expect("fetched");
        let key = test.run(async { jittered_entry(number).key() }).await;
        if !test.memcached().holds(&key) {
            alone.push(number);
        }
    }
    // One in 30 lives under a second.
    let asked = alone.len() + 600;
    test.run(briefly_or_none(&upstream, 1)).await.expect("fetched");
    test.advance(Duration::from_secs(6));
    for number in alone {
        test.run(jittered(&upstream, number)).await.expect("fetched");
    }
    test.run(briefly_or_none(&upstream, 1)).await.expect("fetched");
    assert_eq!(upstream.fetches(), asked + 2);
}

#[tokio::test]
async fn jitter_keeps_no_call_from_asking_memcached() {
    let test = TestCache::with(Cache::builder().jitter(1.0)).expect("it fits");
    let upstream = Upstream::default();
    for number in 0..600 {
        test.run(jittered(&upstream, number)).await.expect("fetched");
    }
    let stats = test.stats("jittered");
    assert_eq!(stats.fills + stats.fills_dropped, 600, "{stats:?}");
}
