//! A cache name is a string literal, so that it can be searched for.

use cached_core::coordinator_cached;

#[coordinator_cached(name = payment, version = state)]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch("1", 2).await });
}
