//! Functions that several modules call, and the cache that they call them in.

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Down, Upstream};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum State {
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
    state: State,
) -> Result<Payment, Down> {
    let fetched = upstream.answer().await?;
    Ok(Payment { number: number.to_owned(), state: format!("{state:?}"), fetched })
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

pub(crate) async fn local() -> Cache {
    Cache::builder().build().await.expect("the defaults fit")
}
