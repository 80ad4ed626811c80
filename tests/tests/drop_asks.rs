//! Values whose own `Drop` makes a call and waits for it. In a program of its own: whichever thread
//! is about drops them.
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
    /// The number that this thread asks for, until a value that is dropped has asked for it too.
    static ASKED: Cell<Option<u64>> = const { Cell::new(None) };
}

static ANSWERED: AtomicU64 = AtomicU64::new(0);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Unpark>) {
        self.0.unpark();
    }
}

/// Waits where a runtime would not let a thread wait that is in it already.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(ready) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return ready;
        }
        thread::park();
    }
}

/// When it is dropped it asks for what its thread asks for just then.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asks(u64);

impl Drop for Asks {
    fn drop(&mut self) {
        if let Some(number) = ASKED.take() {
            assert_eq!(wait(asks(number)).expect("it answers").0, number);
            ANSWERED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[coordinator_cached(name = "asks", version = number)]
async fn asks(number: u64) -> Result<Arc<Asks>, std::io::Error> {
    Ok(Arc::new(Asks(number)))
}

/// Runs it on a thread of its own. Who follows a flight of its own thread waits for 20 s.
fn in_time(run: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        run();
        let _ = done.send(());
    });
    let waited = is_done.recv_timeout(Duration::from_secs(10));
    assert!(waited.is_ok(), "it hangs, or has panicked");
}

/// In a request that wants a fresh answer nobody finds what is stored already, just before the flight
/// is answered.
#[test]
fn a_value_that_gives_its_place_to_another_asks_for_that_one() {
    in_time(|| {
        let cache = wait(Cache::builder().local_capacity(64 << 10).build()).expect("it fits");
        for number in 0..10_000 {
            let request = RequestScope::new().force_miss(true);
            ASKED.set(Some(number));
            let answer = wait(cache.scope(request.run(asks(number))));
            ASKED.set(None);
            assert_eq!(answer.expect("it answers").0, number);
        }
        assert!(ANSWERED.load(Ordering::Relaxed) > 100, "they asked");
    });
}
