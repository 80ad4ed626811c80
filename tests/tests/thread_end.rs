//! While a thread ends, it can still call annotated functions. It can also drop values whose `Drop`
//! uses thread-locals that no longer exist.
//!
//! These tests run in a process of their own because a panic at the end of a thread ends the
//! process.
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

/// Returns a lock that each test must hold. A call can drop values that another test's calls have
/// stored, so the tests must not overlap.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the output of a future that is ready at its first poll.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ready) => ready,
        Poll::Pending => panic!("the future is pending"),
    }
}

fn cache() -> Cache {
    ready(Cache::builder().build()).expect("the settings are valid")
}

thread_local! {
    /// A thread creates `BEFORE` before its first call, and `AFTER` after its first call. So one of
    /// the two is destroyed before the thread-locals of the library, whatever the order of
    /// destruction is.
    static BEFORE: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    static AFTER: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Adds a number to both lists of this thread.
fn use_thread_locals(number: u64) {
    BEFORE.with_borrow_mut(|list| list.push(number));
    AFTER.with_borrow_mut(|list| list.push(number));
}

/// The number of dropped values.
static DROPS: AtomicU64 = AtomicU64::new(0);

/// A value whose `Drop` uses thread-locals and makes a call.
#[derive(Debug, Serialize, Deserialize)]
pub struct CallsOnDrop(u64);

impl Drop for CallsOnDrop {
    fn drop(&mut self) {
        use_thread_locals(self.0);
        assert_eq!(ready(plain(self.0)).expect("the call succeeds"), self.0);
        DROPS.fetch_add(1, Ordering::Relaxed);
    }
}

#[coordinator_cached(name = "plain", version = number)]
async fn plain(number: u64) -> Result<u64, std::io::Error> {
    use_thread_locals(number);
    Ok(number)
}

#[coordinator_cached(name = "uses", overwrite(reason = "a test invalidates the entry"), entry = uses_entry)]
async fn uses(number: u64) -> Result<Arc<CallsOnDrop>, std::io::Error> {
    Ok(Arc::new(CallsOnDrop(number)))
}

/// A value whose `Drop` counts the drop and then panics.
#[derive(Debug, Serialize, Deserialize)]
pub struct PanicsOnDrop(u64);

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        DROPS.fetch_add(1, Ordering::Relaxed);
        panic!("{} is dropped", self.0);
    }
}

#[coordinator_cached(name = "panics", version = number)]
async fn panics(number: u64) -> Result<Arc<PanicsOnDrop>, std::io::Error> {
    Ok(Arc::new(PanicsOnDrop(number)))
}

/// Makes a call. Every call ends by dropping the values whose drop earlier calls have deferred.
fn run_deferred_drops() {
    static NEXT: AtomicU64 = AtomicU64::new(1_000);
    ready(plain(NEXT.fetch_add(1, Ordering::Relaxed))).expect("the call succeeds");
}

/// Dropping a cache drops its values. If one of these drops panics, the next call drops the
/// remaining values.
#[test]
fn values_after_a_panicking_drop_are_dropped() {
    let _lock = one_at_a_time();
    let before = DROPS.load(Ordering::Relaxed);
    let cache = cache();
    for number in 0..3 {
        ready(cache.scope(panics(number))).expect("the call succeeds");
    }
    assert_eq!(DROPS.load(Ordering::Relaxed), before);
    catch_unwind(AssertUnwindSafe(|| drop(cache))).ok();
    // The library's background task might drop some of the values.
    let give_up = Instant::now() + Duration::from_secs(10);
    while DROPS.load(Ordering::Relaxed) < before + 3 && Instant::now() < give_up {
        catch_unwind(run_deferred_drops).ok();
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(DROPS.load(Ordering::Relaxed), before + 3);
}

thread_local! {
    static CALL_AT_EXIT: CallAtExit = const { CallAtExit(RefCell::new(None)) };
}

/// Runs a function when its thread ends.
struct CallAtExit(RefCell<Option<Box<dyn FnOnce()>>>);

impl Drop for CallAtExit {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

/// Runs a function twice on each of two threads, the second time at the thread's end. On one
/// thread, the first run comes after the creation of `CALL_AT_EXIT`. On the other thread, it comes
/// before. So the second run comes after the library's thread-locals are destroyed on one thread,
/// and before that on the other.
fn at_thread_exit(call: impl Fn() + Copy + Send + 'static) {
    for calls_before in [false, true] {
        let thread = thread::spawn(move || {
            // Thread-locals are destroyed in the reverse order of their first use.
            if calls_before {
                call();
            }
            CALL_AT_EXIT.with(|CallAtExit(exit)| exit.replace(Some(Box::new(call))));
            if !calls_before {
                call();
            }
        });
        thread.join().expect("the thread does not panic");
    }
}

#[test]
fn an_ending_thread_can_call() {
    let _lock = one_at_a_time();
    static ANSWERED: AtomicU64 = AtomicU64::new(0);
    at_thread_exit(|| {
        assert_eq!(ready(counted(7)).expect("the call succeeds"), 7);
        ANSWERED.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(ANSWERED.load(Ordering::Relaxed), 4);
}

#[test]
fn an_ending_thread_can_invalidate() {
    let _lock = one_at_a_time();
    static FETCHES: AtomicU64 = AtomicU64::new(0);
    at_thread_exit(|| {
        ready(counted_entry(8).invalidate()).expect("no server can fail");
        FETCHES.fetch_add(fetches_of(8), Ordering::Relaxed);
    });
    // Another thread fetches again after each invalidation.
    assert_eq!(FETCHES.load(Ordering::Relaxed), 4);
}

static FETCHED: AtomicU64 = AtomicU64::new(0);

#[coordinator_cached(name = "counted", overwrite(reason = "a test invalidates the entry"), entry = counted_entry)]
async fn counted(number: u64) -> Result<u64, std::io::Error> {
    FETCHED.fetch_add(1, Ordering::Relaxed);
    Ok(number)
}

/// Calls `counted` twice on another thread and returns the number of fetches.
fn fetches_of(number: u64) -> u64 {
    let call = move || {
        let before = FETCHED.load(Ordering::Relaxed);
        ready(counted(number)).expect("the call succeeds");
        ready(counted(number)).expect("the call succeeds");
        FETCHED.load(Ordering::Relaxed) - before
    };
    thread::spawn(call).join().expect("the call succeeds")
}

/// The local tier's map frees evicted values late: whenever a thread has accessed the map 128
/// times. A thread that then ends must not drop these values, because their `Drop` uses
/// thread-locals.
#[test]
fn an_ending_thread_drops_no_evicted_values() {
    let _lock = one_at_a_time();
    let cache =
        ready(Cache::builder().local_capacity(20_000).build()).expect("the settings are valid");
    for turn in 0..30 {
        let (accessed, has_accessed) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let thread_cache = cache.clone();
        let thread = thread::spawn(move || {
            BEFORE.with_borrow_mut(Vec::clear);
            for _ in 0..128 {
                let invalidated = ready(thread_cache.scope(uses_entry(u64::MAX).invalidate()));
                invalidated.expect("no server can fail");
            }
            AFTER.with_borrow_mut(Vec::clear);
            accessed.send(()).expect("the test waits");
            ends.recv().expect("the test lets the thread end");
        });
        has_accessed.recv().expect("the thread makes its calls");
        for number in 0..130 {
            ready(cache.scope(uses(turn * 130 + number))).expect("the call succeeds");
        }
        end.send(()).expect("the thread waits");
        thread.join().expect("the thread does not panic");
    }
}

/// `std::process::exit` within a request ends the thread while the request tier has answers.
#[test]
fn a_program_may_exit_within_a_request() {
    const NAME: &str = "a_program_may_exit_within_a_request";
    const ENDS: &str = "ENDS_IN_A_REQUEST";
    if std::env::var_os(ENDS).is_some() {
        ready(RequestScope::new().run(async {
            assert_eq!(ready(uses(1)).expect("the call succeeds").0, 1);
            std::process::exit(7);
        }));
    }
    let program = std::env::current_exe().expect("the test knows its program");
    let ran = Command::new(program).args(["--exact", NAME]).env(ENDS, "yes").output();
    let ran = ran.expect("the program starts");
    assert_eq!(ran.status.code(), Some(7), "{}", String::from_utf8_lossy(&ran.stderr));
}
