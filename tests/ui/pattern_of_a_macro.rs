//! A macro in a pattern hides names.

use cached_core::coordinator_cached;

macro_rules! pair {
    ($a:ident, $b:ident) => {
        ($a, $b)
    };
}

#[coordinator_cached(name = "payment", version = state)]
async fn fetch(pair!(a, b): (u8, u8), state: u8) -> Result<u8, String> {
    Ok(a + b + state)
}

fn main() {
    drop(async { fetch((1, 2), 2).await });
}
