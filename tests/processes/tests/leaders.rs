//! Tests of the *leader*. If several calls need the same value, the leader is the call that
//! fetches, which means that it runs the cached function. The other calls wait for its answer. In
//! these tests, the leader panics, is slow, stops because its runtime runs no tasks, or belongs to
//! the parent of a forked process.
//!
//! These tests have a process of their own, because they measure time.
#![allow(missing_docs)]

use std::process::Command;
use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Upstream, UpstreamDown};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

async fn local_cache() -> Cache {
    Cache::builder().build().await.expect("the settings are valid")
}

#[coordinator_cached(name = "always_panics", version = number, skip(upstream))]
async fn always_panics(upstream: &Upstream, number: u32) -> Result<u32, UpstreamDown> {
    upstream.fetch().await?;
    // `resume_unwind` does not call the panic hook, which would print fifty backtraces. That would
    // take longer than the calls.
    std::panic::resume_unwind(Box::new(number))
}

#[tokio::test]
async fn callers_wait_for_at_most_two_panicking_fetches() {
    let cache = local_cache().await;
    let upstream = Upstream::default().taking_millis(100);
    let began = Instant::now();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(cache.scope(async move { always_panics(&upstream, 7).await }))
        })
        .collect();
    for call in calls {
        assert!(call.await.is_err_and(|error| error.is_panic()));
    }
    let took = began.elapsed();
    assert!(took < Duration::from_millis(600), "no caller waits for a third fetch: {took:?}");
    assert_eq!(upstream.fetches(), 50);
}

#[coordinator_cached(name = "slow", version = number, skip(upstream))]
async fn slow(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
#[ignore = "takes 45 s; `cargo test -p cached-process-tests --test leaders -- --ignored`"]
async fn a_fetch_of_45_s_is_one_fetch() {
    let cache = local_cache().await;
    let upstream = Upstream::default().taking_millis(45_000);
    let began = Instant::now();
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(cache.scope(async move { slow(&upstream, 7).await }))
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no task panics"), Ok(1));
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(46), "the callers share one fetch: {took:?}");
}

/// Returns how many milliseconds the call of a forked process takes.
fn millis_of_child_call(child: &str) -> u64 {
    let mut program = Command::new(env!("CARGO_BIN_EXE_forks"));
    let program = program.env("CHILD", child).output().expect("the program starts");
    let (output, error) = (String::from_utf8_lossy(&program.stdout), program.stderr);
    assert!(program.status.success(), "{}", String::from_utf8_lossy(&error));
    output.trim().parse().expect("the output is a number")
}

#[test]
fn a_forked_process_replaces_an_unpolled_leader() {
    let took = millis_of_child_call("holds");
    assert!(took < 3000, "the child soon replaces the leader: {took} ms");
}

#[test]
fn a_forked_process_ignores_its_parents_leader() {
    let took = millis_of_child_call("inherits");
    assert!(took < 500, "the child does not wait for the parent's fetch: {took} ms");
}

#[test]
fn a_forked_process_ignores_its_parents_writes() {
    let took = millis_of_child_call("flushes");
    assert!(took < 4000, "the child does not wait for the parent's write: {took} ms");
}

fn one_thread_runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("the runtime starts")
}

/// Starts a call on a runtime and drives the runtime until the fetch has begun.
fn start_call(
    runtime: &Runtime,
    cache: &Cache,
    upstream: &Upstream,
) -> JoinHandle<Result<usize, UpstreamDown>> {
    let upstream = upstream.clone();
    let call = runtime.spawn(cache.scope(async move { slow(&upstream, 8).await }));
    runtime.block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
    call
}

#[test]
fn a_leader_on_an_idle_runtime_is_replaced() {
    let (idle, other) = (one_thread_runtime(), one_thread_runtime());
    let cache = other.block_on(local_cache());
    let upstream = Upstream::default().taking_millis(1000);
    let first = start_call(&idle, &cache, &upstream);
    // These callers are the first in line to replace the leader. They cannot do so, because their
    // runtime is idle too.
    let stuck: Vec<_> = (0..3).map(|_| start_call(&idle, &cache, &upstream)).collect();
    let began = Instant::now();
    assert_eq!(other.block_on(cache.scope(slow(&upstream, 8))), Ok(2));
    let took = began.elapsed();
    assert!(took < Duration::from_millis(3500), "the caller soon fetches itself: {took:?}");
    // Once something drives the runtime again, all callers get the answer.
    for call in stuck.into_iter().chain([first]) {
        assert_eq!(idle.block_on(call).expect("no task panics"), Ok(2));
    }
    assert_eq!(upstream.fetches(), 2);
}

#[test]
fn a_leader_on_a_blocked_runtime_is_replaced() {
    let (blocked, other) = (one_thread_runtime(), one_thread_runtime());
    let cache = other.block_on(local_cache());
    let upstream = Upstream::default().taking_millis(200);
    let first = start_call(&blocked, &cache, &upstream);
    let thread = std::thread::spawn(move || {
        blocked.block_on(async { std::thread::sleep(Duration::from_secs(6)) });
        blocked.block_on(first).expect("no task panics")
    });
    let began = Instant::now();
    assert_eq!(other.block_on(cache.scope(slow(&upstream, 8))), Ok(2));
    let took = began.elapsed();
    assert!(took < Duration::from_millis(3500), "the caller soon fetches itself: {took:?}");
    assert_eq!(thread.join().expect("no task panics"), Ok(2));
}

/// The fetch takes long, and is neither woken nor polled meanwhile. Its runtime runs other tasks.
#[test]
fn a_slow_fetch_keeps_the_lead() {
    let many_threads = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    for slow_one in [one_thread_runtime(), many_threads.expect("the runtime starts")] {
        let other = one_thread_runtime();
        let cache = other.block_on(local_cache());
        let upstream = Upstream::default().taking_millis(5000);
        let first = start_call(&slow_one, &cache, &upstream);
        let thread = std::thread::spawn(move || slow_one.block_on(first).expect("no task panics"));
        assert_eq!(other.block_on(cache.scope(slow(&upstream, 8))), Ok(1));
        assert_eq!(thread.join().expect("no task panics"), Ok(1));
        assert_eq!(upstream.fetches(), 1);
    }
}
