//! The watch: relieves leaders that are not run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::driven::RuntimeProbes;
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

/// The watch of this process, by the process's id. Its thread does not take this lock, so that a fork
/// does not find it locked by a thread that the child does not have.
static CURRENT: Mutex<Option<(u32, Arc<Watch>)>> = Mutex::new(None);

impl Watch {
    pub(super) fn add(flight: &Arc<Flight>) {
        let watch = Watch::current();
        lock(&watch.flights).push(Arc::downgrade(flight));
        watch.added.notify_one();
    }

    /// The watch whose thread runs in this process: a child after `fork` has none, and starts its own,
    /// which takes over the flights that it can see.
    fn current() -> Arc<Watch> {
        let process = std::process::id();
        let mut current = lock(&CURRENT);
        match &*current {
            Some((of, watch)) if *of == process => Arc::clone(watch),
            before => {
                let inherited = before.as_ref().and_then(|(_, watch)| {
                    // The thread that the child does not have may have held it.
                    Some(std::mem::take(&mut *watch.flights.try_lock().ok()?))
                });
                let flights = Mutex::new(inherited.unwrap_or_default());
                let watch = Arc::new(Watch { flights, added: Condvar::new() });
                *current = Some((process, Arc::clone(&watch)));
                let watched = Arc::clone(&watch);
                // Without a thread to be had, stalled leaders are not relieved; all else works.
                let thread = std::thread::Builder::new().name("cached-watch".into());
                let _ = thread.spawn(move || watched.watch());
                watch
            }
        }
    }

    fn watch(&self) -> ! {
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
            // What runs here may be the program's own: a waker, the `Drop` of a value to which
            // ours was the last reference. If that panics, the watch goes on.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                let now = now();
                for flight in &flights {
                    flight.look(now);
                    if let Some(runtime) = flight.runtime_of_quiet_leader(now)
                        && probes.is_undriven(&runtime)
                    {
                        flight.relieve(Some(runtime.id()));
                    }
                }
                drop(flights);
                probes.end_look();
            }));
            std::thread::sleep(LOOK);
        }
    }
}
