//! `cache_if` compares the value with a parameter of another type.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, cache_if = |value| value.len() == state, entry = payment_entry)]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch("1", 2).await });
}
