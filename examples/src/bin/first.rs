//! The first example of the README. If two calls have the same arguments, only the first fetches.
//!
//! The attribute is named after *coordinators*, which are services that answer a request by calling
//! several other services.
//!
//! Run it with `cargo run -p cached-examples --bin first`.

use cached_core::coordinator_cached;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum PaymentState {
    Processing,
    Paid,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Payment {
    number: String,
    state: PaymentState,
}

#[derive(Debug, Clone)]
struct FetchError;

/// Fetches a payment. The attribute caches the answer.
///
/// The key of an entry contains the number and the state. A payment in a new state gets a new
/// entry, so no entry is ever overwritten.
#[coordinator_cached(name = "payment", version = state)]
async fn fetch_payment(number: &str, state: PaymentState) -> Result<Payment, FetchError> {
    // The network call would be here.
    tokio::time::sleep(Duration::from_millis(200)).await;
    if number.is_empty() {
        return Err(FetchError);
    }
    Ok(Payment { number: number.to_string(), state })
}

#[tokio::main]
async fn main() -> Result<(), FetchError> {
    for state in
        [PaymentState::Processing, PaymentState::Processing, PaymentState::Paid, PaymentState::Paid]
    {
        let started = Instant::now();
        let payment = fetch_payment("4711", state).await?;
        let took = started.elapsed().as_secs_f64() * 1_000.0;
        println!("payment {} is {:?}: {took:.3} ms", payment.number, payment.state);
    }
    Ok(())
}
