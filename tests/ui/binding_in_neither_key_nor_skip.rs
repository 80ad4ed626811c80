//! A name in a pattern is a parameter like any other.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state, identifier = number)]
async fn fetch((number, region): (&str, &str), state: u8) -> Result<String, String> {
    Ok(format!("{number}{region}{state}"))
}

fn main() {
    drop(async { fetch(("1", "eu"), 2).await });
}
