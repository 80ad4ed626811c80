//! A `ttl` expression is a `Duration`.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, ttl = u64::from(state))]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch("1", 2).await });
}
