//! Single-flight: this process runs one fetch for each key at a time.
//!
//! The first caller that misses a key becomes the *leader* of a flight and fetches. Later callers are
//! *followers* and wait for its outcome. A request that forces misses has a flight of its own.
//!
//! A flight has one current leader or an outcome. The lead goes to a follower, the *successor*, in
//! these cases:
//!
//! - The leader is dropped without an outcome, because it was cancelled or panicked.
//! - The leader was woken and not polled for [`STALLED_AFTER`]. Somebody holds its future and does not
//!   run it, perhaps the very task that waits here. A leader that waits for its network is not woken,
//!   so a slow fetch keeps its lead.
//! - Nobody drives the leader's runtime, so nothing can wake the leader. The watch finds out by
//!   spawning a small task there. The successor is on another runtime if possible.
//! - The leader was neither woken nor polled for [`STUCK_LEADER_AFTER`], or for four times the usual
//!   fetch time if that is longer. Its future may be leaked, or wait for a task that waits here.
//!
//! If a leader that lost its lead goes on, the first of the two fetches that ends answers everybody,
//! both leaders included. A flight without followers ends with its leader.
//!
//! A forked process has its parent's flights in its memory, but not the threads that lead them. It
//! starts flights of its own.

mod follower;
mod leader;
mod runtime_probe;
mod watchdog;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use tokio::runtime::{Handle, Id};

use crate::clock::CoarseInstant;
use crate::key::KeyHeader;
use crate::sync::lock;
use crate::value::{SharedError, Value};
pub(crate) use follower::{Follower, FollowerOutput};
use leader::is_led_by_this_thread;
pub(crate) use leader::{Leader, LeaderMonitor, LeaderWakerCache, poll_work};
use watchdog::LeaderWatchdog;

/// A leader that was woken and not polled for this long loses its lead.
pub(crate) const STALLED_AFTER: Duration = Duration::from_millis(900);
/// A leader that was neither woken nor polled for this long loses its lead, unless fetches of its
/// function are known to take longer.
pub(crate) const STUCK_LEADER_AFTER: Duration = Duration::from_secs(60);

/// After this many leaders of a flight have panicked, each follower fetches for itself.
const MAX_PANICS: u32 = 2;

/// How a leader's fetch ended, for its followers.
#[derive(Clone)]
pub(crate) enum FlightOutcome {
    /// A value that the tiers may keep.
    Cached(Value),
    /// A value that answers the callers of this flight and is not kept.
    Uncached(Value),
    /// An error that every follower can return.
    Error(SharedError),
    /// An error that cannot be shared. Each follower fetches for itself.
    UnsharedError,
}

/// The flights that share a lock, each with its key's hash. A shard mostly holds none or one.
type FlightShard = Vec<(u64, Arc<Flight>)>;

/// The number of shards. With 10,000 flights under way a linear search sees 160 of them, and all
/// shards together fit into the processor's cache.
const SHARDS: usize = 64;

/// The flights of one cache.
pub(crate) struct Flights {
    shards: Vec<Mutex<FlightShard>>,
    /// The process that starts flights here. A caller that finds a flight notices a fork.
    process: AtomicU32,
}

/// A caller's role in its key's flight.
pub(crate) enum FlightRole {
    Leader(Leader),
    Follower(Follower),
    /// The caller runs inside the leader's own fetch, so waiting for that would never end.
    Recursive,
}

impl Flights {
    pub(crate) fn new() -> Flights {
        Flights {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            process: AtomicU32::new(std::process::id()),
        }
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, FlightShard> {
        lock(&self.shards[hash as usize % SHARDS])
    }

    /// Joins the flight of `key`, or starts one. A flight for one `request` is joined only by calls
    /// of that request.
    pub(crate) fn join(self: &Arc<Flights>, key: &Arc<[u8]>, request: Option<u64>) -> FlightRole {
        let hash = KeyHeader::read(key).spread();
        // Dropped after the lock is released.
        let _inherited;
        let mut shard = self.shard(hash);
        let matches = |flight: &Flight| flight.key == *key && flight.request == request;
        let known = shard.iter().position(|(of, flight)| *of == hash && matches(flight));
        if let Some(index) = known {
            let flight = &shard[index].1;
            if is_led_by_this_thread(flight) {
                return FlightRole::Recursive;
            }
            if self.began_here(flight) {
                return FlightRole::Follower(Flight::follow(flight));
            }
            _inherited = shard.swap_remove(index);
        }
        let flight = Arc::new(Flight::new(self, hash, key, request));
        shard.push((hash, Arc::clone(&flight)));
        FlightRole::Leader(Leader::new(flight, 0))
    }

    /// Returns false if the flight began in the parent of a forked process, or in the child before
    /// anybody noticed the fork.
    fn began_here(&self, flight: &Flight) -> bool {
        let process = std::process::id();
        if flight.process != process {
            self.process.store(process, Ordering::Relaxed);
        }
        flight.process == process
    }

    /// Removes the flights of `key`, so that later callers start another. Callers that have joined
    /// one still receive its outcome, because they asked before.
    pub(crate) fn detach(&self, key: &[u8]) {
        let hash = KeyHeader::read(key).spread();
        self.shard(hash).retain(|(of, flight)| *of != hash || *flight.key != *key);
    }
}

struct Flight {
    flights: Arc<Flights>,
    hash: u64,
    key: Arc<[u8]>,
    /// The one request that may join the flight, if it is for one.
    request: Option<u64>,
    process: u32,
    state: Mutex<FlightState>,
    /// Counts changes of the lead. A leader with an older number has lost it.
    term: AtomicU64,
    /// When the leader was woken, in milliseconds by [`now_millis`]; 0 if it was polled since.
    woken: AtomicU64,
    /// When the leader was last polled, in milliseconds by [`now_millis`].
    polled: AtomicU64,
    /// True while the leader is being polled.
    polling: AtomicBool,
    /// The runtime that polls the leader, with the leader's term. It is set once the leader waits.
    runtime: Mutex<Option<(u64, Handle)>>,
    /// For how many milliseconds the leader may be neither woken nor polled.
    stuck_after: AtomicU64,
    /// Data that a leader leaves for its successor.
    handoff: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The callers of a flight, and its outcome once there is one.
#[derive(Default)]
struct FlightState {
    outcome: Option<FlightOutcome>,
    /// The follower that was given the lead and has not taken it yet.
    promoted: Option<u64>,
    /// The followers, in the order in which they joined.
    followers: BTreeMap<u64, FollowerRegistration>,
    next_id: u64,
    is_watched: bool,
    /// Wakers of further leaders that still fetch. The outcome wakes them.
    other_leaders: Vec<Waker>,
    /// The number of leaders that have panicked.
    panics: u32,
    /// The runtime of a leader that lost its lead because nobody drives that runtime.
    undriven: Option<Id>,
}

/// The part of a follower that its flight needs to wake it.
#[derive(Default)]
struct FollowerRegistration {
    /// `None` before the first poll, and after a wake until the next poll.
    waker: Option<Waker>,
    /// The runtime that polled the follower.
    runtime: Option<Id>,
}

/// Returns a time in milliseconds, by the coarse clock. It is never 0.
fn now_millis() -> u64 {
    CoarseInstant::now().millis() + 1
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Flight {
    fn new(flights: &Arc<Flights>, hash: u64, key: &Arc<[u8]>, request: Option<u64>) -> Flight {
        Flight {
            flights: Arc::clone(flights),
            hash,
            key: Arc::clone(key),
            request,
            process: flights.process.load(Ordering::Relaxed),
            state: Mutex::default(),
            term: AtomicU64::new(0),
            woken: AtomicU64::new(0),
            polled: AtomicU64::new(0),
            polling: AtomicBool::new(false),
            runtime: Mutex::new(None),
            stuck_after: AtomicU64::new(millis(STUCK_LEADER_AFTER)),
            handoff: Mutex::new(None),
        }
    }

    fn follow(self: &Arc<Flight>) -> Follower {
        let mut state = lock(&self.state);
        let id = state.next_id;
        state.next_id += 1;
        state.followers.insert(id, FollowerRegistration::default());
        if !state.is_watched {
            state.is_watched = true;
            LeaderWatchdog::add(self);
        }
        Follower { flight: Arc::clone(self), id, is_done: false }
    }

    /// Removes this flight from its shard, if it is there.
    fn remove_from(self: &Arc<Flight>, shard: &mut FlightShard) {
        if let Some(index) = shard.iter().position(|(_, flight)| Arc::ptr_eq(flight, self)) {
            shard.swap_remove(index);
        }
    }

    /// Ends the flight. `outcome` is called only if somebody waits for it.
    fn answer(self: &Arc<Flight>, outcome: impl FnOnce() -> FlightOutcome) {
        self.remove_from(&mut self.flights.shard(self.hash));
        // Nobody can join any more, and every follower holds a reference to the flight.
        if Arc::strong_count(self) == 1 {
            return;
        }
        let (followers, other_leaders) = {
            let mut state = lock(&self.state);
            // A leader that lost its lead may finish after its successor. The first outcome stands;
            // a later one is dropped after the lock is released.
            if state.outcome.is_none() {
                state.outcome = Some(outcome());
            }
            state.promoted = None;
            (std::mem::take(&mut state.followers), std::mem::take(&mut state.other_leaders))
        };
        let wakers = followers.into_values().filter_map(|follower| follower.waker);
        wakers.chain(other_leaders).for_each(Waker::wake);
    }

    /// Ends the lead of `term` without an outcome: the follower that has waited longest takes it
    /// over. Without a follower the flight ends. After [`MAX_PANICS`] each follower fetches for itself.
    fn abandon(self: &Arc<Flight>, term: u64, panicked: bool) {
        // The shard stays locked, so that nobody joins a flight that is about to be removed.
        let mut shard = self.flights.shard(self.hash);
        let successor = {
            let mut state = lock(&self.state);
            if self.term.load(Ordering::Acquire) != term || state.outcome.is_some() {
                return;
            }
            state.panics += u32::from(panicked);
            if state.panics >= MAX_PANICS {
                drop((state, shard));
                return self.answer(|| FlightOutcome::UnsharedError);
            }
            state.promote(self)
        };
        match successor {
            Some(waker) => {
                drop(shard);
                waker.wake();
            }
            None => self.remove_from(&mut shard),
        }
    }

    /// Takes the lead from a leader that is not being run. The watch calls this.
    fn check_leader(&self, now: u64) {
        let woken = self.woken.load(Ordering::Acquire);
        let polled = self.polled.load(Ordering::Acquire);
        // A leader that is being polled is being run, however long the poll takes.
        let polling = self.polling.load(Ordering::Acquire);
        let is_overdue = woken != 0 && !polling;
        let is_stalled = is_overdue && now.saturating_sub(woken) >= millis(STALLED_AFTER);
        let stuck_after = self.stuck_after.load(Ordering::Acquire);
        let is_stuck = now.saturating_sub(woken.max(polled)) >= stuck_after;
        if is_stalled || is_stuck {
            self.replace_leader(None);
        }
    }

    /// Returns the runtime of a leader that was neither woken nor polled for [`STALLED_AFTER`].
    fn runtime_to_probe(&self, now: u64) -> Option<Handle> {
        let woken = self.woken.load(Ordering::Acquire);
        let polled = self.polled.load(Ordering::Acquire);
        let is_quiet = now.saturating_sub(woken.max(polled)) >= millis(STALLED_AFTER);
        if !is_quiet || self.polling.load(Ordering::Acquire) {
            return None;
        }
        let term = self.term.load(Ordering::Acquire);
        let runtime = lock(&self.runtime);
        runtime.as_ref().filter(|(of, _)| *of == term).map(|(_, runtime)| runtime.clone())
    }

    /// Gives the lead to a follower, if there is one. A follower on another runtime than `undriven`
    /// is preferred.
    fn replace_leader(&self, undriven: Option<Id>) {
        let successor = {
            let mut state = lock(&self.state);
            if state.outcome.is_some() {
                return;
            }
            state.undriven = undriven.or(state.undriven);
            state.promote(self)
        };
        if let Some(successor) = successor {
            successor.wake();
        }
    }
}

impl FlightState {
    /// Gives the lead to the follower that has waited longest, or to the one after a follower that
    /// did not take it. Returns the waker of the successor.
    fn promote(&mut self, flight: &Flight) -> Option<Waker> {
        let next = self.promoted.map_or(0, |promoted| promoted + 1);
        let in_turn = || self.followers.range(next..).chain(&self.followers);
        let is_elsewhere = |follower: &FollowerRegistration| {
            self.undriven.is_none() || follower.runtime != self.undriven
        };
        let elsewhere = in_turn().find(|(_, follower)| is_elsewhere(follower));
        let id = *elsewhere.or_else(|| in_turn().next())?.0;
        self.promoted = Some(id);
        flight.term.fetch_add(1, Ordering::AcqRel);
        // The successor counts as woken, so it loses the lead again unless it is polled in time.
        flight.woken.store(now_millis(), Ordering::Release);
        flight.polling.store(false, Ordering::Release);
        // A follower that was never polled finds the lead when it is.
        let waker = self.followers.get_mut(&id).and_then(|follower| follower.waker.take());
        Some(waker.unwrap_or_else(|| Waker::noop().clone()))
    }
}

#[cfg(test)]
mod tests;
