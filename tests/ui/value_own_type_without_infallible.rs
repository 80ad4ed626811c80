//! A type of the program, returned bare, needs `infallible`.

use cached_core::coordinator_cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Payment {
    number: String,
}

#[coordinator_cached(name = "payment", version = state)]
async fn fetch(number: &str, state: u8) -> Payment {
    let _ = state;
    Payment { number: number.to_owned() }
}

fn main() {
    drop(async { fetch("1", 2).await.number });
}
