//! Single-flight: calls of this process that miss the same key at the same time share one fetch.
//!
//! A *fetch* is a run of the annotated function. A *flight* is one key's fetch, together with the
//! calls that need the fetch's outcome. The first call that misses the key starts a flight and
//! becomes the flight's *leader*. The leader asks the remote tier, and fetches if the remote tier
//! has no value. Later calls become *followers* and wait for the outcome.
//!
//! A leader has the *lead* until the flight ends or until the lead passes to a follower, the
//! leader's *successor*. The time of one lead is a *term*; terms are numbered from 0. The lead
//! passes in four cases:
//!
//! - The leader is dropped without an outcome, because the call was cancelled or has panicked.
//! - The leader is *stalled*: the leader was woken, and then not polled for [`STALLED_AFTER`].
//!   Perhaps the task that should poll the leader waits as a follower instead. A leader that waits
//!   for the network is not woken, so a slow fetch keeps the lead.
//! - The leader's runtime is *undriven*: the runtime runs no tasks, so nothing can wake the leader.
//!   The [`watchdog`] finds out by spawning a small task on that runtime. A follower on another
//!   runtime is preferred as the successor.
//! - The leader is *stuck*: the leader was neither woken nor polled for [`STUCK_LEADER_AFTER`], or
//!   for four times the usual fetch time if that is longer. Perhaps the leader's future was leaked,
//!   or waits for a task that waits for this flight.
//!
//! A leader that has lost the lead can still be polled, so two leaders can fetch at the same time.
//! The first outcome ends the flight, and all followers and the other leader receive that outcome.
//! If a leader is dropped without an outcome and there are no followers, the flight ends.
//!
//! A forked child process inherits the parent's flights in its memory, but no thread of the child
//! polls the leaders of these flights. The child therefore starts flights of its own.

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
use crate::event::StaleServedReason;
use crate::key::KeyHeader;
use crate::sync::lock;
use crate::tier::Tier;
use crate::value::{SharedError, Value};
pub(crate) use follower::{Follower, FollowerOutput};
use leader::is_led_by_this_thread;
pub(crate) use leader::{Leader, LeaderMonitor, LeaderWakerCache, poll_work};
use watchdog::LeaderWatchdog;

/// A leader that was woken and then not polled for this long is stalled and loses the lead.
pub(crate) const STALLED_AFTER: Duration = Duration::from_millis(900);
/// A leader that was neither woken nor polled for this long is stuck and loses the lead. The limit
/// is longer for a slow function; see [`Leader::set_usual_fetch_time`].
pub(crate) const STUCK_LEADER_AFTER: Duration = Duration::from_secs(60);

/// When this many leaders of a flight have panicked, the flight ends and each follower fetches
/// alone.
const MAX_PANICS: u32 = 2;

/// The outcome of a flight. Every follower receives a clone of the outcome.
#[derive(Clone)]
pub(crate) enum FlightOutcome {
    /// A value that the leader found in this tier without a fetch. The duration is how long the
    /// remote tier keeps the value fresh; `None` for the local tier.
    Found(Value, Tier, Option<Duration>),
    /// The error of an earlier fetch, under the option `error_ttl`. The leader has not fetched.
    Paused(SharedError),
    /// A value that the tiers may store.
    Cached(Value),
    /// A value that the callers of this flight receive and no tier stores.
    Uncached(Value),
    /// An expired value of this tier, which stands in for a newer one. No tier stores it.
    Expired(Value, Tier, StaleServedReason),
    /// An error that can be cloned, so that every follower returns it.
    Error(SharedError),
    /// The fetch failed with an error that cannot be cloned. Each follower fetches alone.
    UnsharedError,
}

/// A shard: the flights that share one lock, each with the hash of its key. Most shards hold at
/// most one flight.
type FlightShard = Vec<(u64, Arc<Flight>)>;

/// The number of shards. With 10,000 flights under way, a linear search of a shard visits about 160
/// flights. The 64 locks and lists fit into the processor's cache.
const SHARD_COUNT: usize = 64;

/// The flights of one cache.
pub(crate) struct Flights {
    shards: Vec<Mutex<FlightShard>>,
    /// The process id that new flights store in [`Flight::process`]. In a forked child, this is the
    /// parent's id until a call finds a flight and compares the ids.
    process: AtomicU32,
}

/// A caller's role in its key's flight.
pub(crate) enum FlightRole {
    Leader(Leader),
    Follower(Follower),
    /// The caller runs inside the leader's own fetch, and would wait for that fetch forever.
    Recursive,
}

impl Flights {
    pub(crate) fn new() -> Flights {
        Flights {
            shards: (0..SHARD_COUNT).map(|_| Mutex::default()).collect(),
            process: AtomicU32::new(std::process::id()),
        }
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, FlightShard> {
        lock(&self.shards[hash as usize % SHARD_COUNT])
    }

    /// Joins the flight of `key`, or starts a flight.
    ///
    /// `request` is the id of an incoming web request that must not share flights with other
    /// requests. Only calls with the same `request` join the same flight.
    pub(crate) fn join(self: &Arc<Flights>, key: &Arc<[u8]>, request: Option<u64>) -> FlightRole {
        let hash = KeyHeader::read(key).spread();
        // An inherited flight is dropped after the lock is released.
        let _inherited;
        let mut shard = self.shard(hash);
        let matches = |flight: &Flight| flight.key == *key && flight.request == request;
        let position = shard.iter().position(|(h, flight)| *h == hash && matches(flight));
        if let Some(index) = position {
            let flight = &shard[index].1;
            if is_led_by_this_thread(flight) {
                return FlightRole::Recursive;
            }
            if self.began_in_this_process(flight) {
                return FlightRole::Follower(Flight::follow(flight));
            }
            _inherited = shard.swap_remove(index);
        }
        let flight = Arc::new(Flight::new(self, hash, key, request));
        shard.push((hash, Arc::clone(&flight)));
        FlightRole::Leader(Leader::new(flight, 0))
    }

    /// Returns true if the flight has the id of this process. If the ids differ, this process is a
    /// forked child, and this method corrects [`Flights::process`]. Flights that the child started
    /// before the correction also have the parent's id, so this method returns false for them too.
    fn began_in_this_process(&self, flight: &Flight) -> bool {
        let process = std::process::id();
        if flight.process != process {
            self.process.store(process, Ordering::Relaxed);
        }
        flight.process == process
    }

    /// Removes the flights of `key`, so that later calls start a new flight. Calls that have joined
    /// a removed flight still receive its outcome, because these calls began before the removal.
    pub(crate) fn detach(&self, key: &[u8]) {
        let hash = KeyHeader::read(key).spread();
        self.shard(hash).retain(|(h, flight)| *h != hash || *flight.key != *key);
    }

    /// Removes the flights of the function whose declaration has this index, or of all functions,
    /// as [`detach`](Self::detach) does.
    pub(crate) fn detach_all(&self, function: Option<usize>) {
        let is_detached = |flight: &Flight| {
            function.is_none_or(|index| index == KeyHeader::read(&flight.key).index())
        };
        for shard in &self.shards {
            let mut shard = lock(shard);
            let detached = shard.extract_if(.., |(_, flight)| is_detached(flight));
            // `_detached` might hold the last reference to a flight, so the lock is released before
            // `_detached` is dropped.
            let _detached: Vec<_> = detached.collect();
            drop(shard);
        }
    }
}

/// One key's fetch, together with the calls that need the fetch's outcome.
struct Flight {
    flights: Arc<Flights>,
    hash: u64,
    key: Arc<[u8]>,
    /// The `request` that was passed to [`Flights::join`].
    request: Option<u64>,
    /// The id of the process that started the flight; see [`Flights::began_in_this_process`].
    process: u32,
    state: Mutex<FlightState>,
    /// The current term: how many times the lead has passed on. A leader of an earlier term has
    /// lost the lead.
    term: AtomicU64,
    /// The time at which the leader was woken, by [`now_millis`]. 0 if the leader has not been
    /// woken since its last poll began.
    woken_at: AtomicU64,
    /// The time at which the last poll of the leader began, by [`now_millis`].
    polled_at: AtomicU64,
    /// True while the leader is being polled.
    is_polling: AtomicBool,
    /// The runtime that last polled the leader, with the leader's term. Set when a task's first
    /// poll of the leader returns `Pending`.
    runtime: Mutex<Option<(u64, Handle)>>,
    /// A leader that was neither woken nor polled for this many milliseconds is stuck.
    stuck_after_millis: AtomicU64,
    /// Data that a leader stores for its own later use, or for a successor.
    handoff: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The part of a flight that its lock guards: the outcome, and the calls that wait for it.
#[derive(Default)]
struct FlightState {
    /// `None` until the flight ends.
    outcome: Option<FlightOutcome>,
    /// The id of the follower that was chosen as the successor and has not been polled since.
    promoted: Option<u64>,
    /// The followers by their ids, which grow in the order of joining.
    followers: BTreeMap<u64, FollowerRegistration>,
    next_id: u64,
    /// True if the watchdog has the flight in its list.
    is_watched: bool,
    /// The wakers of leaders that have lost the lead, or that took it over. They are called when
    /// the flight ends.
    other_leaders: Vec<Waker>,
    /// The number of leaders that have panicked.
    panics: u32,
    /// The runtime of the leader that lost the lead because this runtime is undriven. `None` once
    /// the successor has taken the lead.
    undriven: Option<Id>,
}

/// The reason why a lead ends although the flight has no outcome.
#[derive(Clone, Copy, PartialEq)]
enum LeadEndReason {
    /// The leader, or the follower that was to take the lead, was dropped.
    Dropped,
    /// The leader has panicked.
    Panicked,
}

/// A follower's entry in its flight: the follower's waker and runtime.
#[derive(Default)]
struct FollowerRegistration {
    /// The waker of the follower's last poll. `None` if the follower has not been polled yet, or
    /// has not been polled since it was chosen as the successor.
    waker: Option<Waker>,
    /// The runtime that polled the follower. `None` if the follower has not been polled, or was
    /// polled outside a runtime.
    runtime: Option<Id>,
}

/// Returns the coarse clock's time in milliseconds. The result is never 0.
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
            woken_at: AtomicU64::new(0),
            polled_at: AtomicU64::new(0),
            is_polling: AtomicBool::new(false),
            runtime: Mutex::new(None),
            stuck_after_millis: AtomicU64::new(millis(STUCK_LEADER_AFTER)),
            handoff: Mutex::new(None),
        }
    }

    /// Adds a follower. From now on the watchdog checks the leader.
    fn follow(self: &Arc<Flight>) -> Follower {
        let mut state = lock(&self.state);
        let id = state.next_id;
        state.next_id += 1;
        state.followers.insert(id, FollowerRegistration::default());
        if !state.is_watched {
            state.is_watched = LeaderWatchdog::add(self);
        }
        Follower { flight: Arc::clone(self), id, is_done: false }
    }

    /// Removes this flight from its shard. Does nothing if the flight was removed before.
    fn remove_from(self: &Arc<Flight>, shard: &mut FlightShard) {
        if let Some(index) = shard.iter().position(|(_, flight)| Arc::ptr_eq(flight, self)) {
            shard.swap_remove(index);
        }
    }

    /// Ends the flight. Does not call `outcome` if the caller holds the only reference to the
    /// flight. No lock is held while `outcome` runs, because `outcome` can run the program's own
    /// code.
    fn answer(self: &Arc<Flight>, outcome: impl FnOnce() -> FlightOutcome) {
        self.remove_from(&mut self.flights.shard(self.hash));
        // No other call can join now, and every follower and leader holds a reference to the
        // flight.
        if Arc::strong_count(self) == 1 {
            return;
        }
        let outcome = outcome();
        let (followers, other_leaders) = {
            let mut state = lock(&self.state);
            // If two leaders have fetched, the first outcome counts. The lock has been released
            // when the second outcome is dropped.
            if state.outcome.is_none() {
                state.outcome = Some(outcome);
            }
            state.promoted = None;
            (std::mem::take(&mut state.followers), std::mem::take(&mut state.other_leaders))
        };
        let wakers = followers.into_values().filter_map(|follower| follower.waker);
        wakers.chain(other_leaders).for_each(Waker::wake);
    }

    /// Passes on the lead of `term`, whose leader was dropped without an outcome. If there are no
    /// followers, the flight ends. After [`MAX_PANICS`] panics the flight ends with
    /// [`FlightOutcome::UnsharedError`].
    ///
    /// Does nothing if this lead has passed on before, or if the flight has an outcome.
    fn abandon(self: &Arc<Flight>, term: u64, end: LeadEndReason) {
        // The shard stays locked, so that no call joins a flight that is about to be removed.
        let mut shard = self.flights.shard(self.hash);
        let successor = {
            let mut state = lock(&self.state);
            if self.term.load(Ordering::Acquire) != term || state.outcome.is_some() {
                return;
            }
            state.panics += u32::from(end == LeadEndReason::Panicked);
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

    /// Passes the lead on to a follower if the leader is stalled or stuck. The watchdog calls this.
    fn check_leader(&self, now: u64) {
        let woken = self.woken_at.load(Ordering::Acquire);
        let polled = self.polled_at.load(Ordering::Acquire);
        // A leader that is being polled is not stalled, even if it was woken during this poll. But
        // a leader whose poll takes too long is stuck.
        let polling = self.is_polling.load(Ordering::Acquire);
        let awaits_poll = woken != 0 && !polling;
        let is_stalled = awaits_poll && now.saturating_sub(woken) >= millis(STALLED_AFTER);
        let stuck_after_millis = self.stuck_after_millis.load(Ordering::Acquire);
        let is_stuck = now.saturating_sub(woken.max(polled)) >= stuck_after_millis;
        if is_stalled || is_stuck {
            self.replace_leader(None);
        }
    }

    /// Returns the leader's runtime if the leader was neither woken nor polled for
    /// [`STALLED_AFTER`]. The runtime might then be undriven.
    fn runtime_to_probe(&self, now: u64) -> Option<Handle> {
        let woken = self.woken_at.load(Ordering::Acquire);
        let polled = self.polled_at.load(Ordering::Acquire);
        let is_inactive = now.saturating_sub(woken.max(polled)) >= millis(STALLED_AFTER);
        if !is_inactive || self.is_polling.load(Ordering::Acquire) {
            return None;
        }
        let term = self.term.load(Ordering::Acquire);
        let runtime = lock(&self.runtime);
        runtime
            .as_ref()
            .filter(|(leader_term, _)| *leader_term == term)
            .map(|(_, runtime)| runtime.clone())
    }

    /// Passes the lead on to a follower, if the flight has one. A follower on a runtime other than
    /// `undriven` is preferred.
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
    /// Chooses the successor, and returns its waker. Returns `None` if there are no followers.
    ///
    /// The follower that has waited longest becomes the successor. If the last successor was chosen
    /// but never polled, the search begins with the follower that joined after that successor.
    /// Followers on a runtime other than `undriven` are preferred.
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
        // The successor counts as woken, so a successor that is not polled in time is stalled too.
        flight.woken_at.store(now_millis(), Ordering::Release);
        flight.is_polling.store(false, Ordering::Release);
        // A follower without a waker takes the lead when it is polled next.
        let waker = self.followers.get_mut(&id).and_then(|follower| follower.waker.take());
        Some(waker.unwrap_or_else(|| Waker::noop().clone()))
    }
}

#[cfg(test)]
mod tests;
