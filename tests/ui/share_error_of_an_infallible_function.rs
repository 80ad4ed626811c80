//! A function that cannot fail has no error to share.

use cached_core::coordinator_cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Payment(u32);

#[coordinator_cached(name = "payment", version = state, infallible, share_error = |error| error, error_ttl = "1s")]
async fn fetch(number: u32, state: u8) -> Payment {
    Payment(number + u32::from(state))
}

fn main() {
    drop(async { fetch(1, 2).await });
}
