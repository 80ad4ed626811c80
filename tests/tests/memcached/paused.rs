//! The option `error_ttl` with memcached. After a failed fetch, the key is *paused* in this
//! process: for the declared time, calls return the error and do not fetch. The key is not paused
//! in other processes.

use std::time::{Duration, Instant};

use cached_core::coordinator_cached;
use cached_tests::{Memcached, Upstream};

use crate::functions::new_process_cache;

#[coordinator_cached(
    name = "paused",
    version = number,
    skip(upstream),
    error_ttl = "1m",
    share_error = |error| anyhow::anyhow!("{error:#}"),
    entry = paused_entry
)]
async fn paused(upstream: &Upstream, number: u32) -> anyhow::Result<usize> {
    upstream.fetch().await.map_err(|_| anyhow::anyhow!("order {number} is not there"))
}

#[tokio::test]
async fn a_paused_process_delays_no_other_process() {
    let memcached = Memcached::start();
    let (here, there) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default();
    upstream.fail();
    for _ in 0..20 {
        let error = here.scope(paused(&upstream, 7)).await.expect_err("the upstream is down");
        assert_eq!(error.to_string(), "order 7 is not there");
    }
    here.flush().await;
    assert_eq!(upstream.fetches(), 1);
    // A paused call leaves no lease in memcached. A lease marks that a process is fetching the
    // value, and other processes would wait for it.
    let key = there.scope(async { paused_entry(7).key().to_string() }).await;
    assert_eq!(memcached.command(&format!("mg {key} v")), "EN");

    upstream.recover();
    let began = Instant::now();
    assert_eq!(there.scope(paused(&upstream, 7)).await.ok(), Some(2));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "the other process waits for no lease: {took:?}");
    there.flush().await;
    // A pause stops only fetches, so this process still reads the value that the other process has
    // stored.
    assert_eq!(here.scope(paused(&upstream, 7)).await.ok(), Some(2));
    let stats = here.stats().get("paused").expect("the function was called");
    assert_eq!((stats.fetches, stats.paused_answers, stats.remote_hits), (1, 19, 1));
}

#[tokio::test]
async fn a_pause_holds_while_memcached_is_down() {
    let mut memcached = Memcached::start();
    let here = new_process_cache(&memcached).await;
    memcached.kill();
    let upstream = Upstream::default();
    upstream.fail();
    for _ in 0..20 {
        assert!(here.scope(paused(&upstream, 8)).await.is_err());
    }
    assert_eq!(upstream.fetches(), 1);
    let stats = here.stats().get("paused").expect("the function was called");
    assert_eq!((stats.fetches, stats.paused_answers), (1, 19));
}
