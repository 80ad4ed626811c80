//! The option `error_ttl` needs an error that can be shared.

use std::error::Error;

use cached_core::coordinator_cached;

struct FetchError;

#[coordinator_cached(name = "payment", version = state, error_ttl = "1s", entry = payment_entry)]
async fn fetch(number: u32, state: u8) -> Result<u32, FetchError> {
    if state == 0 { Err(FetchError) } else { Ok(number) }
}

#[coordinator_cached(name = "refund", version = state, error_ttl = "1s")]
async fn fetch_refund(number: u32, state: u8) -> Result<u32, Box<dyn Error + Send + Sync>> {
    Ok(number + u32::from(state))
}

fn main() {
    drop(async { (fetch(1, 2).await.is_ok(), fetch_refund(1, 2).await.is_ok()) });
    let _ = payment_entry(1, 2);
}
