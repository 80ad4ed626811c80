use super::*;

fn key() -> Arc<[u8]> {
    Arc::from(&b"key"[..])
}

fn leader(flights: &Arc<Flights>) -> Leader {
    match flights.join(key()) {
        Role::Leader(leader) => leader,
        _ => panic!("there is a leader already"),
    }
}

fn follower(flights: &Arc<Flights>) -> Follower {
    match flights.join(key()) {
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
