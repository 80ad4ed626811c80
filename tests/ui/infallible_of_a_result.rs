//! A `Result` cannot be cached whole.

use cached_core::coordinator_cached;

type Answer = Result<u8, String>;

#[coordinator_cached(name = "payment", version = state, infallible, entry = payment_entry)]
async fn fetch(number: u32, state: u8) -> Answer {
    let _ = number;
    Ok(state)
}

fn main() {
    drop(async { fetch(1, 2).await });
    let _ = payment_entry(1, 2);
}
