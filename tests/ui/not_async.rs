//! Only an `async fn`, or a function that returns a future, can be cached.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state)]
fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch("1", 2) });
}
