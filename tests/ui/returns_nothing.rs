//! A function that returns nothing cannot be cached.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state)]
async fn fetch(number: &str, state: u8) {
    let _ = (number, state);
}

fn main() {
    drop(async { fetch("1", 2).await });
}
