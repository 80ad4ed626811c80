//! Every parameter is in the key or in `skip`.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, identifier = number)]
async fn fetch(number: &str, region: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{region}{state}"))
}

fn main() {
    drop(async { fetch("1", "eu", 2).await });
}
