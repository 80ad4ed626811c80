//! An entry outlives what the parameters of its companion borrow.

use cached_core::coordinator_cached;

#[coordinator_cached(
    name = "payment",
    version = state,
    cache_if = |value| region.is_some_and(|region| value.starts_with(region)),
    entry = payment_entry
)]
async fn fetch(region: Option<&str>, state: u8) -> Result<String, String> {
    Ok(format!("{region:?}{state}"))
}

fn main() {
    drop(async { fetch(None, 2).await });
    drop(payment_entry(None, 2));
}
