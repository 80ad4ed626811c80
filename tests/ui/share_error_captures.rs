//! `share_error` can use only the error.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, share_error = |_| format!("no payment {number}"))]
async fn fetch(number: u32, state: u8) -> Result<u32, String> {
    Ok(number + u32::from(state))
}

fn main() {
    drop(async { fetch(1, 2).await });
}
