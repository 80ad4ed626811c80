//! The cached functions and the cache that several modules of these tests use.

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Upstream, UpstreamDown};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum PaymentState {
    Processing,
    Paid,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Payment {
    pub(crate) number: String,
    pub(crate) state: String,
    pub(crate) fetched: usize,
}

#[coordinator_cached(name = "payment", version = state, skip(upstream), entry = payment_entry)]
pub(crate) async fn payment(
    upstream: &Upstream,
    number: &str,
    state: PaymentState,
) -> Result<Payment, UpstreamDown> {
    let fetched = upstream.fetch().await?;
    Ok(Payment { number: number.to_owned(), state: format!("{state:?}"), fetched })
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

/// Returns a new cache without a remote tier.
pub(crate) async fn local_cache() -> Cache {
    Cache::builder().build().await.expect("the settings are valid")
}
