//! All missing options are reported together.

use cached_core::coordinator_cached;

#[coordinator_cached]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch("1", 2).await });
}
