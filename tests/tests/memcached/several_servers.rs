//! One address that leads to several memcached servers, as a host name with several addresses or a
//! load balancer does. A program that has invalidated a value never gets this value again.

use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Memcached, RedirectableProxy, Upstream, UpstreamDown};
use tokio::runtime::Runtime;

#[coordinator_cached(
    name = "split_board",
    overwrite(reason = "a board has no version of its own"),
    local = false,
    skip(upstream),
    entry = board_entry
)]
async fn board(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    let _ = number;
    upstream.fetch().await
}

/// Returns a runtime. Each runtime opens connections of its own.
fn runtime() -> Runtime {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("the runtime starts")
}

/// Returns a cache like that of a new process: it shares only memcached with other caches.
async fn new_process_cache(address: &str) -> Cache {
    let builder = Cache::builder().memcached([address]);
    builder.remote_timeout(Duration::from_secs(1)).build().await.expect("the settings are valid")
}

/// Starts two servers, each with its own value of the board. The cache connects through a proxy to
/// the first server. After a test calls `switch_to`, new connections lead to the second server.
fn split_servers(
    runtime: &Runtime,
    upstream: &Upstream,
) -> ([Memcached; 2], RedirectableProxy, Cache) {
    let servers = [Memcached::start(), Memcached::start()];
    let proxy = RedirectableProxy::start(&servers[0]);
    let cache = runtime.block_on(async {
        let cache = new_process_cache(&proxy.address()).await;
        for cache in [&new_process_cache(&servers[1].address()).await, &cache] {
            cache.scope(board(upstream, 1)).await.expect("the call succeeds");
            cache.flush().await;
        }
        cache
    });
    assert_eq!(upstream.fetches(), 2, "each server has a value of its own");
    (servers, proxy, cache)
}

fn call(runtime: &Runtime, cache: &Cache, upstream: &Upstream) -> usize {
    runtime.block_on(cache.scope(board(upstream, 1))).expect("the call succeeds")
}

#[test]
fn connections_to_the_former_server_are_not_used() {
    let (a, b) = (runtime(), runtime());
    let upstream = Upstream::default();
    let (servers, proxy, cache) = split_servers(&a, &upstream);
    proxy.switch_to(&servers[1]);
    b.block_on(cache.scope(async { board_entry(1).invalidate().await }))
        .expect("the second server confirms the removal");
    let before = upstream.fetches();
    for runtime in [&a, &b, &a] {
        let answer = call(runtime, &cache, &upstream);
        assert!(answer > before, "the value is newer than the invalidation: {answer}");
    }
}

#[test]
fn values_older_than_a_missed_invalidation_are_ignored() {
    let (a, b) = (runtime(), runtime());
    let upstream = Upstream::default();
    let (servers, proxy, cache) = split_servers(&a, &upstream);
    a.block_on(cache.scope(async { board_entry(1).invalidate().await }))
        .expect("the first server confirms the removal");
    proxy.switch_to(&servers[1]);
    let before = upstream.fetches();
    for runtime in [&b, &a, &b] {
        let answer = call(runtime, &cache, &upstream);
        assert!(answer > before, "the value is newer than the invalidation: {answer}");
        std::thread::sleep(Duration::from_millis(100));
    }
    // The second server is used again, without its old items.
    let give_up = Instant::now() + Duration::from_secs(10);
    let is_cached = || {
        let answer = call(&b, &cache, &upstream);
        b.block_on(cache.flush());
        answer == call(&b, &cache, &upstream)
    };
    while !is_cached() {
        assert!(Instant::now() < give_up, "new values are cached in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_former_server_cannot_confirm_a_removal() {
    let (a, b) = (runtime(), runtime());
    let upstream = Upstream::default();
    let (servers, proxy, cache) = split_servers(&a, &upstream);
    servers[0].suspend();
    let removal = a.spawn(cache.scope(async { board_entry(1).invalidate().await }));
    // During this pause, the removal is sent to the first server.
    a.block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
    proxy.switch_to(&servers[1]);
    b.block_on(cache.scope(async { board_entry(2).get().await.is_found() }));
    servers[0].resume();
    let removed = a.block_on(removal).expect("no task panics");
    let before = upstream.fetches();
    assert!(removed.is_err(), "the server of the key has not confirmed the removal");
    for runtime in [&b, &a, &b] {
        let answer = call(runtime, &cache, &upstream);
        assert!(answer > before, "the value is newer than the invalidation: {answer}");
    }
}
