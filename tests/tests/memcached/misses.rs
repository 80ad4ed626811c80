//! With the log level `Debug`, each miss (a call without a cached value) logs one line that says
//! why.

use std::time::Duration;

use cached_core::testing::TestCache;
use cached_core::{Cache, RequestScope, coordinator_cached};
use cached_tests::{Memcached, Upstream, UpstreamDown, collect_misses, logged, poll_once};
use log::Level;

use crate::functions::new_process_cache;

/// Returns the lines about the misses of this function.
fn lines(name: &str) -> Vec<String> {
    logged(Level::Debug, &format!("miss of `{name}:"))
}

/// Checks that the function has logged one line for each of `before` earlier misses, and one for
/// the last miss. The last line must contain the words in this order.
#[track_caller]
fn assert_line(name: &str, before: usize, words: &[&str]) {
    let lines = lines(name);
    assert_eq!(lines.len(), before + 1, "each miss has one line: {lines:#?}");
    let mut rest = lines[before].as_str();
    for word in words {
        let Some((_, after)) = rest.split_once(word) else {
            panic!("the line has no `{word}` here: {}", lines[before]);
        };
        rest = after;
    }
}

#[coordinator_cached(
    name = "miss_order",
    version = revision,
    skip(upstream),
    entry = order_entry
)]
async fn order(upstream: &Upstream, number: &str, revision: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn a_miss_says_what_each_tier_had() {
    collect_misses();
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default().taking_millis(5);
    let call = || order(&upstream, "no-4711", 1);
    a.scope(call()).await.expect("the call succeeds");
    let words = ["local tier: absent; memcached: absent, lease won (", "); fetch: a value in "];
    assert_line("miss_order", 0, &words);
    let digest = a.scope(async { order_entry("no-4711", 1).key() }).await.digest().to_string();
    let line = lines("miss_order").remove(0);
    assert!(line.contains(&digest), "the line has the digest: {line}");
    assert!(!line.contains("4711"), "no identifier is in the line: {line}");

    a.scope(call()).await.expect("the call succeeds");
    assert_eq!(lines("miss_order").len(), 1, "a hit has no line");
    a.flush().await;
    let request = RequestScope::new().run(call());
    b.scope(request).await.expect("the call succeeds");
    assert_line("miss_order", 1, &["request tier: absent; local tier: absent; memcached: hit ("]);
    let forced = RequestScope::new().force_miss(true).run(call());
    b.scope(forced).await.expect("the call succeeds");
    let words = ["not read, because the request forces a miss", "not used because", "fetch: "];
    assert_line("miss_order", 2, &words);

    a.scope(async { order_entry("no-4711", 1).invalidate().await })
        .await
        .expect("memcached confirms the removal");
    a.scope(call()).await.expect("the call succeeds");
    assert_line("miss_order", 3, &["lease won", " before: the entry was invalidated"]);
}

#[coordinator_cached(
    name = "miss_refused",
    version = edition,
    skip(upstream),
    cache_if = |fetch| *fetch > 2
)]
async fn refused(upstream: &Upstream, edition: u8) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn a_miss_says_why_a_value_was_refused() {
    collect_misses();
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    let upstream = Upstream::default();
    let call = || cache.scope(refused(&upstream, 1));
    call().await.expect("the call succeeds");
    assert_line("miss_refused", 0, &["which is not cached because `cache_if` refused it"]);
    cache.flush().await;
    upstream.fail();
    call().await.expect_err("the upstream fails");
    let words = ["fetch: an error in ", " before: the value was not cached because `cache_if`"];
    assert_line("miss_refused", 1, &words);
    cache.flush().await;
    upstream.recover();
    call().await.expect("the call succeeds");
    assert_line("miss_refused", 2, &["fetch: a value in ", " before: the fetch failed"]);
}

#[coordinator_cached(name = "miss_outage", version = edition, skip(upstream))]
async fn outage(upstream: &Upstream, edition: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn a_miss_names_one_cause_per_failed_read() {
    collect_misses();
    let mut memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    let upstream = Upstream::default();
    let call = |edition| cache.scope(outage(&upstream, edition));
    call(0).await.expect("the call succeeds");
    memcached.kill();
    for edition in 1..9 {
        call(edition).await.expect("the call succeeds");
    }
    let lines = lines("miss_outage");
    assert_eq!(lines.len(), 9, "{lines:#?}");
    let failed = format!("memcached: failed (memcached at {}: ", memcached.address());
    assert!(lines[1].contains(&failed) && !lines[1].contains("eject"), "{}", lines[1]);
    let ejected = "it is ejected after several failures in a row) (";
    assert!(lines[8].contains(ejected), "{}", lines[8]);
}

#[coordinator_cached(name = "miss_foreign", version = edition, skip(upstream), entry = foreign_entry)]
async fn foreign(upstream: &Upstream, edition: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn a_miss_tells_foreign_values_from_damaged_ones() {
    collect_misses();
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    let upstream = Upstream::default();
    let key = |edition| async move { foreign_entry(edition).key().to_string() };
    // The third byte of an encoded value is the number of its format. No build uses format 9 yet.
    let encoded_values = [
        ("cc9 a value in a later format, as it may look", "a value of another build's type"),
        ("not a value of the library", "a damaged value"),
    ];
    for (edition, (encoded, finding)) in (0..).zip(encoded_values) {
        memcached.store(&cache.scope(key(edition)).await, encoded);
        cache.scope(foreign(&upstream, edition)).await.expect("the call succeeds");
        assert_line("miss_foreign", edition as usize, &["memcached: ", finding, "fetch: "]);
    }
}

#[coordinator_cached(name = "miss_removed", version = edition, skip(upstream), entry = removed_entry)]
async fn removed(upstream: &Upstream, edition: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn a_miss_names_an_unconfirmed_invalidation() {
    collect_misses();
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    let upstream = Upstream::default();
    cache.scope(removed(&upstream, 1)).await.expect("the call succeeds");
    cache.flush().await;
    memcached.suspend();
    cache
        .scope(async {
            removed_entry(1).invalidate().await.expect_err("the server does not answer");
            removed(&upstream, 1).await.expect("the call succeeds");
        })
        .await;
    memcached.resume();
    let words = ["it has not confirmed an invalidation of the key yet)", "invalidated"];
    assert_line("miss_removed", 1, &words);
}

#[coordinator_cached(name = "miss_busy", version = edition, skip(upstream))]
async fn busy(upstream: &Upstream, edition: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn a_miss_names_a_lease_of_another_process() {
    collect_misses();
    let memcached = Memcached::start();
    let holder = new_process_cache(&memcached).await;
    let builder = Cache::builder().namespace("test").memcached([memcached.address()]);
    let builder = builder.lease_wait(Duration::from_millis(30));
    let other = builder.build().await.expect("the settings are valid");
    let slow = Upstream::default().taking_millis(60_000);
    let mut held = Box::pin(holder.scope(busy(&slow, 1)));
    while slow.fetches() == 0 {
        assert!(poll_once(held.as_mut()).await.is_none());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    other.scope(busy(&Upstream::default(), 1)).await.expect("the call succeeds");
    let words = ["absent, another process holds the lease, then gave up waiting", "fetch: a value"];
    assert_line("miss_busy", 0, &words);
    // A miss has a line even if the caller drops the call.
    drop(held);
    assert_line("miss_busy", 1, &["lease won", "fetch: cancelled by the caller after "]);
}

#[coordinator_cached(name = "miss_clock", version = edition, skip(upstream), ttl = "10m")]
async fn by_clock(upstream: &Upstream, edition: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn a_miss_names_expired_entries_and_other_fetches() {
    collect_misses();
    let test = TestCache::local();
    let upstream = Upstream::default().taking_millis(50);
    let call = || test.run(by_clock(&upstream, 1));
    let (first, second) = tokio::join!(call(), call());
    assert_eq!((first, second), (Ok(1), Ok(1)));
    let waited = "local tier: absent; waited ";
    let lines = lines("miss_clock");
    let waiters: Vec<_> = lines.iter().filter(|line| line.contains(waited)).collect();
    assert!(lines.len() == 2 && waiters.len() == 1, "one of two calls waits: {lines:#?}");
    assert!(waiters[0].contains("for another call's fetch, which returned a value"), "{lines:#?}");

    test.advance(Duration::from_secs(601));
    call().await.expect("the call succeeds");
    // The local tier might already have removed the expired entry.
    let line = self::lines("miss_clock").remove(2);
    let is_expired = line.contains("local tier: expired (its ttl was 600s)")
        || line.contains("before: the entry was removed after its ttl");
    assert!(is_expired, "the line says that the entry has expired: {line}");
}

#[coordinator_cached(name = "miss_self", version = edition, skip(upstream, depth))]
async fn calls_itself(
    upstream: &Upstream,
    edition: u32,
    depth: u32,
) -> Result<usize, UpstreamDown> {
    match depth {
        0 => upstream.fetch().await,
        _ => Box::pin(calls_itself(upstream, edition, depth - 1)).await,
    }
}

#[tokio::test]
async fn a_call_without_the_cache_says_why() {
    collect_misses();
    let upstream = Upstream::default();
    let bypassed = || logged(Level::Debug, "`miss_self` is not cached for this call: ");
    TestCache::local().run(calls_itself(&upstream, 1, 1)).await.expect("the call succeeds");
    let lines = [bypassed(), lines("miss_self")].concat();
    assert_eq!(lines.len(), 2, "each of the two calls has one line: {lines:#?}");
    assert!(lines[0].ends_with("the function called itself with the same key"), "{lines:#?}");

    Cache::disabled().scope(calls_itself(&upstream, 2, 0)).await.expect("the call succeeds");
    assert!(bypassed()[1].ends_with("the cache is off"), "{:#?}", bypassed());
}
