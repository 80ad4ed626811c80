//! An option can be given only once.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, name = "payments")]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch("1", 2).await });
}
