//! `weight` can use only the value.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, weight = |value| value.len() + limit, skip(limit))]
async fn fetch(number: &str, state: u8, limit: usize) -> Result<String, String> {
    Ok(format!("{number}{state}{limit}"))
}

fn main() {
    drop(async { fetch("1", 2, 3).await });
}
