//! The shortest and longest ttls, the largest values and the longest keys, with a memcached
//! process.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cached_core::{Cache, CacheBuilder, Tier, coordinator_cached};
use cached_tests::{Memcached, Upstream, UpstreamDown, collect_logs, logged};

fn builder(memcached: &Memcached) -> CacheBuilder {
    Cache::builder().memcached([memcached.address()]).remote_timeout(Duration::from_secs(5))
}

/// Returns a cache like that of a new process: it shares only memcached with other caches.
async fn new_process_cache(memcached: &Memcached) -> Cache {
    builder(memcached).build().await.expect("the settings are valid")
}

static FETCHES: AtomicUsize = AtomicUsize::new(0);

#[coordinator_cached(name = "brief", version = number, ttl = "900ms", entry = brief_entry)]
async fn brief(number: u32) -> Result<usize, ()> {
    let _ = number;
    Ok(FETCHES.fetch_add(1, Ordering::SeqCst))
}

#[tokio::test]
async fn a_ttl_below_a_second_stays_local() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let began = Instant::now();
    let first = a.scope(brief(7)).await;
    assert_eq!(a.scope(brief(7)).await, first);
    a.flush().await;
    let key = a.scope(async { brief_entry(7).key().to_string() }).await;
    assert_eq!(memcached.remaining_ttl(&key), None, "memcached has no item");
    assert_ne!(b.scope(brief(7)).await, first);
    while a.scope(async { brief_entry(7).get().await.is_found() }).await {
        assert!(began.elapsed() < Duration::from_secs(5), "the entry expires in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let lived = began.elapsed();
    assert!(lived >= Duration::from_millis(900), "the entry does not expire early: {lived:?}");
    assert_ne!(a.scope(brief(7)).await, first);
}

/// The ttl is known only after the fetch. By then memcached has granted a lease, which is the right
/// to fetch the missing value.
#[coordinator_cached(
    name = "brief_token",
    overwrite(reason = "a token has no version of its own"),
    ttl_with = |_| Duration::from_millis(900),
    entry = token_entry
)]
async fn token(number: u32) -> Result<u32, ()> {
    Ok(number)
}

#[tokio::test]
async fn a_value_ttl_below_a_second_stays_local() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    let key = cache.scope(async { token_entry(7).key().to_string() }).await;
    assert_eq!(cache.scope(token(7)).await, Ok(7));
    cache.flush().await;
    assert_eq!(
        memcached.remaining_ttl(&key),
        None,
        "memcached has neither the value nor the lease"
    );
    cache
        .scope(async { token_entry(7).overwrite(8).await })
        .await
        .expect("memcached needs no write");
    assert_eq!(memcached.remaining_ttl(&key), None);
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[coordinator_cached(name = "long", version = number, ttl = 45 * DAY, entry = long_entry)]
async fn long(number: u32) -> Result<u32, ()> {
    Ok(number)
}

#[tokio::test]
async fn a_ttl_above_thirty_days_is_valid() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    assert_eq!(a.scope(long(7)).await, Ok(7));
    a.flush().await;
    let key = a.scope(async { long_entry(7).key().to_string() }).await;
    let remaining = memcached.remaining_ttl(&key).expect("the value is stored");
    let month = 30 * DAY.as_secs() as i64;
    assert!((month - 5..=month).contains(&remaining), "the item has 30 days: {remaining} s");
    let tier = b.scope(async { long_entry(7).get().await.tier() }).await;
    assert_eq!(tier, Some(Tier::Remote));
}

#[coordinator_cached(name = "jittered", version = number, ttl = "1000s", entry = jittered_entry)]
async fn jittered(number: u32) -> Result<u32, ()> {
    Ok(number)
}

#[tokio::test]
async fn jitter_only_shortens_ttls() {
    let memcached = Memcached::start();
    let cache = builder(&memcached).jitter(0.5).build().await.expect("the settings are valid");
    let mut ttls = BTreeSet::new();
    for number in 0..200 {
        cache.scope(jittered(number)).await.expect("the call succeeds");
        cache.flush().await;
        let key = cache.scope(async { jittered_entry(number).key().to_string() }).await;
        ttls.insert(memcached.remaining_ttl(&key).expect("the value is stored"));
    }
    let (shortest, longest) =
        (ttls.first().expect("there are 200 entries"), ttls.last().expect("there are 200 entries"));
    // A few seconds may pass between the write to memcached and this check.
    assert!(*longest <= 1000 && *shortest >= 490, "jitter halves at most: {shortest} to {longest}");
    assert!(*longest > 900 && *shortest < 600, "jitter uses its range: {shortest} to {longest}");
    assert!(ttls.len() > 50, "the ttls differ: {ttls:?}");
}

#[coordinator_cached(
    name = "large",
    overwrite(reason = "a report has no version of its own"),
    entry = large_entry
)]
async fn large(number: u32) -> Result<String, ()> {
    Ok(number.to_string().repeat(2 << 20))
}

#[tokio::test]
async fn a_refused_value_is_counted_and_logged_once() {
    collect_logs();
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    for number in 1..=3 {
        for cache in [&a, &b] {
            let answer = cache.scope(large(number)).await.expect("the call succeeds");
            assert_eq!(answer.len(), 2 << 20);
            cache.flush().await;
        }
    }
    for cache in [&a, &b] {
        let stats = cache.stats().get("large").expect("the function was called");
        assert_eq!((stats.fetches, stats.fills, stats.fills_dropped), (3, 0, 3));
        assert_eq!(stats.remote_hits, 0);
    }
    // A refused overwrite removes the old value, and leaves no lease that other calls wait for.
    let overwrite = |value| a.scope(async { large_entry(7).overwrite(value).await });
    overwrite("small".to_owned()).await.expect("memcached stores the value");
    let refused = overwrite("large".repeat(1 << 20)).await;
    assert!(refused.is_err());
    let began = Instant::now();
    assert_eq!(b.scope(large(7)).await.expect("the call succeeds").len(), 2 << 20);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "no call waits for a lease: {took:?}");
    let warnings = logged(log::Level::Warn, "`large`");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

const LONGEST_NAME: &str = "a-name-of-48-characters-which-is-the-longest-one";

#[coordinator_cached(
    name = "a-name-of-48-characters-which-is-the-longest-one",
    version = text,
    entry = longest_entry
)]
async fn longest(text: &str) -> Result<usize, ()> {
    Ok(text.len())
}

#[tokio::test]
async fn the_longest_key_is_valid_in_memcached() {
    assert_eq!(LONGEST_NAME.len(), 48);
    let memcached = Memcached::start();
    let namespace = "n".repeat(64);
    let build = || builder(&memcached).namespace(&namespace).build();
    let (a, b) = (
        build().await.expect("the settings are valid"),
        build().await.expect("the settings are valid"),
    );
    let text = "any identifier: \r\n\0 ".repeat(1000);
    let key = a.scope(async { longest_entry(&text).key().to_string() }).await;
    assert!(key.starts_with(&format!("{namespace}:{LONGEST_NAME}:")), "{key}");
    assert!(key.len() <= 250, "{}", key.len());
    assert_eq!(a.scope(longest(&text)).await, Ok(text.len()));
    a.flush().await;
    assert!(memcached.remaining_ttl(&key).is_some());
    let tier = b.scope(async { longest_entry(&text).get().await.tier() }).await;
    assert_eq!(tier, Some(Tier::Remote));
    let too_long = builder(&memcached).namespace("n".repeat(65)).build().await;
    assert!(too_long.is_err());
}

#[coordinator_cached(
    name = "weighed_most",
    version = number,
    weight = |_| usize::MAX,
    skip(upstream)
)]
async fn weighed_most(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    let _ = number;
    upstream.fetch().await
}

/// The value is too heavy for the local tier. But memcached ignores the weight and stores the
/// value.
#[tokio::test]
async fn a_value_too_heavy_to_keep_is_shared() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default();
    for cache in [&a, &b, &b] {
        assert_eq!(cache.scope(weighed_most(&upstream, 7)).await, Ok(1));
        cache.flush().await;
    }
    let stats = b.stats().get("weighed_most").expect("the function was called");
    assert_eq!(stats.fetches, 0);
    assert!(stats.remote_hits >= 1, "the value comes from memcached");
}
