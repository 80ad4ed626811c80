//! A function that does more than return an `async` block cannot be cached.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state)]
fn fetch(number: &str, state: u8) -> impl Future<Output = Result<String, String>> {
    let number = number.trim();
    async move { Ok(format!("{number}{state}")) }
}

fn main() {
    drop(async { fetch("1", 2).await });
}
