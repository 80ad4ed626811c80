//! Tests the option `stale_if_error`: a call returns an expired value if the fetch of a new value
//! fails.
//!
//! A *refresh claim* is the right to replace an expired item. memcached grants it to one caller.
//! While a key's *home server* is lost, another server, the *gutter server*, takes its place.

use std::time::{Duration, Instant};

use cached_core::testing::{TestCache, TestMemcached};
use cached_core::{Cache, RequestScope, coordinator_cached};
use cached_tests::{Memcached, Upstream, UpstreamDown};
use tokio::task::JoinHandle;

use crate::functions::{new_process_cache, test_cache};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[coordinator_cached(
    name = "stale_profile",
    overwrite(reason = "users edit their profile and expect to see the edit"),
    stale_if_error = "1h",
    skip(upstream),
    entry = profile_entry
)]
async fn profile(upstream: &Upstream) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[coordinator_cached(
    name = "stale_rate",
    version = day,
    stale_if_error = "1h",
    skip(upstream),
    entry = rate_entry
)]
async fn rate(upstream: &Upstream, day: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn invalidated_values_are_never_served_stale() {
    let (upstream, a) = (Upstream::default(), TestCache::new());
    let b = a.another_process();
    assert_eq!(a.run(profile(&upstream)).await, Ok(1));
    assert_eq!(a.run(rate(&upstream, 1)).await, Ok(2));
    b.run(async { profile_entry().invalidate().await }).await.expect("memcached is reached");
    b.run(async { rate_entry(1).invalidate().await }).await.expect("memcached is reached");
    upstream.fail();
    for passed in [6 * SECOND, MINUTE, 30 * MINUTE] {
        a.advance(passed);
        assert_eq!(a.run(profile(&upstream)).await, Err(UpstreamDown));
        assert_eq!(b.run(profile(&upstream)).await, Err(UpstreamDown));
    }
    assert_eq!(a.run(rate(&upstream, 1)).await, Err(UpstreamDown));
}

#[tokio::test]
async fn invalidated_values_stay_gone_during_a_fetch() {
    let builder = Cache::builder().lease_wait(Duration::from_millis(20));
    let (upstream, a) = (Upstream::default(), test_cache(builder));
    let (b, c) = (a.another_process(), a.another_process());
    assert_eq!(a.run(profile(&upstream)).await, Ok(1));
    b.run(async { profile_entry().invalidate().await }).await.expect("memcached is reached");
    a.advance(6 * SECOND);
    upstream.fail();
    let slow = upstream.clone().taking_millis(10_000);
    let fetch = tokio::spawn(c.cache().scope(async move { profile(&slow).await }));
    while upstream.fetches() == 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(a.run(profile(&upstream)).await, Err(UpstreamDown));
    fetch.abort();
}

/// The gutter server keeps no expired values, so a miss there does not tell whether the entry was
/// invalidated. The process must therefore not return the expired value in its local tier.
#[tokio::test]
async fn invalidated_values_stay_gone_in_the_gutter() {
    let builder = Cache::builder().memcached(["one:1", "other:1"]);
    let (upstream, a) = (Upstream::default(), test_cache(builder));
    let b = a.another_process();
    assert_eq!(a.run(profile(&upstream)).await, Ok(1));
    let key = a.run(async { profile_entry().key() }).await;
    let home = ["one:1", "other:1"].into_iter().find(|at| a.memcached_at(at).holds(&key));
    b.run(async { profile_entry().invalidate().await }).await.expect("memcached is reached");
    upstream.fail();
    a.advance(6 * SECOND);
    a.memcached_at(home.expect("the value is stored")).fail();
    for _ in 0..5 {
        assert_eq!(a.run(profile(&upstream)).await, Err(UpstreamDown));
    }
}

#[tokio::test]
async fn a_lying_memcached_revives_no_expired_value() {
    let (upstream, a) = (Upstream::default(), TestCache::new());
    assert_eq!(a.run(profile(&upstream)).await, Ok(1));
    upstream.fail();
    a.advance(6 * SECOND);
    a.memcached().lie();
    for _ in 0..10 {
        assert_eq!(a.run(profile(&upstream)).await, Err(UpstreamDown));
    }
}

#[tokio::test]
async fn without_memcached_local_stale_values_are_served() {
    for misbehave in [TestMemcached::fail, TestMemcached::stall] {
        let builder = Cache::builder().remote_timeout(Duration::from_millis(10));
        let (upstream, a) = (Upstream::default(), test_cache(builder));
        assert_eq!(a.run(profile(&upstream)).await, Ok(1));
        upstream.fail();
        misbehave(&a.memcached());
        a.advance(6 * SECOND);
        // After the third call this process no longer uses the server.
        for _ in 0..5 {
            assert_eq!(a.run(profile(&upstream)).await, Ok(1));
        }
        assert_eq!(a.stats("stale_profile").stale_answers, 5);
        a.advance(61 * MINUTE);
        assert_eq!(
            a.run(profile(&upstream)).await,
            Err(UpstreamDown),
            "the value is kept for an hour"
        );
    }
}

/// Calls `rate` in a new task.
fn spawn_call(cache: &TestCache, upstream: &Upstream) -> JoinHandle<Result<usize, UpstreamDown>> {
    let upstream = upstream.clone();
    tokio::spawn(cache.cache().scope(async move { rate(&upstream, 1).await }))
}

/// Waits until the upstream has counted `fetches` fetches.
async fn wait_for_fetches(upstream: &Upstream, fetches: usize) {
    let began = async {
        while upstream.fetches() < fetches {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(10 * SECOND, began).await.expect("the fetch begins");
}

#[tokio::test]
async fn a_takeover_keeps_the_stale_value() {
    let (upstream, a) = (Upstream::default(), TestCache::new());
    assert_eq!(a.run(rate(&upstream, 1)).await, Ok(1));
    a.advance(31 * MINUTE);
    upstream.fail();
    // The local tier of this process never had the value.
    let (b, slow) = (a.another_process(), upstream.clone().taking_millis(500));
    let leader = spawn_call(&b, &slow);
    wait_for_fetches(&upstream, 2).await;
    let (successor, follower) = (spawn_call(&b, &slow), spawn_call(&b, &slow));
    tokio::time::sleep(Duration::from_millis(20)).await;
    leader.abort();
    wait_for_fetches(&upstream, 3).await;
    successor.abort();
    assert_eq!(follower.await.expect("no task panics"), Ok(1));
    assert_eq!(upstream.fetches(), 4, "each of the three calls fetches");
    assert_eq!(b.stats("stale_rate").stale_answers, 1);
    // The last call has given the refresh claim back. So another process fetches at once.
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
async fn month(upstream: &Upstream, user: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[coordinator_cached(
    name = "stale_weeks",
    version = user,
    ttl = "480h",
    stale_if_error = "288h",
    skip(upstream)
)]
async fn weeks(upstream: &Upstream, user: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

/// The value has a ttl of one hour. A process that reads the entry knows only the declared 29 days.
#[coordinator_cached(
    name = "stale_weeks_or_an_hour",
    version = user,
    ttl = "696h",
    ttl_with = |_| Duration::from_secs(3600),
    stale_if_error = "480h",
    skip(upstream)
)]
async fn weeks_or_an_hour(upstream: &Upstream, user: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test]
async fn stale_time_beyond_30_days_keeps_the_ttl() {
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
    assert_eq!(upstream.fetches(), 3 + 6, "both entries have expired");
    assert_eq!(b.run(weeks(&upstream, 1)).await, Ok(2));
    assert_eq!(
        b.stats("stale_weeks").stale_answers,
        0,
        "the entry has a ttl of 20 days, and 18 are left"
    );
    a.advance(17 * DAY);
    assert_eq!(b.run(weeks(&upstream, 1)).await, Ok(2));
    assert_eq!(b.stats("stale_weeks").stale_answers, 1);
}

#[coordinator_cached(
    name = "stale_for_long_on_a_server",
    overwrite(reason = "a refresh of the item shows in memcached"),
    ttl = valid_for,
    stale_if_error = "720h",
    refresh_ahead = "400h",
    skip(upstream, valid_for)
)]
async fn on_a_server(upstream: Upstream, valid_for: Duration) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

/// memcached takes a time of more than 30 days for a Unix timestamp. A command with such a time
/// would never get a refresh claim.
#[tokio::test]
async fn stale_time_beyond_30_days_allows_refreshes() {
    let (memcached, upstream) = (Memcached::start(), Upstream::default());
    let new_process_cache = async || {
        let builder = Cache::builder().memcached([memcached.address()]);
        builder.remote_timeout(SECOND).build().await.expect("the settings are valid")
    };
    let (a, b, valid_for) = (new_process_cache().await, new_process_cache().await, 6 * SECOND);
    assert_eq!(a.scope(on_a_server(upstream.clone(), valid_for)).await, Ok(1));
    a.flush().await;
    // No refresh starts in the first third of the ttl.
    tokio::time::sleep(valid_for / 2).await;
    assert_eq!(b.scope(on_a_server(upstream.clone(), valid_for)).await, Ok(1));
    wait_for_fetches(&upstream, 2).await;
    let stats = b.stats().get("stale_for_long_on_a_server").expect("the function was called");
    assert_eq!((stats.remote_hits, stats.refreshes, stats.stale_answers), (1, 1, 0));
}

#[coordinator_cached(
    name = "stale_offer",
    version = number,
    ttl = "10m",
    stale_if_error = "1h",
    skip(upstream, removed),
    entry = offer_entry
)]
async fn offer(
    upstream: &Upstream,
    number: u32,
    removed: bool,
) -> Result<Option<usize>, UpstreamDown> {
    Ok(Some(upstream.fetch().await?).filter(|_| !removed))
}

#[coordinator_cached(
    name = "stale_odd",
    overwrite(reason = "a count has no version of its own"),
    ttl = "10m",
    stale_if_error = "1h",
    cache_if = |count| count % 2 == 1,
    skip(upstream),
    entry = odd_entry
)]
async fn odd(upstream: &Upstream) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn values_the_upstream_removed_are_not_stale() {
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
            assert_eq!(process.run(offer(&upstream, 1, false)).await, Err(UpstreamDown));
            assert_eq!(process.run(odd(&upstream)).await, Err(UpstreamDown));
        }
        assert_eq!(
            b.run(offer(&upstream, 2, false)).await,
            Ok(Some(2)),
            "the upstream has not removed this offer"
        );
    }
}

/// memcached fails after the removal, so a stale value could only come from the local tier.
#[tokio::test]
async fn removed_values_leave_the_local_tier() {
    let (upstream, a) = (Upstream::default(), TestCache::new());
    assert_eq!(a.run(offer(&upstream, 1, false)).await, Ok(Some(1)));
    a.advance(11 * MINUTE);
    assert_eq!(a.run(offer(&upstream, 1, true)).await, Ok(None));
    upstream.fail();
    a.memcached().fail();
    assert_eq!(a.run(offer(&upstream, 1, false)).await, Err(UpstreamDown));
}

#[tokio::test]
async fn followers_of_a_removal_get_none() {
    let (upstream, a) = (Upstream::default(), TestCache::new());
    let b = a.another_process();
    assert_eq!(a.run(offer(&upstream, 1, false)).await, Ok(Some(1)));
    a.advance(11 * MINUTE);
    let slow = upstream.clone().taking_millis(100);
    let call = || {
        let slow = slow.clone();
        tokio::spawn(a.cache().scope(async move { offer(&slow, 1, true).await }))
    };
    let leader = call();
    wait_for_fetches(&upstream, 2).await;
    let follower = call();
    assert_eq!(b.run(offer(&upstream, 1, false)).await, Ok(Some(1)));
    assert_eq!(leader.await.expect("no task panics"), Ok(None));
    assert_eq!(follower.await.expect("no task panics"), Ok(None));
    a.cache().flush().await;
    assert_eq!(upstream.fetches(), 2);
    let key = a.run(async { offer_entry(1).key() }).await;
    assert!(!a.memcached().holds(&key));
    assert_eq!(b.run(offer(&upstream, 1, false)).await, Ok(Some(3)));
}

#[tokio::test]
async fn a_removal_spares_values_stored_later() {
    let (upstream, a) = (Upstream::default(), TestCache::new());
    assert_eq!(a.run(odd(&upstream)).await, Ok(1));
    a.advance(11 * MINUTE);
    for (process, value) in [(a.another_process(), 101), (a.clone(), 103)] {
        let slow = upstream.clone().taking_millis(100);
        let fetches = upstream.fetches();
        let fetch = tokio::spawn(a.cache().scope(async move { odd(&slow).await }));
        wait_for_fetches(&upstream, fetches + 1).await;
        process
            .run(async { odd_entry().overwrite(value).await })
            .await
            .expect("memcached is reached");
        assert_eq!(fetch.await.expect("no task panics"), Ok(fetches + 1));
        a.cache().flush().await;
        upstream.fail();
        for process in [&a, &a.another_process()] {
            assert_eq!(process.run(odd(&upstream)).await, Ok(value));
            process.advance(11 * MINUTE);
            assert_eq!(
                process.run(odd(&upstream)).await,
                Ok(value),
                "the value is kept for errors"
            );
        }
        upstream.recover();
        // The next answer must be even, because `cache_if` refuses even counts.
        if upstream.fetches() % 2 == 0 {
            upstream.fetch().await.expect("the upstream works");
        }
    }
}

#[tokio::test]
async fn a_forced_miss_removes_no_live_entry() {
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
async fn a_removal_replaces_a_lost_refresh() {
    let builder = Cache::builder().lease(SECOND);
    let (upstream, a) = (Upstream::default(), test_cache(builder));
    let b = a.another_process();
    assert_eq!(a.run(offer(&upstream, 1, false)).await, Ok(Some(1)));
    a.advance(11 * MINUTE);
    // A process wins the refresh claim and does not finish in time.
    let (lost, slow) = (a.another_process(), upstream.clone().taking_millis(60_000));
    let lost = lost.cache().scope(async move { offer(&slow, 1, false).await });
    let lost = tokio::spawn(lost);
    wait_for_fetches(&upstream, 2).await;
    assert_eq!(b.run(offer(&upstream, 1, true)).await, Ok(Some(1)));
    tokio::time::sleep(SECOND + SECOND / 10).await;
    assert_eq!(b.run(offer(&upstream, 1, true)).await, Ok(None));
    upstream.fail();
    for process in [&a, &b] {
        assert_eq!(process.run(offer(&upstream, 1, false)).await, Err(UpstreamDown));
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
async fn kept(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    let _ = number;
    upstream.fetch().await
}

#[tokio::test]
async fn other_processes_serve_stale_during_a_refetch() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default();
    assert_eq!(a.scope(kept(&upstream, 1)).await, Ok(1));
    a.flush().await;
    tokio::time::sleep(Duration::from_millis(2200)).await;
    let slow = upstream.clone().taking_millis(1500);
    let refetch = tokio::spawn({
        let slow = slow.clone();
        a.scope(async move { kept(&slow, 1).await })
    });
    while slow.fetches() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..5 {
        assert_eq!(b.scope(kept(&upstream, 1)).await, Ok(1), "the expired value is served at once");
    }
    assert!(!refetch.is_finished(), "no call waits for the refetch");
    let stats = b.stats().get("kept").expect("the function was called");
    assert_eq!((stats.fetches, stats.stale_answers), (0, 5));
    assert_eq!(refetch.await.expect("no task panics"), Ok(2));
    a.flush().await;
    assert_eq!(b.scope(kept(&upstream, 1)).await, Ok(2));
}

#[tokio::test]
async fn an_orphaned_refresh_claim_times_out() {
    let memcached = Memcached::start();
    let builder =
        || Cache::builder().memcached([memcached.address()]).lease(Duration::from_secs(1));
    let (a, b) = (
        builder().build().await.expect("the settings are valid"),
        builder().build().await.expect("the settings are valid"),
    );
    let upstream = Upstream::default();
    assert_eq!(a.scope(kept(&upstream, 1)).await, Ok(1));
    a.flush().await;
    tokio::time::sleep(Duration::from_millis(2200)).await;
    // A process wins the refresh claim, and then does nothing.
    let key = a.scope(async { kept_entry(1).key().to_string() }).await;
    let won = memcached.command(&format!("mg {key} R62"));
    assert!(won.split(' ').any(|flag| flag == "W"), "{won}");
    let began = Instant::now();
    while upstream.fetches() == 1 {
        for process in [&a, &b] {
            let answer = process.scope(kept(&upstream, 1)).await.expect("the call succeeds");
            let is_claim_over = began.elapsed() > Duration::from_secs(1);
            assert!(answer == 1 || is_claim_over, "the claim holds for a second: {answer}");
        }
        assert!(began.elapsed() < Duration::from_secs(10), "a process takes over within 10 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    a.flush().await;
    b.flush().await;
    for process in [&a, &b] {
        let answer = process.scope(kept(&upstream, 1)).await.expect("the call succeeds");
        assert!(answer > 1, "the value is replaced for both processes");
    }
    assert!(upstream.fetches() <= 3, "each process fetches once at most");
}
