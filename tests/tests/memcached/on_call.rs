//! Tests the chapter *On call* of the guide. Each test brings about one situation from the chapter,
//! and checks the counters that the chapter gives for it. `cargo test -p cached-tests --test
//! memcached on_call -- --nocapture` prints the counters.

use std::sync::Arc;
use std::time::Duration;

use cached_core::{Cache, DeclarationStats, Health, ServerState, coordinator_cached};
use cached_tests::{Memcached, Upstream, UpstreamDown, collect_misses, logged};

use crate::functions::new_process_cache;

/// Prints a cache's counters in this situation, and returns the counters of one function.
fn show(cache: &Cache, situation: &str, name: &str) -> DeclarationStats {
    let stats = cache.stats();
    println!("--- {situation}\n{stats}\n{:?}\nhealth: {}", stats.local(), cache.health());
    for server in cache.servers() {
        let (errors, ejections) = (server.errors, server.ejections);
        println!("{}: {}, {errors} errors, {ejections} ejections", server.address, server.state);
    }
    stats.get(name).expect("the function is declared")
}

/// Returns by how much the hits and the calls rose between two readings.
fn rise(before: &DeclarationStats, after: &DeclarationStats) -> (u64, u64) {
    (after.hits() - before.hits(), after.calls() - before.calls())
}

#[coordinator_cached(name = "on_call_page", version = number, skip(upstream))]
async fn page(upstream: &Upstream, number: u32) -> Result<String, UpstreamDown> {
    upstream.fetch().await?;
    Ok("p".repeat(10 << 10))
}

#[tokio::test]
async fn a_full_local_tier_lowers_the_hit_ratio() {
    let builder = Cache::builder().local_capacity(1 << 20);
    let cache = builder.build().await.expect("the settings are valid");
    let upstream = Upstream::default();
    let call_pages = async |pages: u32| {
        for number in (0..pages).cycle().take(2_000) {
            cache.scope(page(&upstream, number)).await.expect("the call succeeds");
        }
    };
    call_pages(50).await;
    let few = show(&cache, "50 pages, which fit", "on_call_page");
    let (hits, calls) = (few.hits(), few.calls());
    assert!(hits * 10 > calls * 9, "the pages fit into the tier: {hits} of {calls}");
    assert_eq!(few.evictions_size, 0, "nothing is evicted while everything fits");

    call_pages(400).await;
    let many = show(&cache, "400 pages, which do not fit", "on_call_page");
    let (hits, calls) = rise(&few, &many);
    assert!(hits * 2 < calls, "the hit ratio falls: {hits} of {calls}");
    assert!(many.evictions_size > 500, "the tier evicts: {}", many.evictions_size);
    let local = cache.stats().local();
    assert!(local.bytes * 10 > local.capacity * 8, "the tier is full: {local:?}");
    assert_eq!(many.fetches as usize, upstream.fetches(), "the upstream counts the same");
}

#[coordinator_cached(name = "on_call_trace", version = number, skip(upstream))]
async fn traced(upstream: &Upstream, number: u32, trace: u64) -> Result<usize, UpstreamDown> {
    let _ = trace;
    upstream.fetch().await
}

#[coordinator_cached(
    name = "on_call_refused",
    version = number,
    skip(upstream),
    cache_if = |fetch| *fetch > 1_000
)]
async fn refused(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn a_function_that_never_hits_says_why() {
    collect_misses();
    let cache = Cache::builder().build().await.expect("the settings are valid");
    let upstream = Upstream::default();
    for trace in 0..100 {
        cache.scope(traced(&upstream, 1, trace)).await.expect("the call succeeds");
        cache.scope(refused(&upstream, 1)).await.expect("the call succeeds");
    }
    upstream.fail();
    for number in 0..100 {
        let call = cache.scope(traced(&upstream, 2, number));
        call.await.expect_err("the upstream fails");
    }
    let by_key = show(&cache, "a key that differs in each call", "on_call_trace");
    assert_eq!((by_key.hits(), by_key.misses, by_key.not_cached), (0, 200, 0));
    assert_eq!(by_key.fetch_errors, 100, "the calls that failed are counted apart");
    let digest = |line: &String| line.split_whitespace().nth(2).map(str::to_owned);
    let lines = logged(log::Level::Debug, "miss of `on_call_trace:");
    let digests: std::collections::HashSet<_> = lines.iter().filter_map(digest).collect();
    assert_eq!(digests.len(), 200, "each call has another digest: {}", lines[0]);

    let by_rule = cache.stats().get("on_call_refused").expect("the function is declared");
    assert_eq!((by_rule.hits(), by_rule.misses, by_rule.not_cached), (0, 100, 100));
}

#[coordinator_cached(name = "on_call_large", version = number, skip(upstream))]
async fn large(upstream: &Upstream, number: u32) -> Result<Vec<u8>, UpstreamDown> {
    upstream.fetch().await?;
    Ok(vec![7; 2 << 20])
}

#[coordinator_cached(name = "on_call_full", version = number, skip(upstream))]
async fn stored(upstream: &Upstream, number: u32) -> Result<String, UpstreamDown> {
    upstream.fetch().await?;
    Ok("s".repeat(1_000))
}

#[tokio::test]
async fn refused_fills_are_counted_by_reason() {
    let memcached = Memcached::start_full(1_000);
    let cache = new_process_cache(&memcached).await;
    let upstream = Upstream::default();
    for number in 0..20 {
        cache.scope(stored(&upstream, number)).await.expect("the call succeeds");
        cache.flush().await;
    }
    for number in 0..3 {
        cache.scope(large(&upstream, number)).await.expect("the call succeeds");
        cache.flush().await;
    }
    let full = show(&cache, "a server that takes no values", "on_call_full");
    assert_eq!(full.fills, 0, "the server stores nothing");
    assert_eq!((full.fills_dropped, full.fills_failed), (20, 20));
    let large = cache.stats().get("on_call_large").expect("the function is declared");
    assert_eq!((large.fills, large.fills_failed), (0, 3), "the values are too large");
    assert!(cache.health().is_up(), "a server that answers is not ejected");
}

#[coordinator_cached(name = "on_call_flap", version = number, skip(upstream))]
async fn flapping(upstream: &Upstream, number: u32) -> Result<u32, UpstreamDown> {
    upstream.fetch().await?;
    Ok(number)
}

#[tokio::test]
async fn a_server_that_flaps_is_ejected_each_time() {
    let mut memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    let (upstream, mut number, mut calls) = (Upstream::default(), 0, 0_u64);
    let mut call = async || {
        number += 1;
        calls += 1;
        let answer = cache.scope(flapping(&upstream, number)).await.expect("the call succeeds");
        assert_eq!(answer, number, "every answer is right");
        calls
    };
    for outage in 1..=2 {
        call().await;
        assert!(cache.health().is_up(), "the cache is up before outage {outage}");
        memcached.kill();
        while cache.health().is_up() {
            call().await;
        }
        show(&cache, "while the server is down", "on_call_flap");
        let Health::Degraded { servers, .. } = cache.health() else {
            panic!("the cache is up during outage {outage}")
        };
        assert_eq!(servers, [memcached.address()]);
        memcached = Memcached::start_on(memcached.port()).expect("the port is free");
        while !cache.health().is_up() {
            call().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let calls = call().await;
    let stats = show(&cache, "after the second outage", "on_call_flap");
    let [server] = &cache.servers()[..] else { panic!("the cache has one server") };
    assert_eq!((server.state, server.ejections), (ServerState::Up, 2));
    assert!(server.errors >= 2 && stats.remote_errors >= 2, "{server:?}");
    assert_eq!((stats.calls(), stats.misses), (calls, calls), "each call has a key of its own");
    assert_eq!(upstream.fetches() as u64, calls, "each call fetches once");
}

#[coordinator_cached(name = "on_call_plain", version = number, remote = false)]
async fn plain(number: u32) -> Result<Arc<dyn AsRef<[u8]> + Send + Sync>, UpstreamDown> {
    hidden_bytes(number)
}

#[coordinator_cached(
    name = "on_call_weighed",
    version = number,
    remote = false,
    weight = |bytes| (**bytes).as_ref().len()
)]
async fn weighed(number: u32) -> Result<Arc<dyn AsRef<[u8]> + Send + Sync>, UpstreamDown> {
    hidden_bytes(number)
}

#[allow(clippy::unnecessary_wraps, reason = "the annotated function returns a `Result`")]
fn hidden_bytes(_: u32) -> Result<Arc<dyn AsRef<[u8]> + Send + Sync>, UpstreamDown> {
    Ok(Arc::new(vec![1_u8; 100 << 10]))
}

#[tokio::test]
async fn growing_memory_shows_as_bytes_for_each_entry() {
    let cache = async || {
        let builder = Cache::builder().local_capacity(4 << 20);
        builder.build().await.expect("the settings are valid")
    };
    let (light, heavy) = (cache().await, cache().await);
    for number in 0..200 {
        light.scope(plain(number)).await.expect("the call succeeds");
        heavy.scope(weighed(number)).await.expect("the call succeeds");
    }
    show(&light, "20 MB of values whose size the cache cannot see", "on_call_plain");
    show(&heavy, "the same values with `weight`", "on_call_weighed");
    let local = light.stats().local();
    assert!(local.bytes / local.entries < 1_000, "the cache sees only the pointers: {local:?}");
    assert_eq!((local.entries, local.evictions_size), (200, 0), "the tier evicts nothing");

    let local = heavy.stats().local();
    assert!(local.bytes / local.entries > 100 << 10, "the cache knows the sizes: {local:?}");
    // The value that was stored last might still wait to be evicted.
    let bound = local.capacity + local.bytes / local.entries;
    assert!(local.bytes <= bound, "the tier stays within its capacity: {local:?}");
    assert!(local.evictions_size >= 150, "the tier evicts what does not fit: {local:?}");
}

#[coordinator_cached(
    name = "on_call_stale",
    version = number,
    skip(upstream),
    ttl = "1s",
    stale_if_error = "1h"
)]
async fn kept(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn stale_answers_rise_with_failed_fetches() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    let upstream = Upstream::default();
    cache.scope(kept(&upstream, 1)).await.expect("the call succeeds");
    cache.flush().await;
    upstream.fail();
    // memcached counts time in whole seconds. After 2.1 s, a ttl of 1 s has certainly passed.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    for _ in 0..10 {
        let answer = cache.scope(kept(&upstream, 1)).await.expect("the old value is served");
        assert_eq!(answer, 1);
    }
    let down = show(&cache, "the upstream is down", "on_call_stale");
    // After a failed fetch, a background task gives up the call's right to fetch. A call that comes
    // before that task has run returns the old value without a fetch of its own.
    assert_eq!((down.stale_answers, down.misses), (10, 1));
    assert!((1..=10).contains(&down.fetch_errors), "the fetches fail: {down:?}");
    assert_eq!(upstream.fetches() as u64, down.fetches, "the upstream counts the same");
    upstream.recover();
    // Waits until the background task of the last failed fetch has given up the right to fetch.
    cache.flush().await;
    cache.scope(kept(&upstream, 1)).await.expect("the call succeeds");
    let up = show(&cache, "the upstream is back", "on_call_stale");
    assert_eq!((up.stale_answers, up.misses), (10, 2), "the next call fetches a new value");
}

#[coordinator_cached(name = "on_call_off", version = number, skip(upstream), entry = off_entry)]
async fn off(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn a_cache_that_is_off_fetches_each_call() {
    let cache = Cache::from_url("off").await.expect("the URL is valid");
    let upstream = Upstream::default();
    for _ in 0..10 {
        cache.scope(off(&upstream, 1)).await.expect("the call succeeds");
    }
    let stats = show(&cache, "`CACHE_URL=off`", "on_call_off");
    assert_eq!((stats.bypassed, stats.fetches, stats.calls()), (10, 10, 10));
    assert_eq!(upstream.fetches(), 10, "every call fetches");
    let local = cache.stats().local();
    assert_eq!((local.entries, local.bytes), (0, 0), "nothing is stored");
    assert!(cache.health().is_up(), "a cache that is off is not degraded");
    let removed = cache.scope(async { off_entry(1).invalidate().await }).await;
    removed.expect("there is nothing to remove");
}

/// The value is the number of its fetch, so a value from before a change is the lower one.
#[coordinator_cached(name = "on_call_wrong", version = number, skip(upstream), entry = wrong_entry)]
async fn wrong(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

async fn ask(cache: &Cache, upstream: &Upstream) -> usize {
    let value = cache.scope(wrong(upstream, 1)).await.expect("the call succeeds");
    cache.flush().await;
    value
}

#[tokio::test]
async fn a_wrong_value_is_removed_from_all_processes() {
    let memcached = Memcached::start();
    let (here, there) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default();
    assert_eq!((ask(&here, &upstream).await, ask(&there, &upstream).await), (1, 1));

    let removed = here.scope(async { wrong_entry(1).invalidate().await }).await;
    removed.expect("memcached is up");
    assert_eq!(ask(&here, &upstream).await, 2, "this process and memcached forgot the value");
    assert_eq!(ask(&there, &upstream).await, 1, "the other process keeps its copy");

    let removed = there.invalidate_all("on_call_wrong").await.expect("the function is declared");
    assert_eq!((removed, ask(&there, &upstream).await), (1, 2));
    assert_eq!(upstream.fetches(), 2, "the other process reads memcached");
}

#[tokio::test]
async fn a_switch_of_namespace_ends_without_old_values() {
    let memcached = Memcached::start();
    let in_namespace = async |namespace: &str| {
        let builder = Cache::builder().namespace(namespace).memcached([memcached.address()]);
        builder.build().await.expect("the settings are valid")
    };
    let upstream = Upstream::default();
    // In the middle of a rolling restart, a process with the former namespace changes the entry.
    let (former, here, there) =
        (in_namespace("former").await, in_namespace("new").await, in_namespace("new").await);
    assert_eq!((ask(&here, &upstream).await, ask(&there, &upstream).await), (1, 1));
    let removed = former.scope(async { wrong_entry(1).invalidate().await }).await;
    removed.expect("memcached is up");
    assert_eq!(ask(&there, &upstream).await, 1, "the processes do not see each other's changes");

    // All processes have the new namespace now.
    drop(former);
    assert_eq!(memcached.command("flush_all").trim_end(), "OK");
    for cache in [&here, &there] {
        cache.clear().await;
    }
    assert_eq!((ask(&here, &upstream).await, ask(&there, &upstream).await), (2, 2));
}
