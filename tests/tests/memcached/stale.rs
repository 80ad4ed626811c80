//! `stale_if_error`: what is kept of an entry that has expired, for how long, and who may have it.

use std::time::{Duration, Instant};

use cached_core::testing::TestCache;
use cached_core::{Cache, RequestScope, coordinator_cached};
use cached_tests::{Down, Memcached, Upstream};
use tokio::task::JoinHandle;

use crate::functions::process;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[coordinator_cached(
    name = "stale_profile",
    overwrite(reason = "users edit their profile and expect to see the edit"),
    stale_if_error = "1h",
    skip(upstream),
    entry = profile_entry
)]
async fn profile(upstream: &Upstream) -> Result<usize, Down> {
    upstream.answer().await
}

#[coordinator_cached(
    name = "stale_rate",
    version = day,
    stale_if_error = "1h",
    skip(upstream),
    entry = rate_entry
)]
async fn rate(upstream: &Upstream, day: u32) -> Result<usize, Down> {
    upstream.answer().await
}

#[tokio::test]
async fn what_another_process_invalidated_is_not_served_where_fetches_fail() {
    let (upstream, a) = (Upstream::default(), TestCache::new());
    let b = a.another_process();
    assert_eq!(a.run(profile(&upstream)).await, Ok(1));
    assert_eq!(a.run(rate(&upstream, 1)).await, Ok(2));
    b.run(async { profile_entry().invalidate().await }).await.expect("told");
    b.run(async { rate_entry(1).invalidate().await }).await.expect("told");
    upstream.fail();
    for passed in [6 * SECOND, MINUTE, 30 * MINUTE] {
        a.advance(passed);
        assert_eq!(a.run(profile(&upstream)).await, Err(Down));
        assert_eq!(b.run(profile(&upstream)).await, Err(Down));
    }
    assert_eq!(a.run(rate(&upstream, 1)).await, Err(Down));
}

#[tokio::test]
async fn what_another_process_invalidated_is_not_served_while_a_third_has_the_lease() {
    let builder = Cache::builder().lease_wait(Duration::from_millis(20));
    let (upstream, a) = (Upstream::default(), TestCache::with(builder).expect("fits"));
    let (b, c) = (a.another_process(), a.another_process());
    assert_eq!(a.run(profile(&upstream)).await, Ok(1));
    b.run(async { profile_entry().invalidate().await }).await.expect("told");
    a.advance(6 * SECOND);
    upstream.fail();
    let slow = upstream.clone().taking(10_000);
    let fetch = tokio::spawn(c.cache().scope(async move { profile(&slow).await }));
    while upstream.fetches() == 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(a.run(profile(&upstream)).await, Err(Down));
    fetch.abort();
}

/// The gutter keeps nothing for errors, so it cannot say that the entry was not invalidated at home.
#[tokio::test]
async fn what_another_process_invalidated_is_not_served_where_another_server_stands_in() {
    let builder = Cache::builder().memcached(["one:1", "other:1"]);
    let (upstream, a) = (Upstream::default(), TestCache::with(builder).expect("fits"));
    let b = a.another_process();
    assert_eq!(a.run(profile(&upstream)).await, Ok(1));
    let key = a.run(async { profile_entry().key() }).await;
    let home = ["one:1", "other:1"].into_iter().find(|at| a.memcached_at(at).holds(&key));
    b.run(async { profile_entry().invalidate().await }).await.expect("told");
    upstream.fail();
    a.advance(6 * SECOND);
    a.memcached_at(home.expect("it is stored")).fail();
    for _ in 0..5 {
        assert_eq!(a.run(profile(&upstream)).await, Err(Down));
    }
}

#[tokio::test]
async fn a_lie_of_a_memcached_brings_back_nothing_that_has_expired() {
    let (upstream, a) = (Upstream::default(), TestCache::new());
    assert_eq!(a.run(profile(&upstream)).await, Ok(1));
    upstream.fail();
    a.advance(6 * SECOND);
    a.memcached().lie();
    for _ in 0..10 {
        assert_eq!(a.run(profile(&upstream)).await, Err(Down));
    }
}

#[tokio::test]
async fn with_memcached_out_of_reach_the_process_serves_what_it_keeps_itself() {
    for hangs in [false, true] {
        let builder = Cache::builder().remote_timeout(Duration::from_millis(10));
        let (upstream, a) = (Upstream::default(), TestCache::with(builder).expect("fits"));
        assert_eq!(a.run(profile(&upstream)).await, Ok(1));
        upstream.fail();
        match hangs {
            true => a.memcached().stall(),
            false => a.memcached().fail(),
        }
        a.advance(6 * SECOND);
        // Ejected from the third call on.
        for _ in 0..5 {
            assert_eq!(a.run(profile(&upstream)).await, Ok(1));
        }
        assert_eq!(a.stats("stale_profile").stale_answers, 5);
        a.advance(61 * MINUTE);
        assert_eq!(a.run(profile(&upstream)).await, Err(Down), "it is kept no longer");
    }
}

/// Calls in a task of its own.
fn call(cache: &TestCache, upstream: &Upstream) -> JoinHandle<Result<usize, Down>> {
    let upstream = upstream.clone();
    tokio::spawn(cache.cache().scope(async move { rate(&upstream, 1).await }))
}

async fn fetched(upstream: &Upstream, fetches: usize) {
    let began = async {
        while upstream.fetches() < fetches {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(10 * SECOND, began).await.expect("the fetch begins");
}

#[tokio::test]
async fn who_takes_over_from_a_cancelled_leader_has_its_kept_value_too() {
    let (upstream, a) = (Upstream::default(), TestCache::new());
    assert_eq!(a.run(rate(&upstream, 1)).await, Ok(1));
    a.advance(31 * MINUTE);
    upstream.fail();
    // A process whose local tier never had it.
    let (b, slow) = (a.another_process(), upstream.clone().taking(500));
    let leader = call(&b, &slow);
    fetched(&upstream, 2).await;
    let (heir, follower) = (call(&b, &slow), call(&b, &slow));
    tokio::time::sleep(Duration::from_millis(20)).await;
    leader.abort();
    fetched(&upstream, 3).await;
    heir.abort();
    assert_eq!(follower.await.expect("no panic"), Ok(1));
    assert_eq!(upstream.fetches(), 4, "each of the three has led");
    assert_eq!(b.stats("stale_rate").stale_answers, 1);
    // The right to replace it was given back.
    upstream.recover();
    let c = a.another_process();
    assert_eq!(c.run(rate(&upstream, 1)).await, Ok(5));
}

#[coordinator_cached(
    name = "stale_month",
    version = user,
    ttl = "24h",
    stale_if_error = "720h",
    skip(upstream)
)]
async fn month(upstream: &Upstream, user: u32) -> Result<usize, Down> {
    upstream.answer().await
}

#[coordinator_cached(
    name = "stale_weeks",
    version = user,
    ttl = "480h",
    stale_if_error = "288h",
    skip(upstream)
)]
async fn weeks(upstream: &Upstream, user: u32) -> Result<usize, Down> {
    upstream.answer().await
}

/// Who reads it knows only the ttl that is declared.
#[coordinator_cached(
    name = "stale_weeks_or_an_hour",
    version = user,
    ttl = "696h",
    ttl_with = |_| Duration::from_secs(3600),
    stale_if_error = "480h",
    skip(upstream)
)]
async fn weeks_or_an_hour(upstream: &Upstream, user: u32) -> Result<usize, Down> {
    upstream.answer().await
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test]
async fn a_ttl_and_a_time_for_errors_of_over_30_days_together_leave_an_entry_fresh_at_first() {
    let (upstream, a) = (Upstream::default(), TestCache::new());
    assert_eq!(a.run(month(&upstream, 1)).await, Ok(1));
    assert_eq!(a.run(weeks(&upstream, 1)).await, Ok(2));
    assert_eq!(a.run(weeks_or_an_hour(&upstream, 1)).await, Ok(3));
    a.advance(23 * 60 * MINUTE);
    let b = a.another_process();
    assert_eq!(b.run(month(&upstream, 1)).await, Ok(1));
    assert_eq!(b.run(weeks(&upstream, 1)).await, Ok(2));
    assert_eq!(b.stats("stale_month").remote_hits, 1);
    upstream.fail();
    a.advance(60 * MINUTE);
    for process in [&a, &b, &a.another_process()] {
        assert_eq!(process.run(month(&upstream, 1)).await, Ok(1));
        assert_eq!(process.run(weeks_or_an_hour(&upstream, 1)).await, Ok(3));
    }
    assert_eq!(upstream.fetches(), 3 + 6, "they have expired");
    assert_eq!(b.run(weeks(&upstream, 1)).await, Ok(2));
    assert_eq!(b.stats("stale_weeks").stale_answers, 0, "20 days of ttl, of which 18 are left");
    a.advance(17 * DAY);
    assert_eq!(b.run(weeks(&upstream, 1)).await, Ok(2));
    assert_eq!(b.stats("stale_weeks").stale_answers, 1);
}

#[coordinator_cached(
    name = "stale_for_long_on_a_server",
    overwrite(reason = "a lease can be seen by who replaces the item"),
    ttl = lives,
    stale_if_error = "720h",
    refresh_ahead = "400h",
    skip(upstream, lives)
)]
async fn on_a_server(upstream: Upstream, lives: Duration) -> Result<usize, Down> {
    upstream.answer().await
}

/// memcached takes a number of seconds over 30 days for a date, and then lets nobody replace an item.
#[tokio::test]
async fn what_is_refreshed_and_kept_for_over_30_days_together_is_refreshed_in_memcached() {
    let (memcached, upstream) = (Memcached::start(), Upstream::default());
    let process = async || {
        let builder = Cache::builder().memcached([memcached.address()]);
        builder.remote_timeout(SECOND).build().await.expect("fits")
    };
    let (a, b, lives) = (process().await, process().await, 6 * SECOND);
    assert_eq!(a.scope(on_a_server(upstream.clone(), lives)).await, Ok(1));
    a.flush().await;
    // It is not refreshed in the first third of its life.
    tokio::time::sleep(lives / 2).await;
    assert_eq!(b.scope(on_a_server(upstream.clone(), lives)).await, Ok(1));
    fetched(&upstream, 2).await;
    let stats = b.stats().get("stale_for_long_on_a_server").expect("called");
    assert_eq!((stats.remote_hits, stats.refreshes, stats.stale_answers), (1, 1, 0));
}

#[coordinator_cached(
    name = "stale_offer",
    version = number,
    ttl = "10m",
    stale_if_error = "1h",
    skip(upstream, gone),
    entry = offer_entry
)]
async fn offer(upstream: &Upstream, number: u32, gone: bool) -> Result<Option<usize>, Down> {
    Ok(Some(upstream.answer().await?).filter(|_| !gone))
}

#[coordinator_cached(
    name = "stale_even",
    overwrite(reason = "a count has no version of its own"),
    ttl = "10m",
    stale_if_error = "1h",
    cache_if = |count| count % 2 == 1,
    skip(upstream),
    entry = odd_entry
)]
async fn odd(upstream: &Upstream) -> Result<usize, Down> {
    upstream.answer().await
}

#[tokio::test]
async fn what_a_healthy_upstream_says_is_gone_is_not_served_for_errors() {
    for a in [TestCache::local(), TestCache::new()] {
        let (upstream, b) = (Upstream::default(), a.another_process());
        assert_eq!(a.run(offer(&upstream, 1, false)).await, Ok(Some(1)));
        assert_eq!(b.run(offer(&upstream, 2, false)).await, Ok(Some(2)));
        assert_eq!(a.run(odd(&upstream)).await, Ok(3));
        a.advance(11 * MINUTE);
        assert_eq!(a.run(odd(&upstream)).await, Ok(4));
        assert_eq!(a.run(offer(&upstream, 1, true)).await, Ok(None));
        upstream.fail();
        for process in [&a, &b] {
            assert_eq!(process.run(offer(&upstream, 1, false)).await, Err(Down));
            assert_eq!(process.run(odd(&upstream)).await, Err(Down));
        }
        assert_eq!(b.run(offer(&upstream, 2, false)).await, Ok(Some(2)), "nobody said that");
    }
}

/// The process that gets the answer cannot ask memcached afterwards: nor has it kept the value itself.
#[tokio::test]
async fn what_is_gone_is_gone_from_the_local_tier_too() {
    let (upstream, a) = (Upstream::default(), TestCache::new());
    assert_eq!(a.run(offer(&upstream, 1, false)).await, Ok(Some(1)));
    a.advance(11 * MINUTE);
    assert_eq!(a.run(offer(&upstream, 1, true)).await, Ok(None));
    upstream.fail();
    a.memcached().fail();
    assert_eq!(a.run(offer(&upstream, 1, false)).await, Err(Down));
}

#[tokio::test]
async fn followers_are_told_that_it_is_gone_and_others_what_is_kept_until_then() {
    let (upstream, a) = (Upstream::default(), TestCache::new());
    let b = a.another_process();
    assert_eq!(a.run(offer(&upstream, 1, false)).await, Ok(Some(1)));
    a.advance(11 * MINUTE);
    let slow = upstream.clone().taking(100);
    let call = || {
        let slow = slow.clone();
        tokio::spawn(a.cache().scope(async move { offer(&slow, 1, true).await }))
    };
    let leader = call();
    fetched(&upstream, 2).await;
    let follower = call();
    assert_eq!(b.run(offer(&upstream, 1, false)).await, Ok(Some(1)));
    assert_eq!(leader.await.expect("no panic"), Ok(None));
    assert_eq!(follower.await.expect("no panic"), Ok(None));
    a.cache().flush().await;
    assert_eq!(upstream.fetches(), 2);
    let key = a.run(async { offer_entry(1).key() }).await;
    assert!(!a.memcached().holds(&key));
    assert_eq!(b.run(offer(&upstream, 1, false)).await, Ok(Some(3)));
}

#[tokio::test]
async fn what_another_stored_meanwhile_is_not_gone() {
    let (upstream, a) = (Upstream::default(), TestCache::new());
    assert_eq!(a.run(odd(&upstream)).await, Ok(1));
    a.advance(11 * MINUTE);
    for (process, value) in [(a.another_process(), 101), (a.clone(), 103)] {
        let slow = upstream.clone().taking(100);
        let fetches = upstream.fetches();
        let fetch = tokio::spawn(a.cache().scope(async move { odd(&slow).await }));
        fetched(&upstream, fetches + 1).await;
        process.run(async { odd_entry().overwrite(value).await }).await.expect("told");
        assert_eq!(fetch.await.expect("no panic"), Ok(fetches + 1));
        a.cache().flush().await;
        upstream.fail();
        for process in [&a, &a.another_process()] {
            assert_eq!(process.run(odd(&upstream)).await, Ok(value));
            process.advance(11 * MINUTE);
            assert_eq!(process.run(odd(&upstream)).await, Ok(value), "kept for errors");
        }
        upstream.recover();
        // An odd number of them, so that the next answer is refused.
        if upstream.fetches() % 2 == 0 {
            upstream.answer().await.expect("it is well");
        }
    }
}

#[tokio::test]
async fn an_entry_that_is_alive_stays_where_a_request_that_misses_by_force_finds_nothing() {
    for a in [TestCache::local(), TestCache::new()] {
        let upstream = Upstream::default();
        assert_eq!(a.run(odd(&upstream)).await, Ok(1));
        let forced = RequestScope::new().force_miss(true);
        assert_eq!(a.run(forced.run(odd(&upstream))).await, Ok(2));
        assert_eq!(a.run(odd(&upstream)).await, Ok(1));
        assert_eq!(upstream.fetches(), 2);
    }
}

#[tokio::test]
async fn what_is_gone_is_gone_too_for_who_fetches_in_place_of_a_lost_winner() {
    let builder = Cache::builder().lease(SECOND);
    let (upstream, a) = (Upstream::default(), TestCache::with(builder).expect("fits"));
    let b = a.another_process();
    assert_eq!(a.run(offer(&upstream, 1, false)).await, Ok(Some(1)));
    a.advance(11 * MINUTE);
    // It wins the right to replace it, and is not heard of again.
    let (lost, slow) = (a.another_process(), upstream.clone().taking(60_000));
    let lost = lost.cache().scope(async move { offer(&slow, 1, false).await });
    let lost = tokio::spawn(lost);
    fetched(&upstream, 2).await;
    assert_eq!(b.run(offer(&upstream, 1, true)).await, Ok(Some(1)));
    tokio::time::sleep(SECOND + SECOND / 10).await;
    assert_eq!(b.run(offer(&upstream, 1, true)).await, Ok(None));
    upstream.fail();
    for process in [&a, &b] {
        assert_eq!(process.run(offer(&upstream, 1, false)).await, Err(Down));
    }
    lost.abort();
}

#[coordinator_cached(
    name = "kept",
    version = number,
    ttl = "2s",
    stale_if_error = "60s",
    skip(upstream),
    entry = kept_entry
)]
async fn kept(upstream: &Upstream, number: u32) -> Result<usize, Down> {
    let _ = number;
    upstream.answer().await
}

#[tokio::test]
async fn while_one_process_replaces_an_expired_value_others_are_served_it() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached).await, process(&memcached).await);
    let upstream = Upstream::default();
    assert_eq!(a.scope(kept(&upstream, 1)).await, Ok(1));
    a.flush().await;
    tokio::time::sleep(Duration::from_millis(2200)).await;
    let slow = upstream.clone().taking(1500);
    let refetch = tokio::spawn({
        let slow = slow.clone();
        a.scope(async move { kept(&slow, 1).await })
    });
    while slow.fetches() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..5 {
        assert_eq!(b.scope(kept(&upstream, 1)).await, Ok(1), "stale, and at once");
    }
    assert!(!refetch.is_finished(), "nobody waited for it");
    let stats = b.stats().get("kept").expect("called");
    assert_eq!((stats.fetches, stats.stale_answers), (0, 5));
    assert_eq!(refetch.await.expect("no panic"), Ok(2));
    a.flush().await;
    assert_eq!(b.scope(kept(&upstream, 1)).await, Ok(2));
}

#[tokio::test]
async fn a_killed_winner_does_not_keep_an_expired_value_from_being_replaced() {
    let memcached = Memcached::start();
    let builder =
        || Cache::builder().memcached([memcached.address()]).lease(Duration::from_secs(1));
    let (a, b) = (builder().build().await.expect("fits"), builder().build().await.expect("fits"));
    let upstream = Upstream::default();
    assert_eq!(a.scope(kept(&upstream, 1)).await, Ok(1));
    a.flush().await;
    tokio::time::sleep(Duration::from_millis(2200)).await;
    // Somebody wins, and is not heard of again.
    let key = a.scope(async { kept_entry(1).key().to_string() }).await;
    let won = memcached.command(&format!("mg {key} R62"));
    assert!(won.split(' ').any(|flag| flag == "W"), "{won}");
    let began = Instant::now();
    while upstream.fetches() == 1 {
        for process in [&a, &b] {
            let answer = process.scope(kept(&upstream, 1)).await.expect("served");
            assert!(answer == 1 || began.elapsed() > Duration::from_secs(1), "{answer}");
        }
        assert!(began.elapsed() < Duration::from_secs(10), "nobody takes over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    a.flush().await;
    b.flush().await;
    for process in [&a, &b] {
        let answer = process.scope(kept(&upstream, 1)).await.expect("answered");
        assert!(answer > 1, "replaced, for everybody");
    }
    assert!(upstream.fetches() <= 3, "once in a process at most");
}
