//! Leaders of one process: those that panic, those that are slow, those whose runtime stands still, and
//! those of a forked process.
#![allow(missing_docs)]

use std::process::Command;
use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Down, Upstream};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

async fn local() -> Cache {
    Cache::builder().build().await.expect("the defaults fit")
}

#[coordinator_cached(name = "always_panics", version = number, skip(upstream))]
async fn always_panics(upstream: &Upstream, number: u32) -> Result<u32, Down> {
    upstream.answer().await?;
    // Without the panic hook: fifty backtraces take longer than the calls.
    std::panic::resume_unwind(Box::new(number))
}

#[tokio::test]
async fn callers_of_a_fetch_that_panics_wait_for_no_more_than_two_others() {
    let cache = local().await;
    let upstream = Upstream::default().taking(100);
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
    assert!(began.elapsed() < Duration::from_millis(600), "{:?}", began.elapsed());
    assert_eq!(upstream.fetches(), 50);
}

#[coordinator_cached(name = "slow", version = number, skip(upstream))]
async fn slow(upstream: &Upstream, number: u32) -> Result<usize, Down> {
    upstream.answer().await
}

#[tokio::test]
#[ignore = "takes 45 s; `cargo test -p cached-tests --test leaders -- --ignored`"]
async fn a_fetch_of_45_s_is_one_fetch() {
    let cache = local().await;
    let upstream = Upstream::default().taking(45_000);
    let began = Instant::now();
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(cache.scope(async move { slow(&upstream, 7).await }))
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no call panics"), Ok(1));
    }
    assert!(began.elapsed() < Duration::from_secs(46), "{:?}", began.elapsed());
}

/// How long the call of a forked process takes, in milliseconds.
fn call_of_a_child(child: &str) -> u64 {
    let mut program = Command::new(env!("CARGO_BIN_EXE_forks"));
    let program = program.env("CHILD", child).output().expect("it starts");
    let (output, error) = (String::from_utf8_lossy(&program.stdout), program.stderr);
    assert!(program.status.success(), "{}", String::from_utf8_lossy(&error));
    output.trim().parse().expect("milliseconds")
}

#[test]
fn a_held_leader_is_relieved_in_a_forked_process() {
    let took = call_of_a_child("holds");
    assert!(took < 3000, "{took} ms");
}

#[test]
fn a_forked_process_does_not_wait_for_a_leader_of_its_parent() {
    let took = call_of_a_child("inherits");
    assert!(took < 500, "{took} ms");
}

fn one_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Begins a call on the runtime, whose fetch is then under way.
fn begin(runtime: &Runtime, cache: &Cache, upstream: &Upstream) -> JoinHandle<Result<usize, Down>> {
    let upstream = upstream.clone();
    let call = runtime.spawn(cache.scope(async move { slow(&upstream, 8).await }));
    runtime.block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
    call
}

#[test]
fn a_leader_whose_runtime_is_not_driven_is_relieved_by_one_on_another() {
    let (idle, other) = (one_thread(), one_thread());
    let cache = other.block_on(local());
    let upstream = Upstream::default().taking(1000);
    let first = begin(&idle, &cache, &upstream);
    // They come first, and can no more take the lead.
    let stuck: Vec<_> = (0..3).map(|_| begin(&idle, &cache, &upstream)).collect();
    let began = Instant::now();
    assert_eq!(other.block_on(cache.scope(slow(&upstream, 8))), Ok(2));
    assert!(began.elapsed() < Duration::from_millis(3500), "{:?}", began.elapsed());
    // Driven again, all get the answer that there is.
    for call in stuck.into_iter().chain([first]) {
        assert_eq!(idle.block_on(call).expect("no call panics"), Ok(2));
    }
    assert_eq!(upstream.fetches(), 2);
}

#[test]
fn a_leader_whose_runtime_is_blocked_is_relieved() {
    let (blocked, other) = (one_thread(), one_thread());
    let cache = other.block_on(local());
    let upstream = Upstream::default().taking(200);
    let first = begin(&blocked, &cache, &upstream);
    let thread = std::thread::spawn(move || {
        blocked.block_on(async { std::thread::sleep(Duration::from_secs(6)) });
        blocked.block_on(first).expect("no call panics")
    });
    let began = Instant::now();
    assert_eq!(other.block_on(cache.scope(slow(&upstream, 8))), Ok(2));
    assert!(began.elapsed() < Duration::from_millis(3500), "{:?}", began.elapsed());
    assert_eq!(thread.join().expect("no call panics"), Ok(2));
}

/// Its timer is silent for all that time, and its runtime is driven.
#[test]
fn a_slow_fetch_on_a_runtime_that_is_driven_is_one_fetch() {
    let many_threads = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    for slow_one in [one_thread(), many_threads.expect("a runtime")] {
        let other = one_thread();
        let cache = other.block_on(local());
        let upstream = Upstream::default().taking(5000);
        let first = begin(&slow_one, &cache, &upstream);
        let thread = std::thread::spawn(move || slow_one.block_on(first).expect("no call panics"));
        assert_eq!(other.block_on(cache.scope(slow(&upstream, 8))), Ok(1));
        assert_eq!(thread.join().expect("no call panics"), Ok(1));
        assert_eq!(upstream.fetches(), 1);
    }
}
