//! Every duration has a unit.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, none_ttl = "30")]
async fn fetch(number: &str, state: u8) -> Result<Option<String>, String> {
    Ok(Some(format!("{number}{state}")))
}

fn main() {
    drop(async { fetch("1", 2).await });
}
