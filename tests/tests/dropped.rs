//! Values whose own `Drop` panics. In a program of its own: whichever thread is about drops them.
#![allow(missing_docs)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cached_core::{Cache, coordinator_cached};
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;

static DROPPED: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Serialize, Deserialize)]
pub struct Panics(u64);

impl Drop for Panics {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
        assert!(!self.0.is_multiple_of(20), "a value may panic");
    }
}

#[coordinator_cached(name = "panics", version = number, remote = false)]
async fn panics(number: u64) -> Result<Arc<Panics>, std::io::Error> {
    Ok(Arc::new(Panics(number)))
}

#[test]
fn a_value_that_panics_keeps_no_other_from_being_dropped() {
    const CAPACITY: u64 = 100 << 10;
    const CALLS: u64 = 10_000;
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let cache = runtime.block_on(Cache::builder().local_capacity(CAPACITY).build());
    // It goes with the process, and not with what it holds.
    let cache = std::mem::ManuallyDrop::new(cache.expect("it fits"));
    let mut panicked = 0;
    for number in 0..CALLS {
        let call = AssertUnwindSafe(|| runtime.block_on(cache.scope(panics(number))));
        let answer = catch_unwind(call);
        panicked += u64::from(answer.is_err());
        // Where its entry is gone already it is the last one.
        catch_unwind(AssertUnwindSafe(|| drop(answer))).ok();
    }
    let dropped = DROPPED.load(Ordering::Relaxed);
    println!("{dropped} of {CALLS} were dropped, {panicked} calls panicked");
    // It is no business of the call that comes to drop one.
    assert_eq!(panicked, 0);
    // About a thousand have a place in the cache; some more wait to be dropped.
    assert!(dropped > CALLS - 3_000);
}
