//! An error that is kept for other callers must be `Send`.

use std::error::Error;

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, share_error = |error| error.to_string().into(), entry = payment_entry)]
async fn fetch(number: u32, state: u8) -> Result<u32, Box<dyn Error>> {
    Ok(number + u32::from(state))
}

fn main() {
    drop(async { fetch(1, 2).await });
    let _ = payment_entry(1, 2);
}
