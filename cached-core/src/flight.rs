//! Single-flight: one fetch per key per process, and per request that wants a fresh answer.
//!
//! A *leader* fetches, *followers* wait for it. Leadership goes to a follower when the leader is
//! dropped without an outcome (cancelled, panicked), and when it was woken but not polled for
//! [`STALL`]: its future is then held by somebody who does not run it, perhaps by the very task
//! that waits here. A leader that waits for its network is not woken, so a slow fetch stays one
//! fetch.
//!
//! Nothing wakes a leader whose runtime is not driven. So the watch gives the runtime of a leader without
//! a sign of life a small task, and where that is not run either, the lead goes to a follower, if
//! possible on another runtime.
//!
//! A leader that is neither woken nor polled may also be leaked, or wait for a task that waits here.
//! Nothing tells these from a slow fetch, so such a leader is relieved after [`STUCK_LEADER_AFTER`],
//! or after four times as long as fetches of its function take. The first of the two fetches that
//! ends then answers everybody, the leaders included.
//!
//! A process that was forked has its parent's flights in its memory, and not their leaders. It starts
//! flights of its own.
//!
//! States of a flight: *led* (a leader, any number of followers) → *answered* (an outcome that
//! every follower takes) or *led* by another; without followers a flight ends with its leader.

mod driven;
mod follower;
mod leader;
mod watch;

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
pub(crate) use follower::{Followed, Follower};
use leader::is_led_here;
pub(crate) use leader::{LastWaker, Leader, Pulse, poll_work};
use watch::Watch;

/// A leader that was woken and not polled for this long has lost its lead.
pub(crate) const STALL: Duration = Duration::from_millis(900);
/// A leader that was neither woken nor polled for this long is relieved, if fetches of its function
/// are not known to take long: its future may have been leaked, or it may wait for a task of its own that
/// waits for it.
pub(crate) const STUCK_LEADER_AFTER: Duration = Duration::from_secs(60);

/// A follower takes over from one leader that panicked, and the others wait for it. Where that one
/// panics too, each of them fetches for itself: a caller waits for no more than two that panic.
const MOST_PANICS: u32 = 2;

/// What a leader's fetch came to, for its followers.
#[derive(Clone)]
pub(crate) enum Outcome {
    Cached(Value),
    /// A value that this one fetch answers with, and no later call.
    Uncached(Value),
    Error(SharedError),
    /// There is an error and it cannot be shared: each follower fetches for itself.
    Unshared,
}

/// Flights whose keys' hashes end alike, each with the hash; mostly none or one.
type Shard = Vec<(u64, Arc<Flight>)>;

/// So many that a search from the beginning is short, 160 flights where 10,000 are under way, and so
/// few that they stay in the processor's cache.
const SHARDS: usize = 64;

/// The flights of one cache.
pub(crate) struct Flights {
    shards: Vec<Mutex<Shard>>,
    /// The process that uses them, as far as is known: a fork is noticed by a caller who finds a flight.
    process: AtomicU32,
}

/// What a caller is on its key's flight.
pub(crate) enum Role {
    Leader(Leader),
    Follower(Follower),
    /// The flight's own leader asks for its own key: waiting would never end.
    Recursive,
}

impl Flights {
    pub(crate) fn new() -> Flights {
        Flights {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            process: AtomicU32::new(std::process::id()),
        }
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        lock(&self.shards[hash as usize % SHARDS])
    }

    /// Joins the flight of `key`, or starts it; where it is for one request alone, the request's.
    pub(crate) fn join(self: &Arc<Flights>, key: &Arc<[u8]>, request: Option<u64>) -> Role {
        let hash = KeyHeader::read(key).spread();
        // Dropped after the lock.
        let _inherited;
        let mut shard = self.shard(hash);
        let is_it = |flight: &Flight| flight.key == *key && flight.request == request;
        let known = shard.iter().position(|(of, flight)| *of == hash && is_it(flight));
        if let Some(index) = known {
            let flight = &shard[index].1;
            if is_led_here(flight) {
                return Role::Recursive;
            }
            if self.began_here(flight) {
                return Role::Follower(Flight::follow(flight));
            }
            _inherited = shard.swap_remove(index);
        }
        let flight = Arc::new(Flight::new(self, hash, key, request));
        shard.push((hash, Arc::clone(&flight)));
        Role::Leader(Leader::new(flight, 0))
    }

    /// Returns false if the flight began in a process that this one was forked from, or in this one before
    /// anybody noticed that.
    fn began_here(&self, flight: &Flight) -> bool {
        let process = std::process::id();
        if flight.process != process {
            self.process.store(process, Ordering::Relaxed);
        }
        flight.process == process
    }

    /// Takes the flights of `key` out, so that later callers start another. Those who are on one
    /// asked before now, and get its answer.
    pub(crate) fn detach(&self, key: &[u8]) {
        let hash = KeyHeader::read(key).spread();
        self.shard(hash).retain(|(of, flight)| *of != hash || *flight.key != *key);
    }
}

struct Flight {
    flights: Arc<Flights>,
    hash: u64,
    key: Arc<[u8]>,
    /// The one request that it is for.
    request: Option<u64>,
    process: u32,
    crew: Mutex<Crew>,
    /// Counts changes of the lead; a leader with an older number has lost it.
    term: AtomicU64,
    /// When the leader was woken and has not been polled since, and when it last was polled; in
    /// milliseconds as [`now`] counts them, 0 for never.
    woken: AtomicU64,
    polled: AtomicU64,
    /// Whether the leader is being polled just now.
    polling: AtomicBool,
    /// The runtime that runs the leader of a term, once it waits there.
    runtime: Mutex<Option<(u64, Handle)>>,
    /// How long the leader may be neither woken nor polled; in milliseconds.
    stuck_after: AtomicU64,
    /// What a leader has for its successor, should it lose the lead.
    stowed: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Default)]
struct Crew {
    outcome: Option<Outcome>,
    /// The follower to whom the lead was handed, until it takes it.
    promoted: Option<u64>,
    /// In the order in which they came.
    followers: BTreeMap<u64, WaitingFollower>,
    next_id: u64,
    watched: bool,
    /// The leaders whose lead was taken over or that took over one, to be woken by the outcome.
    rivals: Vec<Waker>,
    /// How many leaders have panicked.
    panics: u32,
    /// The runtime that was not driven when its leader was relieved, until another takes the lead.
    undriven: Option<Id>,
}

/// A follower as its flight knows it.
#[derive(Default)]
struct WaitingFollower {
    /// `None` if it was not polled yet, or was just woken.
    waker: Option<Waker>,
    /// The runtime that polled it.
    runtime: Option<Id>,
}

fn now() -> u64 {
    // Never 0, which stands for never. A tick of the system's timer matters to none of the bounds.
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
            crew: Mutex::default(),
            term: AtomicU64::new(0),
            woken: AtomicU64::new(0),
            polled: AtomicU64::new(0),
            polling: AtomicBool::new(false),
            runtime: Mutex::new(None),
            stuck_after: AtomicU64::new(millis(STUCK_LEADER_AFTER)),
            stowed: Mutex::new(None),
        }
    }

    fn follow(self: &Arc<Flight>) -> Follower {
        let mut crew = lock(&self.crew);
        let id = crew.next_id;
        crew.next_id += 1;
        crew.followers.insert(id, WaitingFollower::default());
        if !crew.watched {
            crew.watched = true;
            Watch::add(self);
        }
        Follower { flight: Arc::clone(self), id, done: false }
    }

    /// Takes this flight out of its shard, if it is there.
    fn land(self: &Arc<Flight>, shard: &mut Shard) {
        if let Some(index) = shard.iter().position(|(_, flight)| Arc::ptr_eq(flight, self)) {
            shard.swap_remove(index);
        }
    }

    fn answer(self: &Arc<Flight>, outcome: impl FnOnce() -> Outcome) {
        self.land(&mut self.flights.shard(self.hash));
        // From here on nobody joins, and whoever has joined holds the flight.
        if Arc::strong_count(self) == 1 {
            return;
        }
        let (followers, rivals) = {
            let mut crew = lock(&self.crew);
            // The first answer stands: a leader that lost its lead may finish after its successor.
            // Its own is dropped when nothing is locked any more.
            if crew.outcome.is_none() {
                crew.outcome = Some(outcome());
            }
            crew.promoted = None;
            (std::mem::take(&mut crew.followers), std::mem::take(&mut crew.rivals))
        };
        let wakers = followers.into_values().filter_map(|follower| follower.waker);
        wakers.chain(rivals).for_each(Waker::wake);
    }

    /// Ends the lead of `term`: hands it to the follower that has waited longest, or lands the
    /// flight where there is none. If too many leaders have panicked, each follower fetches for itself.
    fn abandon(self: &Arc<Flight>, term: u64, panicked: bool) {
        // Under the shard's lock, so that nobody joins between looking and landing.
        let mut shard = self.flights.shard(self.hash);
        let heir = {
            let mut crew = lock(&self.crew);
            if self.term.load(Ordering::Acquire) != term || crew.outcome.is_some() {
                return;
            }
            crew.panics += u32::from(panicked);
            if crew.panics >= MOST_PANICS {
                drop((crew, shard));
                return self.answer(|| Outcome::Unshared);
            }
            crew.promote(self)
        };
        match heir {
            Some(waker) => {
                drop(shard);
                waker.wake();
            }
            None => self.land(&mut shard),
        }
    }

    /// Hands the lead on where its holder is not being run. Called by the watch.
    fn look(&self, now: u64) {
        let woken = self.woken.load(Ordering::Acquire);
        let polled = self.polled.load(Ordering::Acquire);
        // One that is being polled is being run, however long that takes.
        let polling = self.polling.load(Ordering::Acquire);
        let waits = woken != 0 && !polling;
        let stalled = waits && now.saturating_sub(woken) >= millis(STALL);
        let stuck_after = self.stuck_after.load(Ordering::Acquire);
        let is_stuck = now.saturating_sub(woken.max(polled)) >= stuck_after;
        if stalled || is_stuck {
            self.relieve(None);
        }
    }

    /// The runtime of a leader that was neither woken nor polled for [`STALL`].
    fn runtime_of_quiet_leader(&self, now: u64) -> Option<Handle> {
        let woken = self.woken.load(Ordering::Acquire);
        let polled = self.polled.load(Ordering::Acquire);
        let is_quiet = now.saturating_sub(woken.max(polled)) >= millis(STALL);
        if !is_quiet || self.polling.load(Ordering::Acquire) {
            return None;
        }
        let term = self.term.load(Ordering::Acquire);
        let runtime = lock(&self.runtime);
        runtime.as_ref().filter(|(of, _)| *of == term).map(|(_, runtime)| runtime.clone())
    }

    /// Hands the lead on to a follower, if there is one; where the leader's runtime is not driven, to one
    /// on another runtime rather than to one there.
    fn relieve(&self, undriven: Option<Id>) {
        let heir = {
            let mut crew = lock(&self.crew);
            if crew.outcome.is_some() {
                return;
            }
            crew.undriven = undriven.or(crew.undriven);
            crew.promote(self)
        };
        if let Some(heir) = heir {
            heir.wake();
        }
    }
}

impl Crew {
    /// Gives the lead to the follower that has waited longest; where one was promoted and did not
    /// take it, to the next one. Returns whom to wake.
    fn promote(&mut self, flight: &Flight) -> Option<Waker> {
        let next = self.promoted.map_or(0, |promoted| promoted + 1);
        let in_turn = || self.followers.range(next..).chain(&self.followers);
        let is_elsewhere = |follower: &WaitingFollower| {
            self.undriven.is_none() || follower.runtime != self.undriven
        };
        let elsewhere = in_turn().find(|(_, follower)| is_elsewhere(follower));
        let id = *elsewhere.or_else(|| in_turn().next())?.0;
        self.promoted = Some(id);
        flight.term.fetch_add(1, Ordering::AcqRel);
        // Promoted is as good as woken: who does not take the lead in time loses it again.
        flight.woken.store(now(), Ordering::Release);
        flight.polling.store(false, Ordering::Release);
        // One that has not been polled yet finds out when it is.
        let waker = self.followers.get_mut(&id).and_then(|follower| follower.waker.take());
        Some(waker.unwrap_or_else(|| Waker::noop().clone()))
    }
}

#[cfg(test)]
mod tests;
