//! The option `infallible` takes no value.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, infallible = true)]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch("1", 2).await });
}
