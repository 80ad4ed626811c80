use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{OnceLock, Weak};
use std::thread::ThreadId;
use std::time::Instant;

use super::deferred_drops::DeferredDrop;
use super::*;
use crate::event::{Observer, ObserverList};
use crate::in_time::in_time;

fn tier(capacity: u64) -> Arc<LocalTier> {
    LocalTier::new(capacity, Clock::default(), EventDispatcher::new(&ObserverList::default()))
}

fn key() -> Arc<[u8]> {
    Arc::from(&b"12345678 a key behind its hash"[..])
}

/// Returns an expiry that starts now and has no stale period.
fn seconds(ttl: u64) -> Expiry {
    Expiry { start: Instant::now(), ttl: Duration::from_secs(ttl), stale_ttl: Duration::ZERO }
}

fn publish(local: &LocalTier, fill_token: FillToken, mode: WriteMode, value: u32) -> bool {
    let expiry = seconds(60);
    let value: Value = Arc::new(value);
    local.publish(&key(), fill_token, mode, &value, 4, expiry)
}

fn stored_number(local: &LocalTier) -> Option<u32> {
    local.get(&key()).and_then(|value| value.downcast_ref().copied())
}

fn missing_token(local: &LocalTier) -> FillToken {
    match local.peek_or_fill_token(&key()) {
        Err(fill_token) => fill_token,
        Ok(_) => panic!("the key has an entry already"),
    }
}

#[test]
fn the_first_of_two_write_once_fills_stays() {
    let local = tier(1 << 20);
    let (first, second) = (missing_token(&local), missing_token(&local));
    assert!(publish(&local, first, WriteMode::Once, 1));
    assert!(!publish(&local, second, WriteMode::Once, 2));
    assert_eq!(stored_number(&local), Some(1));
    assert!(publish(&local, second, WriteMode::Replace, 3));
    assert_eq!(stored_number(&local), Some(3));
}

#[test]
fn an_invalidation_refuses_earlier_fills() {
    let local = tier(1 << 20);
    let before = missing_token(&local);
    assert!(publish(&local, before, WriteMode::Once, 1));
    let after = local.invalidate(&key(), None).expect("no token was passed");
    assert!(!publish(&local, before, WriteMode::Once, 2));
    assert_eq!(stored_number(&local), None);
    assert!(publish(&local, after, WriteMode::Once, 3));
    assert_eq!(stored_number(&local), Some(3));
}

/// Stores a number under a key of the function with this index. Returns the fill token (the
/// permission to store a value), which was created before the number was stored.
fn publish_for_function(local: &LocalTier, index: u64, number: u64) -> FillToken {
    let key = key_of(index, number);
    let fill_token = local.fill_token(&key);
    publish_with_token(local, &key, fill_token, number);
    fill_token
}

fn publish_with_token(local: &LocalTier, key: &[u8], fill_token: FillToken, number: u64) -> bool {
    let value: Value = Arc::new(number);
    local.publish(key, fill_token, WriteMode::Once, &value, 8, seconds(60))
}

fn key_of(index: u64, number: u64) -> Arc<[u8]> {
    let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    Arc::from([index << 32 | hash, number].map(u64::to_ne_bytes).as_flattened())
}

/// A clearing removes entries in steps, and this test stores more entries than one step removes.
/// The first capacity leaves the eviction policy inactive, and the second makes it active.
#[test]
fn a_clearing_removes_earlier_entries_only() {
    const COUNT: u64 = 40_000;
    for capacity in [1 << 30, COUNT * 1_000] {
        let local = tier(capacity);
        let under_way: Vec<_> =
            (0..COUNT).map(|number| publish_for_function(&local, 0, number)).take(100).collect();
        let others: Vec<_> =
            (0..100).map(|number| publish_for_function(&local, 1, number)).collect();
        assert_eq!(local.entry_count() as u64, 100 + others.len() as u64);
        let rest = (100..COUNT).map(|number| publish_for_function(&local, 0, number));
        let token_of_absent = local.fill_token(&key_of(0, COUNT));
        assert_eq!(rest.count() as u64 + 100, COUNT);

        let clearing = local.begin_clearing(Some(0));
        assert!(!publish_with_token(&local, &key_of(0, COUNT), token_of_absent, 1));
        publish_for_function(&local, 0, COUNT + 1);
        assert_eq!(clearing.finish() as u64, COUNT);
        assert!(
            local.get(&key_of(0, COUNT + 1)).is_some(),
            "an entry that was stored after the start stays"
        );
        assert!((0..COUNT).all(|number| local.get(&key_of(0, number)).is_none()));
        assert!((0..100).all(|number| local.get(&key_of(1, number)).is_some()));
        assert!(!publish_with_token(&local, &key_of(0, 5), under_way[5], 5));

        assert_eq!(local.begin_clearing(None).finish(), 101);
        assert_eq!((local.entry_count(), local.weight()), (0, 0));
        publish_for_function(&local, 0, 7);
        assert!(local.get(&key_of(0, 7)).is_some(), "the tier still stores values");
    }
}

/// Other threads store values during each clearing. Each value is the number of the newest clearing
/// at that time, so a lookup after a clearing must not find a lower number.
#[test]
fn no_cleared_value_is_found_while_others_fill() {
    const KEYS: u64 = 3_000;
    let local = tier(1 << 30);
    let (newest, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for thread in 0..2 {
            let (local, newest, done) = (&local, &newest, &done);
            scope.spawn(move || {
                let mut number = thread * 7;
                while !done.load(Ordering::SeqCst) {
                    number = (number + 11) % KEYS;
                    let key = key_of(0, number);
                    let fill_token = local.fill_token(&key);
                    publish_with_token(local, &key, fill_token, newest.load(Ordering::SeqCst));
                }
            });
        }
        for clearings in 1..=300 {
            // The capacity is large, so only the clearing removes entries.
            while local.entry_count() < 500 {
                thread::yield_now();
            }
            newest.store(clearings, Ordering::SeqCst);
            local.begin_clearing(None).finish();
            for number in 0..KEYS {
                let found = local.get(&key_of(0, number));
                let found =
                    found.map(|value| *value.downcast_ref::<u64>().expect("the value is a number"));
                assert!(found.is_none_or(|found| found >= clearings), "{found:?} < {clearings}");
            }
        }
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_ttl_of_zero_stores_nothing() {
    let local = tier(1 << 20);
    let expiry = Expiry { start: Instant::now(), ttl: Duration::ZERO, stale_ttl: Duration::ZERO };
    let value: Value = Arc::new(1_u32);
    assert!(!local.publish(&key(), missing_token(&local), WriteMode::Once, &value, 4, expiry));
}

#[test]
fn keys_with_equal_headers_have_separate_entries() {
    let local = tier(1 << 20);
    let keys: Vec<Arc<[u8]>> = (8..140)
        .flat_map(|length| [7, 8].map(|last| (length, last)))
        .map(|(length, last)| {
            let mut key = vec![1; length];
            key.push(last);
            Arc::from(key)
        })
        .collect();
    let expiry = seconds(60);
    for (number, key) in keys.iter().enumerate() {
        let value: Value = Arc::new(number);
        let Err(fill_token) = local.peek_or_fill_token(key) else {
            panic!("{number} has an entry already")
        };
        assert!(local.publish(key, fill_token, WriteMode::Once, &value, 8, expiry));
    }
    for (number, key) in keys.iter().enumerate() {
        let held = local.get(key).and_then(|value| value.downcast_ref().copied());
        assert_eq!(held, Some(number));
        local.invalidate(key, None);
        assert!(local.get(key).is_none());
    }
}

/// A value whose `Drop` uses the tier that the value was stored in.
struct TierUsingValue {
    local: Weak<LocalTier>,
    number: u64,
    drop: fn(&Arc<LocalTier>, u64),
}

impl Drop for TierUsingValue {
    fn drop(&mut self) {
        if let Some(local) = self.local.upgrade() {
            (self.drop)(&local, self.number);
        }
    }
}

/// Returns a key in one of four *stripes*, which are groups of keys with a common lock. With so few
/// stripes, a value's `Drop` often needs a stripe that is locked.
fn numbered_key(number: u64) -> Arc<[u8]> {
    let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let stripe = number % 4;
    let head = (hash & !(STRIPE_COUNT as u64 - 1)) | stripe;
    Arc::from([head, number].map(u64::to_ne_bytes).as_flattened())
}

/// Stores a [`TierUsingValue`] whose `Drop` calls `drop`. Does nothing if the key has an entry.
fn publish_with_drop(
    local: &Arc<LocalTier>,
    number: u64,
    weight: usize,
    drop: fn(&Arc<LocalTier>, u64),
) {
    let key = numbered_key(number);
    let expiry = seconds(60);
    let value: Value = Arc::new(TierUsingValue { local: Arc::downgrade(local), number, drop });
    if let Err(fill_token) = local.peek_or_fill_token(&key) {
        local.publish(&key, fill_token, WriteMode::Once, &value, weight, expiry);
    }
}

#[test]
fn a_drop_may_invalidate_and_publish() {
    static WAS_FOUND: AtomicBool = AtomicBool::new(false);
    in_time(|| {
        let local = tier(1 << 20);
        for number in 0..5000 {
            publish_with_drop(&local, number, 1, |local, number| {
                local.invalidate(&numbered_key(number), None);
                let another = number + 10_000;
                publish_with_drop(local, another, 1, |_, _| ());
                local.get(&numbered_key(another));
                local.invalidate(&numbered_key(another), None);
                WAS_FOUND.fetch_or(local.get(&numbered_key(another)).is_some(), Ordering::Relaxed);
            });
            local.get(&numbered_key(number));
            local.invalidate(&numbered_key(number), None);
        }
    });
    assert!(!WAS_FOUND.load(Ordering::Relaxed), "no invalidated entry is found");
}

#[test]
fn a_drop_of_a_replaced_value_may_replace() {
    in_time(|| {
        let local = tier(1 << 20);
        let expiry = seconds(60);
        fn replace(local: &Arc<LocalTier>, expiry: Expiry, drop: fn(&Arc<LocalTier>, u64)) {
            let fill_token = local.fill_token(&numbered_key(0));
            let value: Value =
                Arc::new(TierUsingValue { local: Arc::downgrade(local), number: 0, drop });
            local.publish(&numbered_key(0), fill_token, WriteMode::Replace, &value, 1, expiry);
        }
        for second in 0..5000 {
            replace(&local, expiry, |local, _| {
                let expiry = seconds(70);
                replace(local, expiry, |_, _| ());
            });
            if let Some(value) = local.get(&numbered_key(0)) {
                let longer = Expiry { ttl: Duration::from_secs(100 + second), ..expiry };
                local.extend(&numbered_key(0), local.fill_token(&numbered_key(0)), &value, longer);
            }
        }
    });
}

/// One large value evicts thousands of small values, and the `Drop` of each small value stores
/// another value.
#[test]
fn drops_of_many_evicted_values_may_store_others() {
    in_time(|| {
        let local = tier(1 << 20);
        for round in 0..20 {
            for number in 0..4000 {
                publish_with_drop(&local, round * 10_000 + number, 100, |local, number| {
                    publish_with_drop(local, (1 << 40) + number, 1, |_, _| ());
                });
            }
            let large = round * 10_000 + 9_999;
            // The policy admits a large entry only if its key is looked up often.
            for _ in 0..50 {
                local.get(&numbered_key(large));
            }
            publish_with_drop(&local, large, 1 << 19, |_, _| ());
            for number in 0..500 {
                publish_with_drop(&local, (1 << 50) + number, 1, |_, _| ());
            }
        }
    });
}

#[test]
fn a_drop_may_wait_for_another_thread() {
    in_time(|| {
        let local = tier(1 << 16);
        for number in 0..3000 {
            publish_with_drop(&local, number, 1, |local, number| {
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        publish_with_drop(local, number, 1, |_, _| ());
                        local.invalidate(&numbered_key(number), None);
                    });
                });
            });
            if number % 3 == 0 {
                local.invalidate(&numbered_key(number), None);
            }
        }
    });
}

/// Each thread locks a stripe that a value's `Drop` on another thread needs.
#[test]
fn drops_may_invalidate_keys_across_threads() {
    in_time(|| {
        let local = tier(1 << 16);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let local = &local;
                scope.spawn(move || {
                    for number in 0..5000 {
                        let number = number * 4 + thread;
                        publish_with_drop(local, number, 1, |local, number| {
                            local.invalidate(&numbered_key(number ^ 1), None);
                        });
                    }
                });
            }
        });
    });
}

#[test]
fn a_fetch_keeps_a_later_value() {
    let local = tier(1 << 20);
    let (mut passed_in, mut fetched) = (local.fill_token(&key()), local.fill_token(&key()));
    local.assign_fetch_sequence(&mut fetched);
    local.assign_read_sequence(&mut passed_in);
    assert!(publish(&local, passed_in, WriteMode::Once, 1));
    assert!(!publish(&local, fetched, WriteMode::Replace, 2));
    local.assign_fetch_sequence(&mut fetched);
    assert!(publish(&local, fetched, WriteMode::Replace, 2));
}

/// A value whose `Drop` sends the id of the thread that runs the `Drop`.
struct DropReporter(Sender<ThreadId>);

impl Drop for DropReporter {
    fn drop(&mut self) {
        self.0.send(std::thread::current().id()).ok();
    }
}

/// Defers the drop of a value. The receiver gets the id of the thread that drops the value.
fn defer_drop() -> Receiver<ThreadId> {
    let (sender, receiver) = channel();
    let value: Value = Arc::new(DropReporter(sender));
    drop(DeferredDrop::new(&value));
    receiver
}

#[test]
fn deferred_drops_run_when_a_tier_is_dropped() {
    let local = tier(1 << 20);
    let dropped = defer_drop();
    drop(local);
    // The thread of another test may drop the value.
    assert!(dropped.recv_timeout(Duration::from_secs(10)).is_ok());
}

/// A *leader* is a call that runs the function while other calls wait for its result. A leader must
/// run no deferred drops. The `Drop` of a value might call the function with the leader's own key,
/// and this call would wait for the leader on the leader's own thread.
#[test]
fn a_leaders_operations_run_no_deferred_drops() {
    let local = tier(1 << 20);
    let fill_token = local.fill_token(&key());
    let operations: [&dyn Fn(); 5] = [
        &|| assert!(local.peek_or_fill_token(&key()).is_err()),
        &|| assert!(publish(&local, fill_token, WriteMode::Once, 1)),
        &|| assert!(local.peek_or_fill_token(&key()).is_ok()),
        &|| assert!(!publish(&local, fill_token, WriteMode::Once, 2)),
        &|| assert!(local.get_stale(&key()).is_some()),
    ];
    let here = std::thread::current().id();
    for (number, operation) in operations.into_iter().enumerate() {
        let dropped = defer_drop();
        operation();
        // The thread of another test may drop the value at any time.
        if let Ok(thread) = dropped.try_recv() {
            assert_ne!(thread, here, "operation {number} runs no deferred drop");
            continue;
        }
        // The next lookup drops the value, unless other tests have deferred too many drops.
        let give_up = Instant::now() + Duration::from_secs(10);
        while dropped.recv_timeout(Duration::from_millis(1)).is_err() {
            assert!(local.get(&numbered_key(1)).is_none());
            assert!(Instant::now() < give_up, "a lookup drops value {number} in time");
        }
    }
}

/// Returns true if the condition becomes true within 10 seconds.
fn becomes_true(mut condition: impl FnMut() -> bool) -> bool {
    let give_up = Instant::now() + Duration::from_secs(10);
    while Instant::now() < give_up {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

#[test]
fn expired_values_are_freed_without_a_call() {
    let local = tier(1 << 20);
    let expiry = |ttl, stale_ttl| Expiry {
        start: Instant::now(),
        ttl: Duration::from_millis(ttl),
        stale_ttl: Duration::from_millis(stale_ttl),
    };
    let expiries = [expiry(60_000, 0), expiry(50, 0), expiry(50, 60_000), expiry(1500, 0)];
    let values = expiries.map(|expiry| {
        let value: Value = Arc::new(1_u32);
        let key = numbered_key(
            expiry.ttl.as_millis() as u64 * 1000 + expiry.stale_ttl.as_millis() as u64,
        );
        assert!(local.publish(&key, local.fill_token(&key), WriteMode::Once, &value, 4, expiry));
        Arc::downgrade(&value)
    });
    let are_live = || values.each_ref().map(|value| value.strong_count() > 0);
    assert!(becomes_true(|| are_live() == [true, false, true, false]), "{:?}", are_live());
}

#[test]
fn deferred_drops_run_without_a_call() {
    let _local = tier(1 << 20);
    let dropped = defer_drop();
    assert!(dropped.recv_timeout(Duration::from_secs(10)).is_ok());
}

/// Evicted entries are removed from the index. The index, the policy and moka then agree on the
/// total weight of the remaining entries.
#[test]
fn index_and_policy_agree_after_evictions() {
    let local = tier(1 << 20);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let local = &local;
            scope.spawn(move || {
                for number in 0..20_000 {
                    let key = numbered_key(number % 7_000 * 4 + thread % 2);
                    match number % 5 {
                        0 => drop(local.invalidate(&key, None)),
                        _ if local.get(&key).is_some() => {}
                        _ => {
                            publish_with_drop(local, number % 7_000 * 4 + thread % 2, 1, |_, _| ())
                        }
                    }
                }
            });
        }
    });
    let indexed_weight = || {
        local.remove_evicted();
        let guard = local.index_guard().expect("the thread is not ending");
        guard.entries().map(|(_, state)| u64::from(state.weight)).sum::<u64>()
    };
    let expected = 1 << 19..=(1 << 20) * 33 / 32;
    assert!(expected.contains(&indexed_weight()), "{}", indexed_weight());
    let weights = || [local.policy.weight(), local.policy.moka_weight()];
    // The thread of another test can keep moka from freeing memory for a while.
    let settled = becomes_true(|| {
        local.policy.run_pending_work();
        weights() == [indexed_weight(); 2]
    });
    assert!(settled, "{} {:?}", indexed_weight(), weights());
}

/// If a tier exceeds its capacity, the tier evicts the excess even if no further call is made.
#[test]
fn few_large_entries_do_not_exceed_the_capacity() {
    const CAPACITY: u64 = 4 << 20;
    for (count, weight) in
        [(1, 8 << 20), (5, 1 << 20), (20, 1 << 20), (60, 100 << 10), (200, 60 << 10)]
    {
        let local = tier(CAPACITY);
        for number in 0..count {
            let (key, value): (_, Value) = (numbered_key(number), Arc::new(number));
            let fill_token = local.fill_token(&key);
            local.publish(&key, fill_token, WriteMode::Once, &value, weight, seconds(600));
        }
        let limit = CAPACITY + CAPACITY / 32;
        let fits = becomes_true(|| local.policy.weight() <= limit);
        assert!(fits, "{count} entries of {weight} bytes: {}", local.policy.weight());
    }
}

/// While the index grows, an entry may be in the old table and its replacement in the new table.
#[test]
fn an_invalidation_removes_entries_of_a_growing_index() {
    const KEYS: u64 = 40_000;
    let local = tier(1 << 30);
    std::thread::scope(|scope| {
        for thread in 1..=4_u64 {
            let local = &local;
            scope.spawn(move || {
                for number in 0..KEYS {
                    publish_with_drop(local, (thread << 32) + number, 1, |_, _| ());
                    let hot = (thread << 40) + number % 16;
                    publish_with_drop(local, hot, 1, |_, _| ());
                    if number % 3 == 0 {
                        local.invalidate(&numbered_key(hot), None);
                        assert!(
                            local.get(&numbered_key(hot)).is_none(),
                            "{hot} is found after its invalidation"
                        );
                    } else {
                        let expiry = seconds(60);
                        let value: Value = Arc::new(number);
                        let key = numbered_key(hot);
                        local.publish(
                            &key,
                            local.fill_token(&key),
                            WriteMode::Replace,
                            &value,
                            1,
                            expiry,
                        );
                    }
                }
            });
        }
    });
}

/// An observer that records the reasons of evictions.
#[derive(Default)]
struct EvictionRecorder(Mutex<Vec<EvictionReason>>);

impl Observer for EvictionRecorder {
    fn event(&self, event: &Event<'_>) {
        if let Event::Evicted { reason, .. } = event {
            lock(&self.0).push(*reason);
        }
    }
}

fn dispatcher(observers: impl IntoIterator<Item = Arc<dyn Observer>>) -> EventDispatcher {
    let mut list = ObserverList::default();
    observers.into_iter().for_each(|observer| list.push(observer));
    EventDispatcher::new(&list)
}

#[test]
fn each_eviction_is_reported_once_with_its_reason() {
    let evictions = Arc::new(EvictionRecorder::default());
    let events = dispatcher([Arc::clone(&evictions) as _]);
    let clock = Clock::default();
    let local = LocalTier::new(1 << 20, clock.clone(), events);
    let take = || std::mem::take(&mut *lock(&evictions.0));
    assert!(publish(&local, local.fill_token(&key()), WriteMode::Once, 1));
    assert_eq!(take(), []);
    assert!(publish(&local, local.fill_token(&key()), WriteMode::Replace, 2));
    assert_eq!(take(), [EvictionReason::Replaced]);
    local.invalidate(&key(), None);
    local.invalidate(&key(), None);
    assert_eq!(take(), [EvictionReason::Invalidated]);
    for number in 0..4_000 {
        publish_with_drop(&local, number, 1, |_, _| ());
    }
    let evicted = take();
    assert!(!evicted.is_empty());
    assert!(evicted.iter().all(|reason| *reason == EvictionReason::Size));
    clock.advance(Duration::from_secs(61));
    local.sweep();
    let expired = take();
    assert!(!expired.is_empty());
    assert!(expired.iter().all(|reason| *reason == EvictionReason::Expired));
}

/// An observer that invalidates [`key`] on each eviction, and counts the evictions.
#[derive(Default)]
struct InvalidatingObserver {
    local: OnceLock<Weak<LocalTier>>,
    evictions: AtomicUsize,
}

impl Observer for InvalidatingObserver {
    fn event(&self, event: &Event<'_>) {
        if let Event::Evicted { .. } = event {
            self.evictions.fetch_add(1, Ordering::Relaxed);
            if let Some(local) = self.local.get().and_then(Weak::upgrade) {
                local.invalidate(&key(), None);
            }
        }
    }
}

#[test]
fn an_observer_may_invalidate_an_evicted_key() {
    in_time(|| {
        let observer = Arc::new(InvalidatingObserver::default());
        // An observer does not receive the events that it causes itself, but other observers do.
        let recorder = Arc::new(EvictionRecorder::default());
        let events = dispatcher([Arc::clone(&observer) as _, Arc::clone(&recorder) as _]);
        let clock = Clock::default();
        let local = LocalTier::new(1 << 20, clock.clone(), events);
        observer.local.set(Arc::downgrade(&local)).expect("the tier is set once");
        let evictions = || lock(&recorder.0).len();

        assert!(publish(&local, local.fill_token(&key()), WriteMode::Once, 1));
        local.invalidate(&key(), None);
        assert_eq!(evictions(), 1);

        assert!(publish(&local, local.fill_token(&key()), WriteMode::Once, 1));
        assert!(publish(&local, local.fill_token(&key()), WriteMode::Replace, 2));
        assert_eq!(evictions(), 3, "the observer invalidates the new entry");

        let mut fetched = local.fill_token(&key());
        local.assign_fetch_sequence(&mut fetched);
        assert!(publish(&local, local.fill_token(&key()), WriteMode::Once, 1));
        let confirmed: Value = Arc::new(2_u32);
        local.extend(&key(), fetched, &confirmed, seconds(60));
        assert_eq!(evictions(), 4);

        assert!(publish(&local, local.fill_token(&key()), WriteMode::Once, 1));
        clock.advance(Duration::from_secs(61));
        local.remove_expired(&key(), local.fill_token(&key()));
        assert_eq!(evictions(), 5);
        assert_eq!(
            observer.evictions.load(Ordering::Relaxed),
            4,
            "the observer does not receive its own event"
        );
    });
}

/// Counts the freed values of `removed_values_are_freed_while_an_observer_runs`.
static FREED_VALUES: AtomicUsize = AtomicUsize::new(0);

/// An observer that waits at its first event, for 5 s at most, until a removed value is freed. It
/// ignores later events.
#[derive(Default)]
struct DropAwaitingObserver {
    is_called: AtomicBool,
    has_seen_drop: AtomicBool,
}

impl Observer for DropAwaitingObserver {
    fn event(&self, _: &Event<'_>) {
        if self.is_called.swap(true, Ordering::Relaxed) {
            return;
        }
        let began = Instant::now();
        while FREED_VALUES.load(Ordering::Relaxed) == 0 && began.elapsed() < Duration::from_secs(5)
        {
            deferred_drops::run_all_deferred_drops();
            std::thread::sleep(Duration::from_millis(1));
        }
        let has_seen_drop = FREED_VALUES.load(Ordering::Relaxed) > 0;
        self.has_seen_drop.store(has_seen_drop, Ordering::Relaxed);
    }
}

#[test]
fn removed_values_are_freed_while_an_observer_runs() {
    let removals: [fn(&LocalTier, &Clock); 2] = [
        |local, clock| {
            clock.advance(Duration::from_secs(61));
            local.sweep();
        },
        |local, _| {
            local.begin_clearing(None).finish();
        },
    ];
    for remove in removals {
        let observer = Arc::new(DropAwaitingObserver::default());
        let clock = Clock::default();
        let events = dispatcher([Arc::clone(&observer) as _]);
        let local = LocalTier::new(1 << 20, clock.clone(), events);
        for number in 0..300 {
            publish_with_drop(&local, number, 1, |_, _| {
                FREED_VALUES.fetch_add(1, Ordering::Relaxed);
            });
        }
        FREED_VALUES.store(0, Ordering::Relaxed);
        remove(&local, &clock);
        assert!(observer.has_seen_drop.load(Ordering::Relaxed));
    }
}

#[test]
fn a_capacity_of_zero_stores_nothing() {
    let local = tier(0);
    assert!(!publish(&local, missing_token(&local), WriteMode::Once, 1));
    assert_eq!(stored_number(&local), None);
}

/// A value in a moka cache that is not the tier's own. moka might drop this value while the tier
/// calls moka.
#[derive(Clone)]
struct OtherCacheValue(Arc<TierUsingValue>);

#[test]
fn drops_in_another_moka_cache_may_change_entries() {
    in_time(|| {
        // A few entries exceed half of the capacity, so the policy soon becomes active.
        let local = tier(1 << 16);
        let other_cache = moka::sync::Cache::new(100);
        for number in 0..5000 {
            let drop = |local: &Arc<LocalTier>, number| {
                local.invalidate(&numbered_key(number), None);
            };
            let value = TierUsingValue { local: Arc::downgrade(&local), number: number + 1, drop };
            other_cache.insert(number, OtherCacheValue(Arc::new(value)));
            publish_with_drop(&local, number, 1, |_, _| ());
            local.invalidate(&numbered_key(number / 2), None);
        }
        assert!(other_cache.iter().all(|(number, value)| value.0.number == *number + 1));
    });
}
