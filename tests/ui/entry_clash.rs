//! The entry's name must not be taken.

use cached_core::coordinator_cached;

fn payment_entry() {}

#[coordinator_cached(name = "payment", version = state, entry = payment_entry)]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { payment_entry() });
}
