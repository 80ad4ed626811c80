//! An `impl Trait` cannot be cached.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state)]
async fn fetch(number: &str, state: u8) -> Result<impl ToString, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch("1", 2).await });
}
