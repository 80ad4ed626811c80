//! The output of a returned future cannot borrow either.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state)]
fn fetch(number: &str, state: u8) -> impl Future<Output = Result<&str, String>> + Send {
    async move { if state == 0 { Err(String::new()) } else { Ok(number) } }
}

fn main() {
    drop(async { fetch("1", 2).await });
}
