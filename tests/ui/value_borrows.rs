//! A cached value cannot borrow.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state)]
async fn fetch(number: &str, state: u8) -> Result<&str, String> {
    let _ = state;
    Ok(number)
}

fn main() {
    drop(async { fetch("1", 2).await });
}
