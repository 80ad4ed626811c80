//! What the local tier costs: allocations, bytes, and how well it keeps what is asked for.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use allocation_counter::measure;
use cached_core::{Cache, RequestScope, coordinator_cached};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
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
    let cache = runtime.block_on(Cache::builder().build()).expect("it fits");
    // Short and longer, as far as most keys go.
    let numbers: Vec<String> =
        (0..200).map(|number| format!("payment-{number:0$}", number % 100)).collect();
    let ask = async || {
        for number in &numbers {
            payment(number, 1).await.expect("it answers");
        }
    };
    runtime.block_on(async {
        // Until the store has done what it puts off.
        for _ in 0..40 {
            ask().await;
            cache.scope(ask()).await;
        }
    });
    let allocated = measure(|| {
        runtime.block_on(async {
            ask().await;
            cache.scope(ask()).await;
        });
    });
    assert_eq!(allocated.count_total, 0, "{allocated:?}");

    let in_request = async || {
        for _ in 0..100 {
            payment(&numbers[0], 1).await.expect("it answers");
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

/// A value whose `Clone` makes a call itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct Calling(u8);

impl Clone for Calling {
    fn clone(&self) -> Calling {
        let mut call = std::pin::pin!(payment("inner", 1));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(call.as_mut().poll(&mut context).is_ready());
        Calling(self.0)
    }
}

#[coordinator_cached(name = "calling", version = number)]
async fn calling(number: u8) -> Result<Calling, std::io::Error> {
    Ok(Calling(number))
}

#[test]
fn a_hit_within_a_hit_begins_nothing_anew_for_its_thread() {
    let ask = async || {
        for _ in 0..40 {
            calling(1).await.expect("it answers");
        }
    };
    runtime().block_on(ask());
    let runtime = runtime();
    let allocated = measure(|| runtime.block_on(ask()));
    // The store's own books, for hits that are passed on.
    assert!(allocated.bytes_total < 16 << 10, "{allocated:?}");
}

/// Bytes of values that are alive.
static ALIVE: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Serialize, Deserialize)]
pub struct Tracked(Vec<u8>);

impl Tracked {
    fn new(bytes: usize) -> Tracked {
        ALIVE.fetch_add(bytes as u64, Ordering::SeqCst);
        Tracked(vec![7; bytes])
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        ALIVE.fetch_sub(self.0.len() as u64, Ordering::SeqCst);
    }
}

#[coordinator_cached(name = "tracked", version = number, remote = false)]
async fn tracked(number: u64) -> Result<Arc<Tracked>, std::io::Error> {
    Ok(Arc::new(Tracked::new(1_000 + number as usize % 1_000)))
}

#[test]
fn the_bound_in_bytes_holds_under_churn_with_what_threads_keep() {
    const CAPACITY: u64 = 16 << 20;
    let cache = runtime().block_on(Cache::builder().local_capacity(CAPACITY).build());
    let cache = cache.expect("it fits");
    let most = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (cache, most) = (&cache, &most);
            scope.spawn(move || {
                runtime().block_on(cache.scope(async {
                    for step in 0..15_000 {
                        tracked(thread << 32 | step).await.expect("it answers");
                        // And some that are hit again and again, and are replaced by others in time.
                        tracked(step / 100 * 50 + step % 50).await.expect("it answers");
                        most.fetch_max(ALIVE.load(Ordering::SeqCst), Ordering::SeqCst);
                    }
                }));
            });
        }
    });
    let most = most.into_inner();
    println!("at most {most} bytes of {CAPACITY}");
    assert!(most > CAPACITY / 2, "the cache was not full");
    assert!(most <= CAPACITY + CAPACITY / 10, "{most} bytes are over {CAPACITY}");
}
