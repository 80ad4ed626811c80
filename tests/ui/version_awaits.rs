//! `version` cannot await.

use cached_core::coordinator_cached;

async fn current(state: u8) -> u8 {
    state
}

#[coordinator_cached(name = "payment", version = current(state).await)]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch("1", 2).await });
}
