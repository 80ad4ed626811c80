//! If memcached refuses every command, the process caches its values as it would without memcached.

use std::time::Duration;

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Memcached, Upstream, UpstreamDown};

#[coordinator_cached(name = "invoice", version = state, skip(upstream), ttl = "10m")]
async fn invoice(upstream: &Upstream, state: &str) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn a_refusing_memcached_shortens_no_ttl() {
    let memcached = Memcached::start_with_password();
    let builder = Cache::builder().memcached([memcached.address()]);
    let cache = builder.build().await.expect("the settings are valid");
    let upstream = Upstream::default();
    for state in ["sent", "paid"] {
        cache.scope(invoice(&upstream, state)).await.expect("the call succeeds");
    }
    tokio::time::sleep(Duration::from_millis(6100)).await;
    for state in ["sent", "paid"] {
        cache.scope(invoice(&upstream, state)).await.expect("the call succeeds");
    }
    assert_eq!(upstream.fetches(), 2);
}
