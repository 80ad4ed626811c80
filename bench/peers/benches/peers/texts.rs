//! Measures cache hits of a function whose key contains a text. Of all parts of the benchmark, this
//! part compares the most libraries.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use cached::macros::{cached, concurrent_cached};
use cached_core::{RequestScope, coordinator_cached};
use tokio::runtime::{Builder, Runtime};

use crate::harness::{Contender, Results, race, sequence, timed};
use crate::payment::{FetchError, Payment, State, numbers, shared_upstream, upstream};
use crate::plot::thousands;
use crate::report::Report;

const KEYS: usize = 1_000;
const TTL: Duration = Duration::from_secs(30 * 60);

#[coordinator_cached(name = "shared", version = state)]
async fn ours_shared(number: &str, state: State) -> Result<Arc<Payment>, FetchError> {
    shared_upstream(number, state).await
}

#[coordinator_cached(name = "owned", version = state)]
async fn ours_owned(number: &str, state: State) -> Result<Payment, FetchError> {
    upstream(number, state).await
}

#[coordinator_cached(name = "repeated", version = state)]
async fn ours_repeated(number: &str, state: State) -> Result<Arc<Payment>, FetchError> {
    shared_upstream(number, state).await
}

#[concurrent_cached(max_size = 10_000, ttl_secs = 1800, key = "(String, State)", convert = { (number.to_owned(), state) })]
async fn concurrent_shared(number: &str, state: State) -> Result<Arc<Payment>, FetchError> {
    shared_upstream(number, state).await
}

#[concurrent_cached(max_size = 10_000, ttl_secs = 1800, key = "(String, State)", convert = { (number.to_owned(), state) })]
async fn concurrent_owned(number: &str, state: State) -> Result<Payment, FetchError> {
    upstream(number, state).await
}

#[cached(max_size = 10_000, ttl_secs = 1800, key = "(String, State)", convert = { (number.to_owned(), state) })]
async fn cached_owned(number: &str, state: State) -> Result<Payment, FetchError> {
    upstream(number, state).await
}

const OURS: &str = "cached-core, Arc value";
const OURS_OWNED: &str = "cached-core, owned value";
const OURS_REPEATED: &str = "cached-core, eight keys repeated";
const OURS_IN_REQUEST: &str = "cached-core, eight keys repeated in a request";
const BASELINE: &str = "cached #[concurrent_cached], Arc value";
const PEER_OWNED: &str = "cached #[concurrent_cached], owned value";
const CLONE: &str = "the clone of the value alone";

/// Returns a closure that evaluates `$call` for the next `count` keys, one after the other.
macro_rules! time_call {
    ($runtime:expr, $numbers:expr, |$number:ident| $call:expr) => {{
        let (runtime, mut keys) = ($runtime, sequence($numbers.len()));
        move |count: usize| {
            runtime.block_on(async {
                for key in keys.by_ref().take(count) {
                    let $number = &$numbers[key];
                    let _ = black_box($call);
                }
            })
        }
    }};
}

pub fn report(report: &mut Report) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("the runtime starts");
    let title = format!("A hit with a text in its key, {} keys", thousands(KEYS));
    report.race(&title, "ns", BASELINE, &run(&runtime));
}

fn run(runtime: &Runtime) -> Results {
    let numbers = &numbers(KEYS);
    let values: Vec<Payment> = runtime.block_on(async {
        let mut values = Vec::new();
        for number in numbers {
            values.push(upstream(number, State::Paid).await.expect("the fetch succeeds"));
        }
        values
    });
    let shared = |key: usize| Arc::new(values[key].clone());

    let moka_sync = moka::sync::Cache::builder().max_capacity(10_000).time_to_live(TTL).build();
    let moka_future = moka::future::Cache::builder().max_capacity(10_000).time_to_live(TTL).build();
    let quick = quick_cache::sync::Cache::new(10_000);
    let foyer = foyer_memory::Cache::<String, Arc<Payment>>::builder(10_000)
        .build::<foyer_memory::CacheProperties>();
    let cachet = runtime.block_on(async {
        cachet::Cache::builder::<String, Arc<Payment>>(tick::Clock::new_tokio())
            .memory()
            .ttl(TTL)
            .build()
    });
    runtime.block_on(async {
        for (key, number) in numbers.iter().enumerate() {
            moka_sync.insert(number.clone(), shared(key));
            moka_future.insert(number.clone(), shared(key)).await;
            quick.insert(number.clone(), shared(key));
            foyer.insert(number.clone(), shared(key));
            let _ = cachet.insert(number.clone(), shared(key)).await;
        }
    });

    let mut clones = sequence(KEYS);
    // Calls for a few keys again and again.
    let repeat = |count: usize| async move {
        for number in numbers[..8].iter().cycle().take(count) {
            let _ = black_box(ours_repeated(number, State::Paid).await);
        }
    };
    let contenders: Vec<Contender<'_>> = vec![
        timed(OURS, time_call!(runtime, numbers, |number| ours_shared(number, State::Paid).await)),
        timed(
            OURS_OWNED,
            time_call!(runtime, numbers, |number| ours_owned(number, State::Paid).await),
        ),
        timed(OURS_REPEATED, move |count| runtime.block_on(repeat(count))),
        timed(OURS_IN_REQUEST, move |count| {
            runtime.block_on(RequestScope::new().run(repeat(count)));
        }),
        timed(
            BASELINE,
            time_call!(runtime, numbers, |number| concurrent_shared(number, State::Paid).await),
        ),
        timed(
            PEER_OWNED,
            time_call!(runtime, numbers, |number| concurrent_owned(number, State::Paid).await),
        ),
        timed(
            "cached #[cached], owned value",
            time_call!(runtime, numbers, |number| cached_owned(number, State::Paid).await),
        ),
        timed("moka sync alone", time_call!(runtime, numbers, |number| moka_sync.get(number))),
        timed(
            "moka future alone",
            time_call!(runtime, numbers, |number| moka_future.get(number).await),
        ),
        timed("quick_cache alone", time_call!(runtime, numbers, |number| quick.get(number))),
        timed(
            "foyer memory alone",
            time_call!(runtime, numbers, |number| foyer
                .get(number)
                .map(|entry| Arc::clone(entry.value()))),
        ),
        timed("cachet", time_call!(runtime, numbers, |number| cachet.get(number).await)),
        timed("hitbox-fn", crate::hitbox::hits(runtime, numbers)),
        timed(CLONE, move |count| {
            for key in clones.by_ref().take(count) {
                black_box(values[key].clone());
            }
        }),
    ];
    race(25, 10_000, contenders)
}
