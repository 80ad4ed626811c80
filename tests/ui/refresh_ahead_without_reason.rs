//! `refresh_ahead` needs a reason to overwrite.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, refresh_ahead = "5m")]
async fn fetch(number: String, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch("1".into(), 2).await });
}
