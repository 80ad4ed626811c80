//! A function that returns another function's boxed future cannot be cached.

use std::pin::Pin;

use cached_core::coordinator_cached;

async fn upstream(number: u32) -> Result<String, String> {
    Ok(number.to_string())
}

#[coordinator_cached(name = "payment", version = number)]
fn fetch(number: u32) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send>> {
    Box::pin(upstream(number))
}

fn main() {
    drop(async { fetch(1).await });
}
