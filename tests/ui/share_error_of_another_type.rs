//! `share_error` makes an error of the function's own error type.

use cached_core::coordinator_cached;

struct FetchError;

#[coordinator_cached(name = "payment", version = state, share_error = |_| "the upstream is down")]
async fn fetch(number: u32, state: u8) -> Result<u32, FetchError> {
    if state == 0 { Err(FetchError) } else { Ok(number) }
}

fn main() {
    drop(async { fetch(1, 2).await });
}
