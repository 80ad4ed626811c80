//! Contains cached functions that several test modules call, and creates caches that stand in for
//! other processes.

use std::time::Duration;

use cached_core::testing::TestCache;
use cached_core::{Cache, CacheBuilder, coordinator_cached};
use cached_tests::{Memcached, Upstream, UpstreamDown};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Payment {
    pub(crate) number: String,
    pub(crate) fetched: usize,
}

#[coordinator_cached(name = "payment", version = state, skip(upstream), entry = payment_entry)]
pub(crate) async fn payment(
    upstream: &Upstream,
    number: &str,
    state: &str,
) -> Result<Payment, UpstreamDown> {
    Ok(Payment { number: number.to_owned(), fetched: upstream.fetch().await? })
}

#[coordinator_cached(
    name = "profile",
    overwrite(reason = "a profile has no version of its own"),
    skip(upstream),
    entry = profile_entry
)]
pub(crate) async fn profile(upstream: &Upstream, user: u32) -> Result<String, UpstreamDown> {
    Ok(format!("user {user}, fetch {}", upstream.fetch().await?))
}

/// Returns a cache that stands in for a new process: it shares only memcached with other caches.
pub(crate) async fn new_process_cache(memcached: &Memcached) -> Cache {
    let builder = Cache::builder().namespace("test").memcached([memcached.address()]);
    builder.remote_timeout(Duration::from_secs(1)).build().await.expect("the settings are valid")
}

pub(crate) fn test_cache(builder: CacheBuilder) -> TestCache {
    TestCache::with(builder).expect("the settings are valid")
}
