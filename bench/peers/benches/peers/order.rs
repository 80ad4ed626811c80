//! The orders that the benchmark caches. Most of the compared caches store the results of
//! [`upstream`], which returns an order by its number and state.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::payment::{FetchError, State};

/// The key of an order in the caches of other crates.
pub type Key = (u64, State);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub id: u64,
    pub cents: u64,
    pub items: u32,
    pub state: State,
}

static FETCHES: AtomicU64 = AtomicU64::new(0);

/// Returns how many orders this process has fetched.
pub fn fetches() -> u64 {
    FETCHES.load(Ordering::Relaxed)
}

/// A stand-in for the network call.
pub fn make(id: u64, state: State) -> Order {
    FETCHES.fetch_add(1, Ordering::Relaxed);
    Order { id, cents: 1999, items: 3, state }
}

pub async fn upstream(id: u64, state: State) -> Result<Arc<Order>, FetchError> {
    Ok(Arc::new(make(id, state)))
}
