//! Misses: every key is new, and the fetch does no more than to make its answer.

use std::hint::black_box;
use std::sync::Arc;

use cached::macros::concurrent_cached;
use cached_core::coordinator_cached;
use tokio::runtime::Runtime;

use crate::harness::{Results, race, timed};
use crate::payment::{FetchError, Payment, State, shared_upstream};

pub const BARE: &str = "the bare fetch";

#[coordinator_cached(name = "missed", version = state)]
async fn ours(number: &str, state: State) -> Result<Arc<Payment>, FetchError> {
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
    let contenders = vec![
        timed(BARE, ask!(runtime, |number| shared_upstream(number, State::Paid).await)),
        timed("cached-core", ask!(runtime, |number| ours(number, State::Paid).await)),
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
