//! The watch: relieves leaders that are not run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, LazyLock, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use super::{Flight, lock, now};

/// How often flights with followers are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Looks at the flights that have followers, on one thread of its own, so that single-flight
/// needs no runtime. The thread sleeps while there are none.
#[derive(Default)]
pub(super) struct Watch {
    flights: Mutex<Vec<Weak<Flight>>>,
    added: Condvar,
}

static WATCH: LazyLock<Watch> = LazyLock::new(Watch::default);

impl Watch {
    pub(super) fn add(flight: &Arc<Flight>) {
        static THREAD: OnceLock<bool> = OnceLock::new();
        THREAD.get_or_init(|| {
            // Without a thread to be had, stalled leaders are not relieved; all else works.
            std::thread::Builder::new().name("cached-watch".into()).spawn(|| WATCH.watch()).is_ok()
        });
        lock(&WATCH.flights).push(Arc::downgrade(flight));
        WATCH.added.notify_one();
    }

    fn watch(&self) -> ! {
        loop {
            let flights: Vec<Arc<Flight>> = {
                let mut flights = lock(&self.flights);
                while flights.is_empty() {
                    flights = self.added.wait(flights).unwrap_or_else(PoisonError::into_inner);
                }
                flights.retain(|flight| flight.strong_count() > 0);
                flights.iter().filter_map(Weak::upgrade).collect()
            };
            // What runs here may be the program's own: a waker, the `Drop` of a value to which
            // ours was the last reference. If that panics, the watch goes on.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                let now = now();
                flights.iter().for_each(|flight| flight.look(now));
                drop(flights);
            }));
            std::thread::sleep(LOOK);
        }
    }
}
