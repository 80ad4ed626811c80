//! The callers of an entry see the mistakes of the attribute and no others.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "Payment", version = state, entry = payment_entry)]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { payment_entry("1", 2).get().await.is_found() });
}
