//! Misses: every key is new, and the fetch does no more than to make its answer.

use std::hint::black_box;
use std::sync::{Arc, OnceLock};

use cached::macros::concurrent_cached;
use cached_core::{Cache, coordinator_cached};
use tokio::runtime::Runtime;

use crate::harness::{Results, race, timed};
use crate::payment::{FetchError, Payment, State, shared_upstream};

pub const BARE: &str = "the bare fetch";

#[coordinator_cached(name = "missed", version = state)]
async fn ours(number: &str, state: State) -> Result<Arc<Payment>, FetchError> {
    shared_upstream(number, state).await
}

/// Full after some ten thousand entries, as the peers are after just so many.
static FULL: OnceLock<Cache> = OnceLock::new();
const FULL_AT: u64 = 10_000 * 550;

#[coordinator_cached(name = "missed_full", version = state, cache = FULL.get().expect("it is built"))]
async fn ours_full(number: &str, state: State) -> Result<Arc<Payment>, FetchError> {
    shared_upstream(number, state).await
}

#[concurrent_cached(
    max_size = 10_000,
    ttl_secs = 1800,
    key = "(String, State)",
    convert = { (number.to_owned(), state) }
)]
async fn concurrent_missed(number: &str, state: State) -> Result<Arc<Payment>, FetchError> {
    shared_upstream(number, state).await
}

macro_rules! ask {
    ($runtime:expr, |$number:ident| $call:expr) => {{
        let (runtime, mut next) = ($runtime, 0_u64);
        move |count: usize| {
            runtime.block_on(async {
                for _ in 0..count {
                    next += 1;
                    let $number = &format!("payment-{next:012}")[..];
                    let _ = black_box($call);
                }
            })
        }
    }};
}

pub fn run(runtime: &Runtime, rounds: usize, count: usize) -> Results {
    let moka = moka::future::Cache::builder().max_capacity(10_000).build();
    let full = runtime.block_on(Cache::builder().local_capacity(FULL_AT).build());
    FULL.set(full.expect("it fits")).expect("the first");
    let contenders = vec![
        timed(BARE, ask!(runtime, |number| shared_upstream(number, State::Paid).await)),
        timed(
            "cached-core, a full store",
            ask!(runtime, |number| ours_full(number, State::Paid).await),
        ),
        timed(
            "cached-core, a store with room",
            ask!(runtime, |number| ours(number, State::Paid).await),
        ),
        timed(
            "cached #[concurrent_cached]",
            ask!(runtime, |number| concurrent_missed(number, State::Paid).await),
        ),
        timed(
            "moka try_get_with",
            ask!(runtime, |number| {
                moka.try_get_with(number.to_owned(), shared_upstream(number, State::Paid)).await
            }),
        ),
    ];
    race(rounds, count, contenders)
}
