//! The compiler reports what is wrong with an unreadable signature.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = n)]
async fn fetch(n: u32, mode: Mode: u8) -> Result<u32, String> {
    Ok(n)
}

#[coordinator_cached(name = "user", version = n)]
const async fn constant(n: u32 = 1) -> Result<u32, String> {
    Ok(n)
}

struct Mode;

fn main() {
    drop(async { constant(1).await });
}
