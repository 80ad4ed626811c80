//! All mistakes are reported together, each once.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "Payment", version = stat, skip(client), ttl = "30", colour = "red")]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch("1", 2).await });
}
