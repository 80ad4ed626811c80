//! Single-flight: one fetch per key per process.
//!
//! A *leader* fetches, *followers* wait for it. Leadership goes to a follower when the leader is
//! dropped without an outcome (cancelled, panicked), and when it was woken but not polled for
//! [`STALL`]: its future is then held by somebody who does not run it, perhaps by the very task
//! that waits here. A leader that waits for its network is not woken, so a slow fetch stays one
//! fetch, up to [`PATIENCE`], after which it counts as lost.
//!
//! States of a flight: *led* (a leader, any number of followers) → *answered* (an outcome that
//! every follower takes) or *led* by another; without followers a flight ends with its leader.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::value::{SharedError, Value};

/// A leader that was woken and not polled for this long has lost its lead.
pub(crate) const STALL: Duration = Duration::from_millis(900);
/// A leader that was neither woken nor polled for this long counts as lost: its future was leaked,
/// or its runtime is not driven, or it waits for a task of its own that waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How often flights with followers are looked at.
const LOOK: Duration = Duration::from_millis(100);

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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics while it holds a lock, and the state is whole at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Shard = Mutex<HashMap<Arc<[u8]>, Arc<Flight>>>;

/// The flights of one cache.
pub(crate) struct Flights {
    shards: Vec<Shard>,
    hasher: RandomState,
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
        Flights { shards: (0..32).map(|_| Shard::default()).collect(), hasher: RandomState::new() }
    }

    fn shard(&self, key: &[u8]) -> &Shard {
        &self.shards[self.hasher.hash_one(key) as usize % self.shards.len()]
    }

    /// Joins the flight of `key`, or starts it.
    pub(crate) fn join(self: &Arc<Flights>, key: &Arc<[u8]>) -> Role {
        let mut shard = lock(self.shard(key));
        if let Some(flight) = shard.get(&key[..]) {
            if is_led_here(flight) {
                return Role::Recursive;
            }
            return Role::Follower(Flight::follow(flight));
        }
        let flight = Arc::new(Flight::new(self, Arc::clone(key)));
        shard.insert(Arc::clone(key), Arc::clone(&flight));
        Role::Leader(Leader::new(flight, 0))
    }

    /// Takes the flight of `key` out, so that later callers start another. Those who are on it
    /// asked before now, and get its answer.
    pub(crate) fn detach(&self, key: &[u8]) {
        lock(self.shard(key)).remove(key);
    }
}

struct Flight {
    flights: Weak<Flights>,
    key: Arc<[u8]>,
    outcome: OnceLock<Outcome>,
    crew: Mutex<Crew>,
    /// When the leader was woken and has not been polled since, and when it last was polled; in
    /// milliseconds since [`EPOCH`], 0 for never.
    woken: AtomicU64,
    polled: AtomicU64,
    /// Whether the leader is being polled just now.
    polling: AtomicBool,
    /// What a leader has for its successor, should it lose the lead.
    stowed: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Default)]
struct Crew {
    /// Counts changes of the lead; a leader with an older number has lost it.
    term: u64,
    /// The follower to whom the lead was handed, until it takes it.
    promoted: Option<u64>,
    /// In the order in which they came. No waker: not polled yet, or just woken.
    followers: BTreeMap<u64, Option<Waker>>,
    next_id: u64,
    watched: bool,
}

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

fn now() -> u64 {
    // Never 0, which stands for never.
    EPOCH.elapsed().as_millis() as u64 + 1
}

impl Flight {
    fn new(flights: &Arc<Flights>, key: Arc<[u8]>) -> Flight {
        Flight {
            flights: Arc::downgrade(flights),
            key,
            outcome: OnceLock::new(),
            crew: Mutex::default(),
            woken: AtomicU64::new(0),
            polled: AtomicU64::new(now()),
            polling: AtomicBool::new(false),
            stowed: Mutex::new(None),
        }
    }

    fn follow(self: &Arc<Flight>) -> Follower {
        let mut crew = lock(&self.crew);
        let id = crew.next_id;
        crew.next_id += 1;
        crew.followers.insert(id, None);
        if !crew.watched {
            crew.watched = true;
            Watch::add(self);
        }
        Follower { flight: Arc::clone(self), id, done: false }
    }

    /// Takes this flight out of the map, unless another has its place.
    fn land(self: &Arc<Flight>) {
        let Some(flights) = self.flights.upgrade() else {
            return;
        };
        let mut shard = lock(flights.shard(&self.key));
        if shard.get(&self.key[..]).is_some_and(|flight| Arc::ptr_eq(flight, self)) {
            shard.remove(&self.key[..]);
        }
    }

    fn answer(self: &Arc<Flight>, outcome: Outcome) {
        self.land();
        // The first answer stands: a leader that lost its lead may finish after its successor.
        let _ = self.outcome.set(outcome);
        let followers = {
            let mut crew = lock(&self.crew);
            crew.promoted = None;
            std::mem::take(&mut crew.followers)
        };
        followers.into_values().flatten().for_each(Waker::wake);
    }

    /// Ends the lead of `term`: hands it to the follower that has waited longest, or lands the
    /// flight where there is none.
    fn abandon(self: &Arc<Flight>, term: u64) {
        let Some(flights) = self.flights.upgrade() else {
            return;
        };
        // Under the shard's lock, so that nobody joins between looking and landing.
        let mut shard = lock(flights.shard(&self.key));
        let heir = {
            let mut crew = lock(&self.crew);
            if crew.term != term || self.outcome.get().is_some() {
                return;
            }
            crew.promote(self)
        };
        match heir {
            Some(waker) => {
                drop(shard);
                waker.wake();
            }
            None => {
                let here = shard.get(&self.key[..]).is_some_and(|flight| Arc::ptr_eq(flight, self));
                let empty = lock(&self.crew).followers.is_empty();
                if here && empty {
                    shard.remove(&self.key[..]);
                }
            }
        }
    }

    /// Hands the lead on where its holder is not being run. Called by the watch.
    fn look(&self, now: u64) {
        let woken = self.woken.load(Ordering::Acquire);
        let polled = self.polled.load(Ordering::Acquire);
        // One that is being polled is being run, however long that takes.
        let polling = self.polling.load(Ordering::Acquire);
        let waits = woken != 0 && !polling;
        let stalled = waits && now.saturating_sub(woken) >= STALL.as_millis() as u64;
        let lost = now.saturating_sub(woken.max(polled)) >= PATIENCE.as_millis() as u64;
        if stalled || lost {
            let heir = {
                let mut crew = lock(&self.crew);
                if self.outcome.get().is_some() { None } else { crew.promote(self) }
            };
            if let Some(heir) = heir {
                heir.wake();
            }
        }
    }
}

impl Crew {
    /// Gives the lead to the follower that has waited longest; where one was promoted and did not
    /// take it, to the next one. Returns whom to wake.
    fn promote(&mut self, flight: &Flight) -> Option<Waker> {
        let next = self.promoted.map_or(0, |promoted| promoted + 1);
        let id = *self.followers.range(next..).chain(&self.followers).next()?.0;
        self.promoted = Some(id);
        self.term += 1;
        // Promoted is as good as woken: who does not take the lead in time loses it again.
        flight.woken.store(now(), Ordering::Release);
        flight.polling.store(false, Ordering::Release);
        // One that has not been polled yet finds out when it is.
        let waker = self.followers.get_mut(&id).and_then(Option::take);
        Some(waker.unwrap_or_else(|| Waker::noop().clone()))
    }
}

/// The right, and the duty, to answer a flight.
pub(crate) struct Leader {
    flight: Arc<Flight>,
    term: u64,
    done: bool,
}

impl Leader {
    fn new(flight: Arc<Flight>, term: u64) -> Leader {
        flight.polled.store(now(), Ordering::Release);
        flight.woken.store(0, Ordering::Release);
        Leader { flight, term, done: false }
    }

    /// Answers every follower.
    pub(crate) fn answer(mut self, outcome: Outcome) {
        self.done = true;
        self.flight.answer(outcome);
    }

    /// Leaves something for whoever leads next, if this one loses the lead.
    pub(crate) fn stow<T: Send + 'static>(&self, luggage: T) {
        *lock(&self.flight.stowed) = Some(Box::new(luggage));
    }

    /// Takes what was stowed; `None` also where another leader has taken it.
    pub(crate) fn unstow<T: Send + 'static>(&self) -> Option<T> {
        let luggage = lock(&self.flight.stowed).take()?;
        luggage.downcast().ok().map(|luggage| *luggage)
    }

    /// Runs a part of the leader's work, so that the flight knows when it is woken and polled.
    pub(crate) fn run<'l, F: Future>(&'l self, work: Pin<&'l mut F>) -> Run<'l, F> {
        Run { leader: self, work, waker: None }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.done {
            self.flight.abandon(self.term);
        }
    }
}

/// See [`Leader::run`].
pub(crate) struct Run<'l, F> {
    leader: &'l Leader,
    work: Pin<&'l mut F>,
    waker: Option<(Waker, Waker)>,
}

impl<F: Future> Future for Run<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let flight = &this.leader.flight;
        let waker = match this.waker.take() {
            Some((task, waker)) if task.will_wake(context.waker()) => (task, waker),
            _ => {
                let task = context.waker().clone();
                let wake = LeaderWake { flight: Arc::downgrade(flight), task: task.clone() };
                (task, Waker::from(Arc::new(wake)))
            }
        };
        let (_, waker) = this.waker.insert(waker);
        // A leader that lost its lead must not vouch for its successor.
        let leads = || lock(&flight.crew).term == this.leader.term;
        if leads() {
            flight.polled.store(now(), Ordering::Release);
            flight.woken.store(0, Ordering::Release);
            flight.polling.store(true, Ordering::Release);
        }
        let polled = {
            let _leading = Leading::enter(flight);
            this.work.as_mut().poll(&mut Context::from_waker(waker))
        };
        if leads() {
            flight.polling.store(false, Ordering::Release);
            // Woken while it was polled: it waits to be polled again from now on.
            if flight.woken.load(Ordering::Acquire) != 0 {
                flight.woken.store(now(), Ordering::Release);
            }
        }
        polled
    }
}

struct LeaderWake {
    flight: Weak<Flight>,
    task: Waker,
}

impl Wake for LeaderWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(flight) = self.flight.upgrade() {
            // The first wake counts: a later one does not make the leader any more alive.
            let _ = flight.woken.compare_exchange(0, now(), Ordering::AcqRel, Ordering::Acquire);
        }
        self.task.wake_by_ref();
    }
}

thread_local! {
    /// The flights whose leaders' work is being polled on this thread, outermost first.
    static LEADING: RefCell<Vec<*const ()>> = const { RefCell::new(Vec::new()) };
}

struct Leading;

impl Leading {
    fn enter(flight: &Arc<Flight>) -> Leading {
        LEADING.with_borrow_mut(|leading| leading.push(Arc::as_ptr(flight).cast()));
        Leading
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        LEADING.with_borrow_mut(|leading| leading.pop());
    }
}

fn is_led_here(flight: &Arc<Flight>) -> bool {
    LEADING.with_borrow(|leading| leading.contains(&Arc::as_ptr(flight).cast()))
}

/// One who waits: resolves to the outcome, or to the lead.
pub(crate) struct Follower {
    flight: Arc<Flight>,
    id: u64,
    done: bool,
}

pub(crate) enum Followed {
    Outcome(Outcome),
    Lead(Leader),
}

impl Future for Follower {
    type Output = Followed;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Followed> {
        let this = &mut *self;
        let mut crew = lock(&this.flight.crew);
        // Under the lock: an answer takes the followers' wakers after it is set.
        if let Some(outcome) = this.flight.outcome.get() {
            this.done = true;
            return Poll::Ready(Followed::Outcome(outcome.clone()));
        }
        if crew.promoted == Some(this.id) {
            crew.promoted = None;
            crew.followers.remove(&this.id);
            this.done = true;
            return Poll::Ready(Followed::Lead(Leader::new(Arc::clone(&this.flight), crew.term)));
        }
        if let Some(waker) = crew.followers.get_mut(&this.id) {
            match waker {
                Some(waker) => waker.clone_from(context.waker()),
                None => *waker = Some(context.waker().clone()),
            }
        }
        Poll::Pending
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let handed_on = {
            let mut crew = lock(&self.flight.crew);
            crew.followers.remove(&self.id);
            (crew.promoted == Some(self.id)).then(|| {
                crew.promoted = None;
                crew.term
            })
        };
        if let Some(term) = handed_on {
            self.flight.abandon(term);
        }
    }
}

/// Looks at the flights that have followers, on one thread of its own, so that single-flight
/// needs no runtime. The thread sleeps while there are none.
#[derive(Default)]
struct Watch {
    flights: Mutex<Vec<Weak<Flight>>>,
    added: Condvar,
}

static WATCH: LazyLock<Watch> = LazyLock::new(Watch::default);

impl Watch {
    fn add(flight: &Arc<Flight>) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Arc<[u8]> {
        Arc::from(&b"key"[..])
    }

    fn leader(flights: &Arc<Flights>) -> Leader {
        match flights.join(&key()) {
            Role::Leader(leader) => leader,
            _ => panic!("there is a leader already"),
        }
    }

    fn follower(flights: &Arc<Flights>) -> Follower {
        match flights.join(&key()) {
            Role::Follower(follower) => follower,
            _ => panic!("there is no leader"),
        }
    }

    #[test]
    fn the_watch_leaves_an_answered_flight_alone() {
        let flights = Arc::new(Flights::new());
        let leader = leader(&flights);
        let _follower = follower(&flights);
        let flight = Arc::clone(&leader.flight);
        assert!(lock(&flight.crew).promote(&flight).is_some());
        leader.answer(Outcome::Unshared);
        flight.look(now() + 60_000);
        assert_eq!(lock(&flight.crew).promoted, None);
    }

    #[test]
    fn the_lead_goes_round_among_those_who_do_not_take_it() {
        let flights = Arc::new(Flights::new());
        let leader = leader(&flights);
        let followers = [follower(&flights), follower(&flights), follower(&flights)];
        let promoted = || {
            lock(&leader.flight.crew).promote(&leader.flight);
            lock(&leader.flight.crew).promoted
        };
        let ids: Vec<_> = (0..5).map(|_| promoted()).collect();
        assert_eq!(ids, [Some(0), Some(1), Some(2), Some(0), Some(1)]);
        drop(followers);
    }

    #[test]
    fn what_a_leader_stowed_its_successor_finds() {
        let flights = Arc::new(Flights::new());
        let leader = leader(&flights);
        let mut follower = Box::pin(follower(&flights));
        leader.stow(7);
        drop(leader);
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(Followed::Lead(heir)) = follower.as_mut().poll(&mut context) else {
            panic!("the lead is handed over");
        };
        assert_eq!(heir.unstow::<i32>(), Some(7));
        assert_eq!(heir.unstow::<i32>(), None);
    }
}
