//! `cache_if`, `ttl_with` and `weight` are functions of the value.

use cached_core::coordinator_cached;

#[derive(Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct Payment {
    state: u8,
}

#[coordinator_cached(name = "payment", version = state, cache_if = payment.state == state)]
async fn payment(number: &str, state: u8) -> Result<Payment, String> {
    Ok(Payment { state: state + number.len() as u8 })
}

#[coordinator_cached(name = "paid", version = state, cache_if = matches!(paid.state, 1 | 2))]
async fn paid(state: u8) -> Result<Payment, String> {
    Ok(Payment { state })
}

#[coordinator_cached(name = "open", version = state, cache_if = !open.is_empty())]
async fn open(state: u8) -> Result<String, String> {
    Ok(state.to_string())
}

#[coordinator_cached(name = "token", version = state, ttl_with = "5m", weight = 100)]
async fn token(state: u8) -> Result<String, String> {
    Ok(state.to_string())
}

fn main() {
    drop(async { payment("1", 2).await });
    drop(async { (paid(1).await, open(1).await, token(1).await) });
}
