//! A reason is a string literal.

use cached_core::coordinator_cached;

#[allow(dead_code)]
const REASON: &str = "the status changes in place";

#[coordinator_cached(name = "payment", overwrite(reason = REASON))]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch("1", 2).await });
}
