//! Functions that several modules call, and caches that stand for the processes that call them.

use std::time::Duration;

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Down, Memcached, Upstream};
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
) -> Result<Payment, Down> {
    Ok(Payment { number: number.to_owned(), fetched: upstream.answer().await? })
}

#[coordinator_cached(
    name = "profile",
    overwrite(reason = "a profile has no version of its own"),
    skip(upstream),
    entry = profile_entry
)]
pub(crate) async fn profile(upstream: &Upstream, user: u32) -> Result<String, Down> {
    Ok(format!("user {user}, fetch {}", upstream.answer().await?))
}

/// A cache of its own, as another process would have.
pub(crate) async fn process(memcached: &Memcached) -> Cache {
    let builder = Cache::builder().namespace("test").memcached([memcached.address()]);
    builder.remote_timeout(Duration::from_secs(1)).build().await.expect("fits")
}
