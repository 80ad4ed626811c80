//! An entry can be overwritten only if a reason is declared.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, entry = payment_entry)]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { payment_entry("1", 2).overwrite("paid".to_owned()).await });
}
