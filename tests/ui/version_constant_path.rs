//! A version is not a constant.

use cached_core::coordinator_cached;

const VERSION: u8 = 3;

#[coordinator_cached(name = "payment", version = VERSION)]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch("1", 2).await });
}
