//! Tests a cached value whose `Drop` calls a cached function and waits for the answer.
//!
//! The test has a process of its own. In a shared process, the threads of other tests might drop
//! these values.
#![allow(missing_docs)]

use std::cell::Cell;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use cached_core::{Cache, RequestScope, coordinator_cached};
use serde::{Deserialize, Serialize};

thread_local! {
    /// The number that this thread calls `fetch` with. A dropped value takes the number and repeats
    /// the call.
    static CURRENT_NUMBER: Cell<Option<u64>> = const { Cell::new(None) };
}

/// How many of the calls that `Drop` made were answered.
static ANSWERED: AtomicU64 = AtomicU64::new(0);

struct ThreadWaker(Thread);

impl Wake for ThreadWaker {
    fn wake(self: Arc<ThreadWaker>) {
        self.0.unpark();
    }
}

/// Waits for a future without a runtime. A `Drop` can run on a thread of a runtime, and tokio
/// panics if such a thread calls `block_on`.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(ThreadWaker(thread::current())));
    loop {
        if let Poll::Ready(ready) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return ready;
        }
        thread::park();
    }
}

/// A value whose `Drop` repeats the current call of its thread.
#[derive(Debug, Serialize, Deserialize)]
pub struct CallsOnDrop(u64);

impl Drop for CallsOnDrop {
    fn drop(&mut self) {
        if let Some(number) = CURRENT_NUMBER.take() {
            assert_eq!(wait(fetch(number)).expect("the call succeeds").0, number);
            ANSWERED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[coordinator_cached(name = "calls_on_drop", version = number)]
async fn fetch(number: u64) -> Result<Arc<CallsOnDrop>, std::io::Error> {
    Ok(Arc::new(CallsOnDrop(number)))
}

/// Runs a function on a new thread, and panics if the function takes longer than ten seconds. A
/// call that waits for a fetch on its own thread would take twenty seconds.
fn within_ten_seconds(run: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        run();
        let _ = done.send(());
    });
    let waited = is_done.recv_timeout(Duration::from_secs(10));
    assert!(waited.is_ok(), "the function returns within ten seconds");
}

/// With `force_miss`, a call ignores stored values, but can still wait for a running fetch. The
/// call that a `Drop` makes must not wait for the fetch that is just ending on the same thread.
#[test]
fn a_dropped_value_may_call_its_own_key() {
    within_ten_seconds(|| {
        let cache = wait(Cache::builder().local_capacity(64 << 10).build())
            .expect("the settings are valid");
        for number in 0..10_000 {
            let request = RequestScope::new().force_miss(true);
            CURRENT_NUMBER.set(Some(number));
            let answer = wait(cache.scope(request.run(fetch(number))));
            CURRENT_NUMBER.set(None);
            assert_eq!(answer.expect("the call succeeds").0, number);
        }
        assert!(ANSWERED.load(Ordering::Relaxed) > 100, "many dropped values make a call");
    });
}
