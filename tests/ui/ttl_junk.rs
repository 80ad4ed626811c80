//! A duration starts with a number.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, ttl = "soon")]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch("1", 2).await });
}
