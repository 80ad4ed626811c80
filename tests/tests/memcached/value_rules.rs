//! Tests `cache_if` conditions that compare a value with the function's parameters. A value that
//! fails its condition must neither be stored nor reach another process through memcached.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cached_core::coordinator_cached;
use cached_core::testing::TestCache;
use cached_tests::Memcached;

use crate::functions::new_process_cache;

/// The state that the simulated upstream returns. A test can make it lower (older) than the `state`
/// that the caller asks for.
static ACTUAL: AtomicU64 = AtomicU64::new(0);

#[coordinator_cached(
    name = "state_of_an_upstream",
    version = state,
    cache_if = |actual| *actual >= state,
    entry = state_entry
)]
async fn state(number: &str, state: u64) -> Result<u64, String> {
    let _ = number;
    Ok(ACTUAL.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_value_contradicting_its_version_is_not_shared() {
    let memcached = Memcached::start();
    let (first, second) =
        (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    ACTUAL.store(1, Ordering::SeqCst);
    assert_eq!(first.scope(state("1", 2)).await, Ok(1));
    assert!(!first.scope(async { state_entry("1", 2).add(1).await }).await);
    first.flush().await;
    assert!(!second.scope(async { state_entry("1", 2).get().await.is_found() }).await);
    ACTUAL.store(2, Ordering::SeqCst);
    assert_eq!(second.scope(state("1", 2)).await, Ok(2), "the state is fetched again");
    second.flush().await;
    ACTUAL.store(3, Ordering::SeqCst);
    assert_eq!(first.scope(state("1", 2)).await, Ok(2), "the state that is high enough is shared");
}

/// The rate that the simulated upstream returns.
static RATE: AtomicU64 = AtomicU64::new(0);

/// Returns a rate. A rate below `least` is outdated and is not cached.
#[coordinator_cached(
    name = "refreshed_rate",
    overwrite(reason = "a rate has no version of its own"),
    ttl = "60s",
    refresh_ahead = "20s",
    cache_if = |rate| *rate >= least
)]
async fn rate(least: u64) -> Result<u64, String> {
    Ok(RATE.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_refresh_contradicting_its_parameters_is_not_kept() {
    for test in [TestCache::local(), TestCache::new()] {
        RATE.store(7, Ordering::SeqCst);
        assert_eq!(test.run(rate(5)).await, Ok(7));
        test.cache().flush().await;
        RATE.store(3, Ordering::SeqCst);
        test.advance(Duration::from_secs(50));
        assert_eq!(test.run(rate(5)).await, Ok(7), "the refresh runs in the background");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(test.stats("refreshed_rate").refreshes, 1);
        RATE.store(6, Ordering::SeqCst);
        assert_ne!(test.run(rate(5)).await, Ok(3), "no call gets the refused rate");
        test.advance(Duration::from_secs(20));
        assert_eq!(test.run(rate(5)).await, Ok(6));
    }
}
