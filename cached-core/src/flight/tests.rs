use std::pin::Pin;
use std::task::{Context, Poll, Wake};

use super::*;
use crate::in_time::in_time;

fn key() -> Arc<[u8]> {
    Arc::from(&b"key"[..])
}

fn leader(flights: &Arc<Flights>) -> Leader {
    match flights.join(&key(), None) {
        Role::Leader(leader) => leader,
        _ => panic!("there is a leader already"),
    }
}

fn follower(flights: &Arc<Flights>) -> Follower {
    match flights.join(&key(), None) {
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
    leader.answer(|| Outcome::Unshared);
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
    leader.stow(Box::new(7));
    drop(leader);
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Followed::Lead(heir)) = follower.as_mut().poll(&mut context) else {
        panic!("the lead is handed over");
    };
    assert_eq!(heir.unstow::<i32>().as_deref(), Some(&7));
    assert_eq!(heir.unstow::<i32>(), None);
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn work_that_moves_to_another_task_is_woken_there() {
    let flights = Arc::new(Flights::new());
    let leader = leader(&flights);
    let mut last = None;
    let mut work = std::pin::pin!(std::future::poll_fn(|context| {
        context.waker().wake_by_ref();
        Poll::<()>::Pending
    }));
    let tasks = [Arc::new(Woken::default()), Arc::new(Woken::default())];
    for (task, expected) in [(0, [1, 0]), (0, [2, 0]), (1, [2, 1]), (0, [3, 1])] {
        let waker = Waker::from(Arc::clone(&tasks[task]));
        let context = &mut Context::from_waker(&waker);
        assert!(poll_work(Some(&leader), &mut last, work.as_mut(), context).is_pending());
        assert_eq!(tasks.each_ref().map(|task| task.0.load(Ordering::Relaxed)), expected);
        assert_ne!(leader.flight.woken.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn an_answer_is_made_only_where_somebody_waits_for_it() {
    let flights = Arc::new(Flights::new());
    leader(&flights).answer(|| unreachable!("nobody waits"));
    let leader = leader(&flights);
    let mut follower = Box::pin(follower(&flights));
    leader.answer(|| Outcome::Unshared);
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Followed::Outcome(Outcome::Unshared)) = follower.as_mut().poll(&mut context)
    else {
        panic!("there is an answer");
    };
}

/// One that is promoted, and polled, so that the first leader has lost its lead.
fn heir(flights: &Arc<Flights>, leader: &Leader) -> Leader {
    let mut follower = Box::pin(follower(flights));
    assert!(lock(&leader.flight.crew).promote(&leader.flight).is_some());
    match follower.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Followed::Lead(heir)) => heir,
        _ => panic!("the lead is handed over"),
    }
}

/// Whatever the program's own types hold when they are dropped, here one who waits for the flight.
struct Holds(#[expect(dead_code, reason = "it is there to be dropped")] Mutex<Option<Follower>>);

impl Wake for Holds {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn an_answer_that_comes_too_late_is_dropped_with_nothing_locked() {
    in_time(|| {
        let flights = Arc::new(Flights::new());
        let leader = leader(&flights);
        let heir = heir(&flights, &leader);
        let holds: Value = Arc::new(Holds(Mutex::new(Some(follower(&flights)))));
        heir.answer(|| Outcome::Unshared);
        leader.answer(move || Outcome::Cached(holds));
    });
}

#[test]
fn a_waker_that_is_not_needed_any_more_is_dropped_with_nothing_locked() {
    fn is_polled(follower: &mut Pin<Box<Follower>>, waker: &Waker) {
        assert!(follower.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    }
    in_time(|| {
        let flights = Arc::new(Flights::new());
        let _leader = leader(&flights);
        let waker = || Waker::from(Arc::new(Holds(Mutex::new(Some(follower(&flights))))));
        let mut moved = Box::pin(follower(&flights));
        is_polled(&mut moved, &waker());
        is_polled(&mut moved, Waker::noop());
        is_polled(&mut moved, &waker());
        drop(moved);
    });
}

fn promoted(flight: &Arc<Flight>) -> Option<u64> {
    lock(&flight.crew).promoted
}

#[test]
fn a_fetch_of_45_s_keeps_its_lead_and_one_that_never_ends_loses_it() {
    let flights = Arc::new(Flights::new());
    let leader = leader(&flights);
    let _follower = follower(&flights);
    leader.flight.look(now() + 45_000);
    assert_eq!(promoted(&leader.flight), None);
    leader.flight.look(now() + 61_000);
    assert_eq!(promoted(&leader.flight), Some(0));
}

#[test]
fn a_fetch_that_is_known_to_be_slow_keeps_its_lead_for_longer() {
    let flights = Arc::new(Flights::new());
    let leader = leader(&flights);
    let _follower = follower(&flights);
    leader.expect(Duration::from_secs(30));
    leader.flight.look(now() + 119_000);
    assert_eq!(promoted(&leader.flight), None);
    leader.flight.look(now() + 121_000);
    assert_eq!(promoted(&leader.flight), Some(0));
}

#[test]
fn of_two_leaders_whoever_ends_first_answers_the_other() {
    for first_ends in [true, false] {
        let flights = Arc::new(Flights::new());
        let first = leader(&flights);
        let second = heir(&flights, &first);
        let (ends, waits) = if first_ends { (first, second) } else { (second, first) };
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let context = Context::from_waker(&waker);
        assert!(waits.overtaken(&context).is_none());
        ends.answer(|| Outcome::Cached(Arc::new(7)));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(matches!(waits.overtaken(&context), Some(Outcome::Cached(_))));
        waits.yield_to_outcome();
    }
}

fn panics(leader: Leader) {
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _leader = leader;
        std::panic::resume_unwind(Box::new("the fetch panics"));
    }));
    assert!(panicked.is_err());
}

#[test]
fn a_second_panic_lets_every_follower_fetch_for_itself() {
    let flights = Arc::new(Flights::new());
    let first = leader(&flights);
    let mut followers = [(); 3].map(|()| Box::pin(follower(&flights)));
    let mut context = Context::from_waker(Waker::noop());
    panics(first);
    let mut polled = followers.each_mut().map(|follower| follower.as_mut().poll(&mut context));
    let Poll::Ready(Followed::Lead(second)) = std::mem::replace(&mut polled[0], Poll::Pending)
    else {
        panic!("the lead is handed over");
    };
    assert!(polled.iter().all(Poll::is_pending), "the others wait");
    panics(second);
    for follower in &mut followers[1..] {
        let polled = follower.as_mut().poll(&mut context);
        assert!(matches!(polled, Poll::Ready(Followed::Outcome(Outcome::Unshared))));
    }
}

#[test]
fn the_lead_of_a_runtime_that_is_not_driven_goes_to_another_runtime() {
    let runtime = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (idle, other) = (runtime(), runtime());
    let flights = Arc::new(Flights::new());
    let leader = leader(&flights);
    let polled_on = |runtime: &tokio::runtime::Runtime| {
        let _entered = runtime.enter();
        let mut follower = Box::pin(follower(&flights));
        let context = &mut Context::from_waker(Waker::noop());
        assert!(follower.as_mut().poll(context).is_pending());
        follower
    };
    let followers = [polled_on(&idle), polled_on(&idle), polled_on(&other)];
    leader.flight.relieve(Some(idle.handle().id()));
    assert_eq!(promoted(&leader.flight), Some(2));
    // It is late to take the lead, and the others cannot.
    leader.flight.relieve(None);
    assert_eq!(promoted(&leader.flight), Some(2));
    drop(followers);
}

#[test]
fn a_flight_of_the_process_that_was_forked_is_nobodys() {
    let flights = Arc::new(Flights::new());
    // As a child sees it.
    let parent = std::process::id() + 1;
    flights.process.store(parent, Ordering::Relaxed);
    let hash = KeyHeader::read(&key()).spread();
    let flight = Arc::new(Flight::new(&flights, hash, &key(), None));
    flights.shard(hash).push((hash, Arc::clone(&flight)));
    let inherited = Leader::new(flight, 0);
    let own = leader(&flights);
    let _follower = follower(&flights);
    inherited.answer(|| Outcome::Unshared);
    assert!(matches!(flights.join(&key(), None), Role::Follower(_)), "the child's own goes on");
    drop(own);
}
