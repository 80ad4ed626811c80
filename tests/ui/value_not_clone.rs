//! A cached value must be `Clone`.

use cached_core::coordinator_cached;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Payment {
    number: String,
}

#[coordinator_cached(name = "payment", version = state)]
async fn fetch(number: &str, state: u8) -> Result<Payment, String> {
    let _ = state;
    Ok(Payment { number: number.to_owned() })
}

fn main() {
    drop(async { fetch("1", 2).await.map(|payment| payment.number) });
}
