//! An error that is kept for other callers must own its data.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, error_ttl = "1s", share_error = |error| error)]
async fn fetch(number: &str, state: u8) -> Result<u8, &str> {
    if state == 0 { Err(number) } else { Ok(state) }
}

fn main() {
    drop(async { fetch("1", 2).await.is_ok() });
}
