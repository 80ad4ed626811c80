//! An `Option` has no error to share.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, share_error = |error| error.clone())]
async fn fetch(number: u32, state: u8) -> Option<u32> {
    Some(number + u32::from(state))
}

#[coordinator_cached(name = "refund", version = state, error_ttl = "1s")]
async fn fetch_refund(number: u32, state: u8) -> Option<u32> {
    Some(number + u32::from(state))
}

fn main() {
    drop(async { (fetch(1, 2).await, fetch_refund(1, 2).await) });
}
