//! `skip` misspells a parameter.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, skip(cleint))]
async fn fetch(client: &str, number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{client}{number}{state}"))
}

fn main() {
    drop(async { fetch("", "1", 2).await });
}
