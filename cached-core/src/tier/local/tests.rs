use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::ThreadId;
use std::time::Instant;

use super::aside::Stored;
use super::*;
use crate::in_time::in_time;

fn key() -> Arc<[u8]> {
    Arc::from(&b"12345678 a key behind its hash"[..])
}

/// Starts now, without a stale period.
fn seconds(ttl: u64) -> Expiry {
    Expiry { start: Instant::now(), ttl: Duration::from_secs(ttl), stale_ttl: Duration::ZERO }
}

fn publish(local: &LocalTier, fill_token: FillToken, mode: WriteMode, value: u32) -> bool {
    let life = seconds(60);
    let value: Value = Arc::new(value);
    local.publish(&key(), fill_token, mode, &value, 4, life)
}

fn held(local: &LocalTier) -> Option<u32> {
    local.get(&key()).and_then(|value| value.downcast_ref().copied())
}

fn absent(local: &LocalTier) -> FillToken {
    match local.peek_or_fill_token(&key()) {
        Err(fill_token) => fill_token,
        Ok(_) => panic!("nothing was published yet"),
    }
}

#[test]
fn of_two_who_found_nothing_the_first_to_publish_stays() {
    let local = LocalTier::new(1 << 20, Clock::default());
    let (first, second) = (absent(&local), absent(&local));
    assert!(publish(&local, first, WriteMode::Once, 1));
    assert!(!publish(&local, second, WriteMode::Once, 2));
    assert_eq!(held(&local), Some(1));
    assert!(publish(&local, second, WriteMode::Replace, 3));
    assert_eq!(held(&local), Some(3));
}

#[test]
fn what_was_published_and_invalidated_lets_nobody_before_it_publish() {
    let local = LocalTier::new(1 << 20, Clock::default());
    let before = absent(&local);
    assert!(publish(&local, before, WriteMode::Once, 1));
    let after = local.invalidate(&key(), None).expect("there is no fill_token to be out of date");
    assert!(!publish(&local, before, WriteMode::Once, 2));
    assert_eq!(held(&local), None);
    assert!(publish(&local, after, WriteMode::Once, 3));
    assert_eq!(held(&local), Some(3));
}

#[test]
fn what_is_not_fresh_for_any_time_is_not_stored() {
    let local = LocalTier::new(1 << 20, Clock::default());
    let life = Expiry { start: Instant::now(), ttl: Duration::ZERO, stale_ttl: Duration::ZERO };
    let value: Value = Arc::new(1_u32);
    assert!(!local.publish(&key(), absent(&local), WriteMode::Once, &value, 4, life));
}

#[test]
fn keys_of_one_head_have_entries_of_their_own_however_long_they_are() {
    let local = LocalTier::new(1 << 20, Clock::default());
    let keys: Vec<Arc<[u8]>> = (8..140)
        .flat_map(|length| [7, 8].map(|last| (length, last)))
        .map(|(length, last)| {
            let mut key = vec![1; length];
            key.push(last);
            Arc::from(key)
        })
        .collect();
    let life = seconds(60);
    for (number, key) in keys.iter().enumerate() {
        let value: Value = Arc::new(number);
        let Err(fill_token) = local.peek_or_fill_token(key) else {
            panic!("{number} is not there yet")
        };
        assert!(local.publish(key, fill_token, WriteMode::Once, &value, 8, life));
    }
    for (number, key) in keys.iter().enumerate() {
        let held = local.get(key).and_then(|value| value.downcast_ref().copied());
        assert_eq!(held, Some(number));
        local.invalidate(key, None);
        assert!(local.get(key).is_none());
    }
}

/// A value whose `Drop` does something with the store that it was in.
struct Dropped {
    local: Weak<LocalTier>,
    number: u64,
    drop: fn(&Arc<LocalTier>, u64),
}

impl Drop for Dropped {
    fn drop(&mut self) {
        if let Some(local) = self.local.upgrade() {
            (self.drop)(&local, self.number);
        }
    }
}

/// In one of few stripes, which is often the one that is locked when a value is dropped.
fn numbered(number: u64) -> Arc<[u8]> {
    let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let stripe = number % 4;
    let head = (hash & !(STRIPES as u64 - 1)) | stripe;
    Arc::from([head, number].map(u64::to_ne_bytes).as_flattened())
}

fn publish_numbered(
    local: &Arc<LocalTier>,
    number: u64,
    weight: usize,
    drop: fn(&Arc<LocalTier>, u64),
) {
    let key = numbered(number);
    let life = seconds(60);
    let value: Value = Arc::new(Dropped { local: Arc::downgrade(local), number, drop });
    if let Err(fill_token) = local.peek_or_fill_token(&key) {
        local.publish(&key, fill_token, WriteMode::Once, &value, weight, life);
    }
}

#[test]
fn a_value_dropped_by_an_invalidation_invalidates_and_publishes() {
    static HELD: AtomicBool = AtomicBool::new(false);
    in_time(|| {
        let local = LocalTier::new(1 << 20, Clock::default());
        for number in 0..5000 {
            publish_numbered(&local, number, 1, |local, number| {
                local.invalidate(&numbered(number), None);
                let another = number + 10_000;
                publish_numbered(local, another, 1, |_, _| ());
                local.get(&numbered(another));
                local.invalidate(&numbered(another), None);
                HELD.fetch_or(local.get(&numbered(another)).is_some(), Ordering::Relaxed);
            });
            local.get(&numbered(number));
            local.invalidate(&numbered(number), None);
        }
    });
    assert!(!HELD.load(Ordering::Relaxed), "what is invalidated is gone");
}

#[test]
fn a_value_dropped_by_what_takes_its_place_replaces_it_again() {
    in_time(|| {
        let local = LocalTier::new(1 << 20, Clock::default());
        let life = seconds(60);
        fn replace(local: &Arc<LocalTier>, expiry: Expiry, drop: fn(&Arc<LocalTier>, u64)) {
            let fill_token = local.fill_token(&numbered(0));
            let value: Value = Arc::new(Dropped { local: Arc::downgrade(local), number: 0, drop });
            local.publish(&numbered(0), fill_token, WriteMode::Replace, &value, 1, expiry);
        }
        for second in 0..5000 {
            replace(&local, life, |local, _| {
                let life = seconds(70);
                replace(local, life, |_, _| ());
            });
            if let Some(value) = local.get(&numbered(0)) {
                let longer = Expiry { ttl: Duration::from_secs(100 + second), ..life };
                local.extend(&numbered(0), local.fill_token(&numbered(0)), &value, longer);
            }
        }
    });
}

/// So many give their places to one that is large, that the store has no room for what each of them
/// stores, until it is done with making room.
#[test]
fn values_that_are_dropped_at_once_each_store_another() {
    in_time(|| {
        let local = LocalTier::new(1 << 20, Clock::default());
        for round in 0..20 {
            for number in 0..4000 {
                publish_numbered(&local, round * 10_000 + number, 100, |local, number| {
                    publish_numbered(local, (1 << 40) + number, 1, |_, _| ());
                });
            }
            let large = round * 10_000 + 9_999;
            // Asked for often, so that it is let in.
            for _ in 0..50 {
                local.get(&numbered(large));
            }
            publish_numbered(&local, large, 1 << 19, |_, _| ());
            for number in 0..500 {
                publish_numbered(&local, (1 << 50) + number, 1, |_, _| ());
            }
        }
    });
}

/// Nothing of ours is locked while a value is dropped: it may wait for a thread that needs it.
#[test]
fn a_value_that_is_dropped_waits_for_another_thread() {
    in_time(|| {
        let local = LocalTier::new(1 << 16, Clock::default());
        for number in 0..3000 {
            publish_numbered(&local, number, 1, |local, number| {
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        publish_numbered(local, number, 1, |_, _| ());
                        local.invalidate(&numbered(number), None);
                    });
                });
            });
            if number % 3 == 0 {
                local.invalidate(&numbered(number), None);
            }
        }
    });
}

/// Each holds the stripe that the other's value needs.
#[test]
fn values_that_are_dropped_on_several_threads_invalidate_each_others_keys() {
    in_time(|| {
        let local = LocalTier::new(1 << 16, Clock::default());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let local = &local;
                scope.spawn(move || {
                    for number in 0..5000 {
                        let number = number * 4 + thread;
                        publish_numbered(local, number, 1, |local, number| {
                            local.invalidate(&numbered(number ^ 1), None);
                        });
                    }
                });
            }
        });
    });
}

/// Fetches that began while an entry was added elsewhere end after that.
#[test]
fn what_was_given_last_is_not_replaced_by_fetches_that_began_before() {
    let local = LocalTier::new(1 << 20, Clock::default());
    let (mut given, mut fetched) = (local.fill_token(&key()), local.fill_token(&key()));
    local.assign_fetch_sequence(&mut fetched);
    local.assign_read_sequence(&mut given);
    assert!(publish(&local, given, WriteMode::Once, 1));
    assert!(!publish(&local, fetched, WriteMode::Replace, 2));
    local.assign_fetch_sequence(&mut fetched);
    assert!(publish(&local, fetched, WriteMode::Replace, 2));
}

/// Says which thread drops it.
struct Says(Sender<ThreadId>);

impl Drop for Says {
    fn drop(&mut self) {
        self.0.send(std::thread::current().id()).ok();
    }
}

fn says() -> (Value, Receiver<ThreadId>) {
    let (says, said) = channel();
    (Arc::new(Says(says)), said)
}

/// A value that was put aside.
fn let_go() -> Receiver<ThreadId> {
    let (aside, said) = says();
    let stored = Stored::new(&aside);
    drop(aside);
    drop(stored);
    said
}

/// There may be no call any more.
#[test]
fn what_was_put_aside_is_dropped_with_a_cache() {
    let local = LocalTier::new(1 << 20, Clock::default());
    let aside = let_go();
    drop(local);
    // Another test's thread may drop it.
    assert!(aside.recv_timeout(Duration::from_secs(10)).is_ok());
}

/// A value may ask for the key whose flight is led, and would wait for its own thread.
#[test]
fn who_leads_a_flight_drops_no_value() {
    let local = LocalTier::new(1 << 20, Clock::default());
    let fill_token = local.fill_token(&key());
    let acts: [&dyn Fn(); 5] = [
        &|| assert!(local.peek_or_fill_token(&key()).is_err()),
        &|| assert!(publish(&local, fill_token, WriteMode::Once, 1)),
        &|| assert!(local.peek_or_fill_token(&key()).is_ok()),
        &|| assert!(!publish(&local, fill_token, WriteMode::Once, 2)),
        &|| assert!(local.get_stale(&key()).is_some()),
    ];
    let here = std::thread::current().id();
    for (number, act) in acts.into_iter().enumerate() {
        let said = let_go();
        act();
        // Another test's thread may drop it at any time.
        if let Ok(by) = said.try_recv() {
            assert_ne!(by, here, "act {number}");
            continue;
        }
        // The next look drops it, unless another test has left too many.
        let give_up = Instant::now() + Duration::from_secs(10);
        while said.recv_timeout(Duration::from_millis(1)).is_err() {
            assert!(local.get(&numbered(1)).is_none());
            assert!(Instant::now() < give_up, "act {number}");
        }
    }
}

/// Waits for what the sweeper does.
fn soon(mut done: impl FnMut() -> bool) -> bool {
    let give_up = Instant::now() + Duration::from_secs(10);
    while Instant::now() < give_up {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

#[test]
fn what_has_expired_is_freed_where_nobody_calls() {
    let local = LocalTier::new(1 << 20, Clock::default());
    let life = |fresh, kept| Expiry {
        start: Instant::now(),
        ttl: Duration::from_millis(fresh),
        stale_ttl: Duration::from_millis(kept),
    };
    let lives = [life(60_000, 0), life(50, 0), life(50, 60_000), life(1500, 0)];
    let alive = lives.map(|life| {
        let value: Value = Arc::new(1_u32);
        let key = numbered(life.ttl.as_millis() as u64 * 1000 + life.stale_ttl.as_millis() as u64);
        assert!(local.publish(&key, local.fill_token(&key), WriteMode::Once, &value, 4, life));
        Arc::downgrade(&value)
    });
    let are_alive = || alive.each_ref().map(|value| value.strong_count() > 0);
    assert!(soon(|| are_alive() == [true, false, true, false]), "{:?}", are_alive());
}

#[test]
fn what_was_put_aside_is_dropped_where_nobody_calls() {
    let _local = LocalTier::new(1 << 20, Clock::default());
    let aside = let_go();
    assert!(aside.recv_timeout(Duration::from_secs(10)).is_ok());
}

/// Entries that go for want of room are in the index no more, and what is in the index is accounted for.
#[test]
fn the_index_holds_what_the_policy_holds() {
    let local = LocalTier::new(1 << 20, Clock::default());
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let local = &local;
            scope.spawn(move || {
                for number in 0..20_000 {
                    let key = numbered(number % 7_000 * 4 + thread % 2);
                    match number % 5 {
                        0 => drop(local.invalidate(&key, None)),
                        _ if local.get(&key).is_some() => {}
                        _ => publish_numbered(local, number % 7_000 * 4 + thread % 2, 1, |_, _| ()),
                    }
                }
            });
        }
    });
    let held = || {
        local.take_out_gone();
        let reading = local.read().expect("the thread goes on");
        reading.entries().map(|(_, known)| u64::from(known.weight)).sum::<u64>()
    };
    assert!((1 << 19..=(1 << 20) * 33 / 32).contains(&held()), "{}", held());
    // Another test's thread may hold up the garbage.
    let settled = soon(|| {
        local.policy.settle();
        [held(); 2] == local.policy.weights()
    });
    assert!(settled, "{} {:?}", held(), local.policy.weights());
}

/// An entry is in two tables while the index grows, and may be replaced in the one.
#[test]
fn what_is_invalidated_while_the_index_grows_is_gone() {
    const KEYS: u64 = 40_000;
    let local = LocalTier::new(1 << 30, Clock::default());
    std::thread::scope(|scope| {
        for thread in 1..=4_u64 {
            let local = &local;
            scope.spawn(move || {
                for number in 0..KEYS {
                    publish_numbered(local, (thread << 32) + number, 1, |_, _| ());
                    let hot = (thread << 40) + number % 16;
                    publish_numbered(local, hot, 1, |_, _| ());
                    if number % 3 == 0 {
                        local.invalidate(&numbered(hot), None);
                        assert!(local.get(&numbered(hot)).is_none(), "{hot} is there yet");
                    } else {
                        let life = seconds(60);
                        let value: Value = Arc::new(number);
                        let key = numbered(hot);
                        local.publish(
                            &key,
                            local.fill_token(&key),
                            WriteMode::Replace,
                            &value,
                            1,
                            life,
                        );
                    }
                }
            });
        }
    });
}

#[test]
fn a_capacity_of_nothing_keeps_nothing() {
    let local = LocalTier::new(0, Clock::default());
    assert!(!publish(&local, absent(&local), WriteMode::Once, 1));
    assert_eq!(held(&local), None);
}

/// A value of a moka cache of the program's own, in whose garbage ours may come to it.
#[derive(Clone)]
struct Session(Arc<Dropped>);

#[test]
fn another_moka_lets_go_of_values_that_change_the_same_keys() {
    in_time(|| {
        // Half of it is taken by a few, so that moka is told of all that comes.
        let local = LocalTier::new(1 << 16, Clock::default());
        let sessions = moka::sync::Cache::new(100);
        for number in 0..5000 {
            let drop = |local: &Arc<LocalTier>, number| {
                local.invalidate(&numbered(number), None);
            };
            let session = Dropped { local: Arc::downgrade(&local), number: number + 1, drop };
            sessions.insert(number, Session(Arc::new(session)));
            publish_numbered(&local, number, 1, |_, _| ());
            local.invalidate(&numbered(number / 2), None);
        }
        assert!(sessions.iter().all(|(number, session)| session.0.number == *number + 1));
    });
}
