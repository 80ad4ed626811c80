//! The watchdog: a thread that checks flights. A *flight* is one fetch that several callers share:
//! the *leader* runs the fetch, and the *followers* wait for the result. If a leader is stalled or
//! stuck, or nothing drives its runtime, the watchdog makes a follower the new leader. The header
//! of [`flight`](super) tells when a leader is stalled or stuck.

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::runtime_probe::RuntimeProbes;
use super::{Flight, lock, now_millis};
use crate::unwind::catch_panic;

/// The pause between two checks of the watched flights.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How many times a caller tries to lock [`CURRENT`].
const MAX_LOCK_ATTEMPTS: usize = 100;

/// The list of flights that the watchdog's thread checks. The thread needs no async runtime, and
/// sleeps while the list is empty.
#[derive(Default)]
pub(super) struct LeaderWatchdog {
    /// The flights that at least one follower has joined, even if it has left again.
    flights: Mutex<Vec<Weak<Flight>>>,
    added: Condvar,
}

/// The watchdog, with the id of the process that runs the watchdog's thread.
///
/// If one thread forks while another thread holds this lock, the lock stays locked forever in the
/// child. Therefore the lock is held only for a moment, and [`LeaderWatchdog::current`] gives up
/// after some attempts.
static CURRENT: Mutex<Option<(u32, Arc<LeaderWatchdog>)>> = Mutex::new(None);

impl LeaderWatchdog {
    /// Adds a flight to the list. Returns false if the list cannot be reached; the leader is then
    /// not checked.
    pub(super) fn add(flight: &Arc<Flight>) -> bool {
        let Some(watchdog) = LeaderWatchdog::current() else { return false };
        lock(&watchdog.flights).push(Arc::downgrade(flight));
        watchdog.added.notify_one();
        true
    }

    /// Returns the watchdog whose thread runs in this process, or `None` if [`CURRENT`] stays
    /// locked.
    ///
    /// A forked child starts a watchdog of its own, which takes over the list of the parent's
    /// watchdog.
    fn current() -> Option<Arc<LeaderWatchdog>> {
        let process = std::process::id();
        let mut attempts =
            (0..MAX_LOCK_ATTEMPTS).map(|_| CURRENT.try_lock().inspect_err(|_| thread::yield_now()));
        let mut current = attempts.find_map(Result::ok)?;
        let inherited = match &*current {
            Some((owner, watchdog)) if *owner == process => return Some(Arc::clone(watchdog)),
            // This code does not wait for the lock of the parent's list. A thread of the parent may
            // have held the lock when the parent forked.
            Some((_, parents)) => {
                parents.flights.try_lock().ok().map(|mut flights| std::mem::take(&mut *flights))
            }
            None => None,
        };
        let flights = Mutex::new(inherited.unwrap_or_default());
        let watchdog = Arc::new(LeaderWatchdog { flights, added: Condvar::new() });
        *current = Some((process, Arc::clone(&watchdog)));
        drop(current);
        let running = Arc::clone(&watchdog);
        // If no thread can be started, stalled and stuck leaders keep the lead.
        let _ = thread::Builder::new().name("cached-watch".into()).spawn(move || running.run());
        Some(watchdog)
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
            // User code can run here: a waker, or the `Drop` of a value to which `flights` has the
            // last reference. If that code panics, the watchdog keeps running.
            let _ = catch_panic(|| {
                let now = now_millis();
                for flight in &flights {
                    flight.check_leader(now);
                    if let Some(runtime) = flight.runtime_to_probe(now)
                        && probes.probe_finds_undriven(&runtime)
                    {
                        flight.replace_leader(Some(runtime.id()));
                    }
                }
                drop(flights);
                probes.end_round();
            });
            thread::sleep(CHECK_INTERVAL);
        }
    }
}
