//! A parameter that `cache_if` mentions must be `Clone`.

use cached_core::coordinator_cached;

struct Limits {
    longest: usize,
}

#[coordinator_cached(
    name = "payment",
    version = state,
    skip(limits),
    cache_if = |value| value.len() <= limits.longest
)]
async fn fetch(number: &str, state: u8, limits: Limits) -> Result<String, String> {
    Ok(format!("{number}{state}{}", limits.longest))
}

fn main() {
    drop(async { fetch("1", 2, Limits { longest: 3 }).await });
}
