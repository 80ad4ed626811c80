//! A test of cached values whose `Drop` panics.
//!
//! The test runs in a process of its own, because every thread of the process can drop these
//! values.
#![allow(missing_docs)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cached_core::{Cache, coordinator_cached};
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;

static DROPPED: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Serialize, Deserialize)]
pub struct PanicsOnDrop(u64);

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
        assert!(!self.0.is_multiple_of(20), "the drop of every twentieth value panics");
    }
}

#[coordinator_cached(name = "panics", version = number, remote = false)]
async fn panics(number: u64) -> Result<Arc<PanicsOnDrop>, std::io::Error> {
    Ok(Arc::new(PanicsOnDrop(number)))
}

#[test]
fn a_panicking_drop_blocks_no_other_drop() {
    const CAPACITY: u64 = 100 << 10;
    const CALLS: u64 = 10_000;
    let runtime = Builder::new_current_thread().build().expect("the runtime starts");
    let cache = runtime.block_on(Cache::builder().local_capacity(CAPACITY).build());
    // The cache is never dropped, because that would drop the values that panic.
    let cache = std::mem::ManuallyDrop::new(cache.expect("the settings are valid"));
    let mut panicked = 0;
    for number in 0..CALLS {
        let call = AssertUnwindSafe(|| runtime.block_on(cache.scope(panics(number))));
        let answer = catch_unwind(call);
        panicked += u64::from(answer.is_err());
        // If the cache has evicted the value already, the answer is the last reference to it.
        catch_unwind(AssertUnwindSafe(|| drop(answer))).ok();
    }
    let dropped = DROPPED.load(Ordering::Relaxed);
    println!("{dropped} of {CALLS} values were dropped, {panicked} calls panicked");
    assert_eq!(panicked, 0, "a call that drops an evicted value does not panic");
    // About a thousand values fit into the cache, and some more wait to be dropped.
    assert!(dropped > CALLS - 3_000, "most evicted values are dropped: {dropped}");
}
