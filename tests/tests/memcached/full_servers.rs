//! Tests what happens if memcached grants *leases* (the right to fetch a missing value), but does
//! not store the values. The process then keeps these values for their whole local ttl, as it does
//! without memcached.

use std::time::Duration;

use cached_core::{Cache, coordinator_cached};
use cached_tests::{
    FakeMemcached, Memcached, ServerKind, Upstream, UpstreamDown, collect_logs, logged,
};

/// How long a process usually keeps a value if memcached has not confirmed that it stored it. In
/// these tests, it keeps the values longer.
const UNCONFIRMED_TTL: Duration = Duration::from_secs(5);

#[coordinator_cached(name = "full_page", version = number, skip(upstream, size))]
async fn page(upstream: &Upstream, size: usize, number: u32) -> Result<String, UpstreamDown> {
    let _ = number;
    upstream.fetch().await?;
    Ok("p".repeat(size))
}

/// Returns a cache as a new process would have it: it shares only memcached with other caches.
async fn new_process_cache(address: &str) -> Cache {
    let builder = Cache::builder().namespace("full").memcached([address]);
    builder.remote_timeout(Duration::from_secs(1)).build().await.expect("the settings are valid")
}

async fn call(cache: &Cache, upstream: &Upstream, size: usize, number: u32) {
    cache.scope(page(upstream, size, number)).await.expect("the call succeeds");
    cache.flush().await;
}

#[tokio::test]
async fn values_refused_by_a_full_server_stay_local() {
    let memcached = Memcached::start_full(1000);
    assert_values_stay(&memcached.address()).await;
}

#[tokio::test]
async fn values_that_a_server_ignores_stay_local() {
    let server = FakeMemcached::start(ServerKind::IgnoresWrites);
    assert_values_stay(&server.address()).await;
}

/// Makes calls whose values the server does not store. Checks that the process then keeps a value
/// for more than 5 s, and that it logs one warning.
async fn assert_values_stay(address: &str) {
    collect_logs();
    let cache = new_process_cache(address).await;
    let upstream = Upstream::default();
    for number in 0..5 {
        call(&cache, &upstream, 900, number).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    assert_eq!(cache.stats().total().fills, 0, "memcached stores nothing");
    tokio::time::sleep(UNCONFIRMED_TTL).await;
    let before = upstream.fetches();
    call(&cache, &upstream, 900, 4).await;
    assert_eq!(upstream.fetches(), before, "the process still has the value");
    let lines = logged(log::Level::Warn, address);
    assert!(lines.len() == 1 && lines[0].contains("`full:full_page`"), "{lines:?}");
}

#[tokio::test]
async fn a_value_too_large_for_memcached_stays_local() {
    collect_logs();
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached.address()).await;
    let upstream = Upstream::default();
    call(&cache, &upstream, 2 << 20, 1).await;
    tokio::time::sleep(UNCONFIRMED_TTL + Duration::from_millis(500)).await;
    call(&cache, &upstream, 2 << 20, 1).await;
    assert_eq!(upstream.fetches(), 1, "the process still has the value");
    let lines = logged(log::Level::Warn, "`full_page`");
    assert!(lines.len() == 1 && lines[0].contains("too large"), "{lines:?}");
}
