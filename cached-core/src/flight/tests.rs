//! Tests flights. A *flight* is one fetch of a key, with all calls that need its result: the
//! *leader* fetches, and the *followers* wait. If the leader is dropped or stuck, a follower is
//! *promoted*: it becomes the leader.

use std::pin::Pin;
use std::task::{Context, Poll, Wake};

use super::*;
use crate::in_time::in_time;

fn key() -> Arc<[u8]> {
    Arc::from(&b"key"[..])
}

fn leader(flights: &Arc<Flights>) -> Leader {
    match flights.join(&key(), None) {
        FlightRole::Leader(leader) => leader,
        _ => panic!("there is a leader already"),
    }
}

fn follower(flights: &Arc<Flights>) -> Follower {
    match flights.join(&key(), None) {
        FlightRole::Follower(follower) => follower,
        _ => panic!("there is no leader"),
    }
}

#[test]
fn the_watchdog_leaves_an_ended_flight_alone() {
    let flights = Arc::new(Flights::new());
    let leader = leader(&flights);
    let _follower = follower(&flights);
    let flight = Arc::clone(&leader.flight);
    assert!(lock(&flight.state).promote(&flight).is_some());
    leader.answer(|| FlightOutcome::UnsharedError);
    flight.check_leader(now_millis() + 60_000);
    assert_eq!(lock(&flight.state).promoted, None);
}

#[test]
fn unpolled_followers_pass_the_lead_on_in_turn() {
    let flights = Arc::new(Flights::new());
    let leader = leader(&flights);
    let followers = [follower(&flights), follower(&flights), follower(&flights)];
    let promoted = || {
        lock(&leader.flight.state).promote(&leader.flight);
        lock(&leader.flight.state).promoted
    };
    let ids: Vec<_> = (0..5).map(|_| promoted()).collect();
    assert_eq!(ids, [Some(0), Some(1), Some(2), Some(0), Some(1)]);
    drop(followers);
}

#[test]
fn a_successor_takes_the_data_of_its_predecessor() {
    let flights = Arc::new(Flights::new());
    let leader = leader(&flights);
    let mut follower = Box::pin(follower(&flights));
    leader.put_handoff(Box::new(7));
    drop(leader);
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(FollowerOutput::Lead(successor)) = follower.as_mut().poll(&mut context) else {
        panic!("the follower did not become the leader");
    };
    assert_eq!(successor.take_handoff::<i32>().as_deref(), Some(&7));
    assert_eq!(successor.take_handoff::<i32>(), None);
}

/// A waker that counts its wakes.
#[derive(Default)]
struct WakeCounter(AtomicU64);

impl Wake for WakeCounter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_moved_fetch_wakes_its_new_task() {
    let flights = Arc::new(Flights::new());
    let leader = leader(&flights);
    let mut waker_cache = None;
    let mut work = std::pin::pin!(std::future::poll_fn(|context| {
        context.waker().wake_by_ref();
        Poll::<()>::Pending
    }));
    let tasks = [Arc::new(WakeCounter::default()), Arc::new(WakeCounter::default())];
    for (task, expected) in [(0, [1, 0]), (0, [2, 0]), (1, [2, 1]), (0, [3, 1])] {
        let waker = Waker::from(Arc::clone(&tasks[task]));
        let context = &mut Context::from_waker(&waker);
        assert!(poll_work(Some(&leader), &mut waker_cache, work.as_mut(), context).is_pending());
        assert_eq!(tasks.each_ref().map(|task| task.0.load(Ordering::Relaxed)), expected);
        assert_ne!(leader.flight.woken_at.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn an_outcome_is_computed_only_for_followers() {
    let flights = Arc::new(Flights::new());
    leader(&flights).answer(|| unreachable!("there is no follower"));
    let leader = leader(&flights);
    let mut follower = Box::pin(follower(&flights));
    leader.answer(|| FlightOutcome::UnsharedError);
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(FollowerOutput::Outcome(FlightOutcome::UnsharedError)) =
        follower.as_mut().poll(&mut context)
    else {
        panic!("the follower received no outcome");
    };
}

/// Makes a new follower the successor of `leader`, and returns the successor's lead.
fn successor(flights: &Arc<Flights>, leader: &Leader) -> Leader {
    let mut follower = Box::pin(follower(flights));
    assert!(lock(&leader.flight.state).promote(&leader.flight).is_some());
    match follower.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(FollowerOutput::Lead(successor)) => successor,
        _ => panic!("the follower did not become the leader"),
    }
}

/// A value or a waker that a flight holds, and that itself holds a follower of the same flight. A
/// program's own values and wakers can form the same cycle.
struct FollowerHolder(
    #[expect(dead_code, reason = "the follower is only dropped")] Mutex<Option<Follower>>,
);

impl Wake for FollowerHolder {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn a_late_outcome_is_dropped_without_a_lock() {
    in_time(|| {
        let flights = Arc::new(Flights::new());
        let leader = leader(&flights);
        let successor = successor(&flights, &leader);
        let value: Value = Arc::new(FollowerHolder(Mutex::new(Some(follower(&flights)))));
        successor.answer(|| FlightOutcome::UnsharedError);
        leader.answer(move || FlightOutcome::Cached(value));
    });
}

#[test]
fn an_unneeded_waker_is_dropped_without_a_lock() {
    fn poll_once(follower: &mut Pin<Box<Follower>>, waker: &Waker) {
        assert!(follower.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    }
    in_time(|| {
        let flights = Arc::new(Flights::new());
        let _leader = leader(&flights);
        let waker = || Waker::from(Arc::new(FollowerHolder(Mutex::new(Some(follower(&flights))))));
        let mut moved = Box::pin(follower(&flights));
        poll_once(&mut moved, &waker());
        poll_once(&mut moved, Waker::noop());
        poll_once(&mut moved, &waker());
        drop(moved);
    });
}

fn promoted(flight: &Arc<Flight>) -> Option<u64> {
    lock(&flight.state).promoted
}

#[test]
fn a_stuck_leader_loses_the_lead() {
    let flights = Arc::new(Flights::new());
    let leader = leader(&flights);
    let _follower = follower(&flights);
    leader.flight.check_leader(now_millis() + 45_000);
    assert_eq!(promoted(&leader.flight), None);
    leader.flight.check_leader(now_millis() + 61_000);
    assert_eq!(promoted(&leader.flight), Some(0));
}

#[test]
fn a_slow_function_keeps_the_lead_longer() {
    let flights = Arc::new(Flights::new());
    let leader = leader(&flights);
    let _follower = follower(&flights);
    leader.set_usual_fetch_time(Duration::from_secs(30));
    leader.flight.check_leader(now_millis() + 119_000);
    assert_eq!(promoted(&leader.flight), None);
    leader.flight.check_leader(now_millis() + 121_000);
    assert_eq!(promoted(&leader.flight), Some(0));
}

#[test]
fn the_first_of_two_leaders_answers_the_other() {
    for first_ends in [true, false] {
        let flights = Arc::new(Flights::new());
        let first = leader(&flights);
        let second = successor(&flights, &first);
        let (ends, waits) = if first_ends { (first, second) } else { (second, first) };
        let woken = Arc::new(WakeCounter::default());
        let waker = Waker::from(Arc::clone(&woken));
        let context = Context::from_waker(&waker);
        assert!(waits.outcome_of_other_leader(&context).is_none());
        ends.answer(|| FlightOutcome::Cached(Arc::new(7)));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(matches!(waits.outcome_of_other_leader(&context), Some(FlightOutcome::Cached(_))));
        waits.accept_outcome();
    }
}

/// Polls a fetch that panics, and drops the leader while the thread unwinds.
fn panic_as(leader: Leader) {
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let leader = leader;
        let fetch =
            std::pin::pin!(async { std::panic::resume_unwind(Box::new("the fetch panics")) });
        let mut context = Context::from_waker(Waker::noop());
        let _: Poll<()> = poll_work(Some(&leader), &mut None, fetch, &mut context);
    }));
    assert!(panicked.is_err());
}

/// Polls a fetch that is pending, and drops the leader while the thread unwinds from a panic of
/// other code.
fn panic_beside(leader: Leader) {
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let leader = leader;
        let fetch = std::pin::pin!(std::future::pending::<()>());
        let mut context = Context::from_waker(Waker::noop());
        let _ = poll_work(Some(&leader), &mut None, fetch, &mut context);
        std::panic::resume_unwind(Box::new("other code panics"));
    }));
    assert!(panicked.is_err());
}

#[test]
fn panics_of_other_code_pass_the_lead_on() {
    let flights = Arc::new(Flights::new());
    let mut lead = leader(&flights);
    let mut context = Context::from_waker(Waker::noop());
    let mut followers = [(); 3].map(|()| Box::pin(follower(&flights)));
    for follower in &mut followers {
        assert!(follower.as_mut().poll(&mut context).is_pending());
    }
    for follower in &mut followers {
        panic_beside(lead);
        let Poll::Ready(FollowerOutput::Lead(next)) = follower.as_mut().poll(&mut context) else {
            panic!("the follower did not become the leader");
        };
        lead = next;
    }
}

#[test]
fn a_second_panic_lets_every_follower_fetch() {
    let flights = Arc::new(Flights::new());
    let first = leader(&flights);
    let mut followers = [(); 3].map(|()| Box::pin(follower(&flights)));
    let mut context = Context::from_waker(Waker::noop());
    panic_as(first);
    let mut polled = followers.each_mut().map(|follower| follower.as_mut().poll(&mut context));
    let Poll::Ready(FollowerOutput::Lead(second)) =
        std::mem::replace(&mut polled[0], Poll::Pending)
    else {
        panic!("the follower did not become the leader");
    };
    assert!(polled.iter().all(Poll::is_pending), "the other followers wait");
    panic_as(second);
    for follower in &mut followers[1..] {
        let polled = follower.as_mut().poll(&mut context);
        assert!(matches!(
            polled,
            Poll::Ready(FollowerOutput::Outcome(FlightOutcome::UnsharedError))
        ));
    }
}

#[test]
fn the_lead_leaves_an_undriven_runtime() {
    let runtime =
        || tokio::runtime::Builder::new_current_thread().build().expect("the runtime starts");
    let (undriven, other) = (runtime(), runtime());
    let flights = Arc::new(Flights::new());
    let leader = leader(&flights);
    let polled_on = |runtime: &tokio::runtime::Runtime| {
        let _entered = runtime.enter();
        let mut follower = Box::pin(follower(&flights));
        let context = &mut Context::from_waker(Waker::noop());
        assert!(follower.as_mut().poll(context).is_pending());
        follower
    };
    let followers = [polled_on(&undriven), polled_on(&undriven), polled_on(&other)];
    leader.flight.replace_leader(Some(undriven.handle().id()));
    assert_eq!(promoted(&leader.flight), Some(2));
    // The successor, follower 2, has not been polled since. It is chosen again, because the runtime
    // of the other followers is not driven.
    leader.flight.replace_leader(None);
    assert_eq!(promoted(&leader.flight), Some(2));
    drop(followers);
}

#[test]
fn a_forked_process_starts_its_own_flights() {
    let flights = Arc::new(Flights::new());
    // In a forked child, `Flights::process` holds the parent's id at first.
    let parent = std::process::id() + 1;
    flights.process.store(parent, Ordering::Relaxed);
    let hash = KeyHeader::read(&key()).spread();
    let flight = Arc::new(Flight::new(&flights, hash, &key(), None));
    flights.shard(hash).push((hash, Arc::clone(&flight)));
    let inherited = Leader::new(flight, 0);
    let own = leader(&flights);
    let _follower = follower(&flights);
    inherited.answer(|| FlightOutcome::UnsharedError);
    assert!(
        matches!(flights.join(&key(), None), FlightRole::Follower(_)),
        "the child's own flight goes on"
    );
    drop(own);
}
