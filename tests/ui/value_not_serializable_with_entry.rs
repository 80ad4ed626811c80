//! A value that cannot be cached is one error, with an entry too.

use cached_core::coordinator_cached;

#[derive(Clone)]
struct Payment {
    number: String,
}

#[coordinator_cached(name = "payment", version = state, entry = payment_entry)]
async fn fetch(number: &str, state: u8) -> Result<Payment, String> {
    let _ = state;
    Ok(Payment { number: number.to_owned() })
}

fn main() {
    drop(async { payment_entry("1", 2).get().await.is_found() });
}
