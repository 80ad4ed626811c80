//! `error_ttl` is a duration.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, error_ttl = "5")]
async fn fetch(number: u32, state: u8) -> Result<u32, String> {
    Ok(number + u32::from(state))
}

#[coordinator_cached(name = "refund", version = state, error_ttl = 5)]
async fn fetch_refund(number: u32, state: u8) -> Result<u32, String> {
    Ok(number + u32::from(state))
}

fn main() {
    drop(async { (fetch(1, 2).await, fetch_refund(1, 2).await) });
}
