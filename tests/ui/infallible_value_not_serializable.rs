//! A value that is cached whole must be serializable.

use cached_core::coordinator_cached;

#[derive(Clone)]
struct Payment {
    number: String,
}

#[coordinator_cached(name = "payment", version = state, infallible)]
async fn fetch(number: &str, state: u8) -> Payment {
    let _ = state;
    Payment { number: number.to_owned() }
}

fn main() {
    drop(async { fetch("1", 2).await.number });
}
