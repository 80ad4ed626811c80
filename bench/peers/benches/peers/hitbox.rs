//! Benchmarks the crate `hitbox-fn`, one of the caches that are compared. The crate `cached` has an
//! attribute of the same name, so `hitbox-fn` has a module of its own.

use std::hint::black_box;
use std::time::Duration;

use hitbox::policy::PolicyConfig;
use hitbox_fn::prelude::*;
use hitbox_moka::MokaBackend;
use tokio::runtime::Runtime;

use crate::harness::sequence;
use crate::payment::{FetchError, Payment, State, upstream};

#[cached(skip(state))]
async fn payment(number: String, state: State) -> Result<Payment, FetchError> {
    upstream(&number, state).await
}

pub fn hits<'b>(runtime: &'b Runtime, numbers: &'b [String]) -> impl FnMut(usize) + 'b {
    let cache = Cache::builder()
        .backend(MokaBackend::builder().max_entries(10_000).build())
        .policy(PolicyConfig::builder().ttl(Duration::from_secs(30 * 60)).build())
        .build();
    let mut keys = sequence(numbers.len());
    move |count| {
        runtime.block_on(async {
            for key in keys.by_ref().take(count) {
                black_box(payment(numbers[key].clone(), State::Paid).cache(&cache).await)
                    .expect("the fetch succeeds");
            }
        })
    }
}
