//! The watch: a thread that takes the lead from leaders which are not run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::runtime_probe::RuntimeProbes;
use super::{Flight, lock, now_millis};

/// How often the watch checks the flights that have followers.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The flights that have followers, and the thread that checks their leaders. A thread is used, so
/// that single-flight needs no runtime. It sleeps while the list is empty.
#[derive(Default)]
pub(super) struct LeaderWatchdog {
    flights: Mutex<Vec<Weak<Flight>>>,
    added: Condvar,
}

/// The watch, with the id of the process that runs its thread. The thread itself never takes this
/// lock, so the lock cannot be held by a missing thread after a fork.
static CURRENT: Mutex<Option<(u32, Arc<LeaderWatchdog>)>> = Mutex::new(None);

impl LeaderWatchdog {
    pub(super) fn add(flight: &Arc<Flight>) {
        let watch = LeaderWatchdog::current();
        lock(&watch.flights).push(Arc::downgrade(flight));
        watch.added.notify_one();
    }

    /// Returns the watch whose thread runs in this process. A forked child starts its own, which
    /// takes over the flights that the parent's watch had.
    fn current() -> Arc<LeaderWatchdog> {
        let process = std::process::id();
        let mut current = lock(&CURRENT);
        match &*current {
            Some((of, watch)) if *of == process => Arc::clone(watch),
            before => {
                let inherited = before.as_ref().and_then(|(_, watch)| {
                    // The parent's thread, which the child does not have, may hold this lock.
                    Some(std::mem::take(&mut *watch.flights.try_lock().ok()?))
                });
                let flights = Mutex::new(inherited.unwrap_or_default());
                let watch = Arc::new(LeaderWatchdog { flights, added: Condvar::new() });
                *current = Some((process, Arc::clone(&watch)));
                let watched = Arc::clone(&watch);
                // If no thread can be started, stalled leaders keep their lead. All else works.
                let thread = std::thread::Builder::new().name("cached-watch".into());
                let _ = thread.spawn(move || watched.run());
                watch
            }
        }
    }

    fn run(&self) -> ! {
        let mut probes = RuntimeProbes::default();
        loop {
            let flights: Vec<Arc<Flight>> = {
                let mut flights = lock(&self.flights);
                while flights.is_empty() {
                    flights = self.added.wait(flights).unwrap_or_else(PoisonError::into_inner);
                }
                flights.retain(|flight| flight.strong_count() > 0);
                flights.iter().filter_map(Weak::upgrade).collect()
            };
            // The program's own code may run here: a waker, or the `Drop` of a value whose last
            // reference is ours. If it panics, the watch goes on.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                let now = now_millis();
                for flight in &flights {
                    flight.check_leader(now);
                    if let Some(runtime) = flight.runtime_to_probe(now)
                        && probes.is_undriven(&runtime)
                    {
                        flight.replace_leader(Some(runtime.id()));
                    }
                }
                drop(flights);
                probes.end_round();
            }));
            std::thread::sleep(CHECK_INTERVAL);
        }
    }
}
