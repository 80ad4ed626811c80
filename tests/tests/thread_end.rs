//! A thread that ends lets go of values whose own `Drop` needs more than is left of the thread. In a
//! program of its own: a panic at the end of a thread ends the program.
#![allow(missing_docs)]

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use cached_core::{Cache, RequestScope, coordinator_cached};
use serde::{Deserialize, Serialize};

/// Whoever looks drops what others have put aside, so the tests take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answer of what waits for nobody.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ready) => ready,
        Poll::Pending => panic!("it waits"),
    }
}

fn cache() -> Cache {
    at_once(Cache::builder().build()).expect("it fits")
}

thread_local! {
    /// One is there before the thread's first call, one after it: whatever the order in which they go,
    /// one has gone before what a call needs.
    static BEFORE: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    static AFTER: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Puts a number down in this thread's own lists.
fn put_down(number: u64) {
    BEFORE.with_borrow_mut(|list| list.push(number));
    AFTER.with_borrow_mut(|list| list.push(number));
}

static PUT_DOWN: AtomicU64 = AtomicU64::new(0);

/// When it is dropped it uses its thread's own lists, and makes a call.
#[derive(Debug, Serialize, Deserialize)]
pub struct Uses(u64);

impl Drop for Uses {
    fn drop(&mut self) {
        put_down(self.0);
        assert_eq!(at_once(plain(self.0)).expect("it answers"), self.0);
        PUT_DOWN.fetch_add(1, Ordering::Relaxed);
    }
}

#[coordinator_cached(name = "plain", version = number)]
async fn plain(number: u64) -> Result<u64, std::io::Error> {
    put_down(number);
    Ok(number)
}

#[coordinator_cached(name = "uses", overwrite(reason = "it is removed"), entry = uses_entry)]
async fn uses(number: u64) -> Result<Arc<Uses>, std::io::Error> {
    Ok(Arc::new(Uses(number)))
}

/// Panics when it is dropped, once it said so.
#[derive(Debug, Serialize, Deserialize)]
pub struct Panics(u64);

impl Drop for Panics {
    fn drop(&mut self) {
        PUT_DOWN.fetch_add(1, Ordering::Relaxed);
        panic!("{} is dropped", self.0);
    }
}

#[coordinator_cached(name = "panics", version = number)]
async fn panics(number: u64) -> Result<Arc<Panics>, std::io::Error> {
    Ok(Arc::new(Panics(number)))
}

/// Makes a call, of which the last part drops what was put aside.
fn look() {
    static NEXT: AtomicU64 = AtomicU64::new(1_000);
    at_once(plain(NEXT.fetch_add(1, Ordering::Relaxed))).expect("it answers");
}

/// Each goes with the cache. One that panics ends the drop of the cache, and the next look drops the rest.
#[test]
fn one_that_panics_when_it_is_dropped_takes_no_other_with_it() {
    let _turn = turn();
    let before = PUT_DOWN.load(Ordering::Relaxed);
    let cache = cache();
    for number in 0..3 {
        at_once(cache.scope(panics(number))).expect("it answers");
    }
    assert_eq!(PUT_DOWN.load(Ordering::Relaxed), before);
    catch_unwind(AssertUnwindSafe(|| drop(cache))).ok();
    // The sweeper may drop some of them.
    let give_up = Instant::now() + Duration::from_secs(10);
    while PUT_DOWN.load(Ordering::Relaxed) < before + 3 && Instant::now() < give_up {
        catch_unwind(look).ok();
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(PUT_DOWN.load(Ordering::Relaxed), before + 3);
}

thread_local! {
    static AT_THE_END: AtTheEnd = const { AtTheEnd(RefCell::new(None)) };
}

/// Makes a call when its thread ends.
struct AtTheEnd(RefCell<Option<Box<dyn FnOnce()>>>);

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

/// On a thread that has made a call before, or not: the end of that takes away what a call needs.
fn at_the_end_of_a_thread(call: impl Fn() + Copy + Send + 'static) {
    for calls_before in [false, true] {
        let thread = thread::spawn(move || {
            // What is used first goes last.
            if calls_before {
                call();
            }
            AT_THE_END.with(|AtTheEnd(at_the_end)| at_the_end.replace(Some(Box::new(call))));
            if !calls_before {
                call();
            }
        });
        thread.join().expect("it ends");
    }
}

#[test]
fn a_call_at_the_end_of_a_thread_is_answered() {
    let _turn = turn();
    static ANSWERED: AtomicU64 = AtomicU64::new(0);
    at_the_end_of_a_thread(|| {
        assert_eq!(at_once(counted(7)).expect("it answers"), 7);
        ANSWERED.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(ANSWERED.load(Ordering::Relaxed), 4);
}

#[test]
fn what_is_invalidated_at_the_end_of_a_thread_is_gone() {
    let _turn = turn();
    static FETCHES: AtomicU64 = AtomicU64::new(0);
    at_the_end_of_a_thread(|| {
        at_once(counted_entry(8).invalidate()).expect("there is no memcached");
        FETCHES.fetch_add(fetches_of(8), Ordering::Relaxed);
    });
    // Each was fetched anew after that, by another thread.
    assert_eq!(FETCHES.load(Ordering::Relaxed), 4);
}

static FETCHED: AtomicU64 = AtomicU64::new(0);

#[coordinator_cached(name = "counted", overwrite(reason = "it is removed"), entry = counted_entry)]
async fn counted(number: u64) -> Result<u64, std::io::Error> {
    FETCHED.fetch_add(1, Ordering::Relaxed);
    Ok(number)
}

/// How often a call on a thread of its own, which goes on, fetches.
fn fetches_of(number: u64) -> u64 {
    let call = move || {
        let before = FETCHED.load(Ordering::Relaxed);
        at_once(counted(number)).expect("it answers");
        at_once(counted(number)).expect("it answers");
        FETCHED.load(Ordering::Relaxed) - before
    };
    thread::spawn(call).join().expect("it answers")
}

/// The map collects the garbage of all threads wherever it comes to that: every 128 times that a
/// thread looks into it, and so also where one that has looked as often ends.
#[test]
fn what_the_store_makes_room_with_is_not_dropped_at_the_end_of_a_thread() {
    let _turn = turn();
    let cache = at_once(Cache::builder().local_capacity(20_000).build()).expect("it fits");
    for turn in 0..30 {
        let (looked, has_looked) = mpsc::channel();
        let (ends, is_to_end) = mpsc::channel::<()>();
        let of_thread = cache.clone();
        let thread = thread::spawn(move || {
            BEFORE.with_borrow_mut(Vec::clear);
            for _ in 0..128 {
                let invalidated = at_once(of_thread.scope(uses_entry(u64::MAX).invalidate()));
                invalidated.expect("there is no memcached");
            }
            AFTER.with_borrow_mut(Vec::clear);
            looked.send(()).expect("somebody waits");
            is_to_end.recv().expect("somebody says so");
        });
        has_looked.recv().expect("it looks");
        for number in 0..130 {
            at_once(cache.scope(uses(turn * 130 + number))).expect("it answers");
        }
        ends.send(()).expect("somebody waits");
        thread.join().expect("it ends");
    }
}

/// Who ends the program in a request ends its thread there, with the answers.
#[test]
fn a_program_that_ends_in_a_request_ends_as_it_says() {
    const NAME: &str = "a_program_that_ends_in_a_request_ends_as_it_says";
    const ENDS: &str = "ENDS_IN_A_REQUEST";
    if std::env::var_os(ENDS).is_some() {
        at_once(RequestScope::new().run(async {
            assert_eq!(at_once(uses(1)).expect("it answers").0, 1);
            std::process::exit(7);
        }));
    }
    let program = std::env::current_exe().expect("it runs");
    let ran = Command::new(program).args(["--exact", NAME]).env(ENDS, "yes").output();
    let ran = ran.expect("it starts");
    assert_eq!(ran.status.code(), Some(7), "{}", String::from_utf8_lossy(&ran.stderr));
}
