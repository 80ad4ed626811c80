//! The cost of the local tier in allocations and bytes.
//!
//! These tests run in a process of their own because they count allocations.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use allocation_counter::measure;
use cached_core::{Cache, RequestScope, coordinator_cached};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("the runtime starts")
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Payment {
    number: String,
    cents: u64,
}

#[coordinator_cached(name = "payment", version = state)]
async fn payment(number: &str, state: u8) -> Result<Arc<Payment>, std::io::Error> {
    Ok(Arc::new(Payment { number: number.to_owned(), cents: 1999 }))
}

#[test]
fn a_hit_allocates_nothing() {
    let runtime = runtime();
    let cache = runtime.block_on(Cache::builder().build()).expect("the settings are valid");
    // The keys have between 9 and 107 characters.
    let numbers: Vec<String> =
        (0..200).map(|number| format!("payment-{number:0$}", number % 100)).collect();
    let call_all = async || {
        for number in &numbers {
            payment(number, 1).await.expect("the call succeeds");
        }
    };
    runtime.block_on(async {
        // These rounds let the local tier finish its deferred work.
        for _ in 0..40 {
            call_all().await;
            cache.scope(call_all()).await;
        }
    });
    let allocated = measure(|| {
        runtime.block_on(async {
            call_all().await;
            cache.scope(call_all()).await;
        });
    });
    assert_eq!(allocated.count_total, 0, "{allocated:?}");

    let in_request = async || {
        for _ in 0..100 {
            payment(&numbers[0], 1).await.expect("the call succeeds");
        }
    };
    let allocated_in_request = runtime.block_on(RequestScope::new().run(async {
        in_request().await;
        let mut future = std::pin::pin!(in_request());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        measure(|| assert!(future.as_mut().poll(&mut context).is_ready()))
    }));
    assert_eq!(allocated_in_request.count_total, 0, "{allocated_in_request:?}");
}

/// A value whose `clone` calls another annotated function.
#[derive(Debug, Serialize, Deserialize)]
pub struct CallsOnClone(u8);

impl Clone for CallsOnClone {
    fn clone(&self) -> CallsOnClone {
        let mut call = std::pin::pin!(payment("inner", 1));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(call.as_mut().poll(&mut context).is_ready());
        CallsOnClone(self.0)
    }
}

#[coordinator_cached(name = "calling", version = number)]
async fn calling(number: u8) -> Result<CallsOnClone, std::io::Error> {
    Ok(CallsOnClone(number))
}

#[test]
fn a_nested_hit_allocates_no_thread_state() {
    let call_all = async || {
        for _ in 0..40 {
            calling(1).await.expect("the call succeeds");
        }
    };
    runtime().block_on(call_all());
    let runtime = runtime();
    let allocated = measure(|| runtime.block_on(call_all()));
    // The local tier allocates when it reports hits to moka, which decides what is evicted.
    assert!(allocated.bytes_total < 16 << 10, "nested hits allocate little: {allocated:?}");
}

/// The bytes of all `TrackedValue`s that have not been dropped.
static LIVE_BYTES: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Serialize, Deserialize)]
pub struct TrackedValue(Vec<u8>);

impl TrackedValue {
    fn new(bytes: usize) -> TrackedValue {
        LIVE_BYTES.fetch_add(bytes as u64, Ordering::SeqCst);
        TrackedValue(vec![7; bytes])
    }
}

impl Drop for TrackedValue {
    fn drop(&mut self) {
        LIVE_BYTES.fetch_sub(self.0.len() as u64, Ordering::SeqCst);
    }
}

#[coordinator_cached(name = "tracked", version = number, remote = false)]
async fn tracked(number: u64) -> Result<Arc<TrackedValue>, std::io::Error> {
    Ok(Arc::new(TrackedValue::new(1_000 + number as usize % 1_000)))
}

#[test]
fn the_capacity_holds_under_churn() {
    const CAPACITY: u64 = 16 << 20;
    let cache = runtime().block_on(Cache::builder().local_capacity(CAPACITY).build());
    let cache = cache.expect("the settings are valid");
    let most = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (cache, most) = (&cache, &most);
            scope.spawn(move || {
                runtime().block_on(cache.scope(async {
                    for step in 0..15_000 {
                        tracked(thread << 32 | step).await.expect("the call succeeds");
                        // Some keys are hit for a while. Then other keys take their place.
                        tracked(step / 100 * 50 + step % 50).await.expect("the call succeeds");
                        most.fetch_max(LIVE_BYTES.load(Ordering::SeqCst), Ordering::SeqCst);
                    }
                }));
            });
        }
    });
    let most = most.into_inner();
    println!("at most {most} bytes of {CAPACITY}");
    assert!(most > CAPACITY / 2, "the cache is full: {most} of {CAPACITY} bytes");
    assert!(most <= CAPACITY + CAPACITY / 10, "the capacity holds: {most} of {CAPACITY} bytes");
}
