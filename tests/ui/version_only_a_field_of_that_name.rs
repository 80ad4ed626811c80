//! A field with a parameter's name is not the parameter.

use cached_core::coordinator_cached;

struct Limits {
    state: u8,
}

const LIMITS: Limits = Limits { state: 1 };

#[coordinator_cached(name = "payment", version = LIMITS.state)]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch("1", 2).await });
}
