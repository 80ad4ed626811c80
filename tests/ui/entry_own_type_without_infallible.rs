//! A type of the program, returned bare, and its entry.

use cached_core::coordinator_cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Payment {
    number: String,
}

#[coordinator_cached(name = "payment", version = state, entry = payment_entry)]
async fn fetch(number: &str, state: u8) -> Payment {
    let _ = state;
    Payment { number: number.to_owned() }
}

fn main() {
    drop(async { (fetch("1", 2).await.number, payment_entry("1", 2).get().await.is_found()) });
}
