//! The function that every library in this benchmark caches. It returns a payment by its number and
//! state.

use std::sync::Arc;

use hitbox_fn::CacheableResponse;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    Processing,
    Paid,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CacheableResponse)]
pub struct Payment {
    pub number: String,
    pub state: State,
    pub currency: String,
    pub cents: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchError;

/// Takes the place of a network call, but returns at once, so that the benchmark measures the
/// cache.
pub async fn upstream(number: &str, state: State) -> Result<Payment, FetchError> {
    Ok(Payment { number: number.to_owned(), state, currency: "EUR".to_owned(), cents: 1999 })
}

pub async fn shared_upstream(number: &str, state: State) -> Result<Arc<Payment>, FetchError> {
    upstream(number, state).await.map(Arc::new)
}

pub fn numbers(keys: usize) -> Vec<String> {
    (0..keys).map(|key| format!("payment-{key:06}")).collect()
}
