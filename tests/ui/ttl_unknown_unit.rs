//! The units are `d`, `h`, `m`, `s` and `ms`.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, ttl = "30min")]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch("1", 2).await });
}
