//! An attribute with errors adds none at the callers of its entry.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "Payment", version = state, entry = payment_entry)]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { payment_entry("1", 2).get().await.is_found() });
}
