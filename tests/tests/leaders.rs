//! Leaders of one process: those that panic, those that are slow, and those of a forked process.
#![allow(missing_docs)]

use std::process::Command;
use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Down, Upstream};

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

#[test]
fn a_held_leader_is_relieved_in_a_forked_process() {
    let program = Command::new(env!("CARGO_BIN_EXE_forks")).output().expect("it starts");
    let (output, error) = (String::from_utf8_lossy(&program.stdout), program.stderr);
    assert!(program.status.success(), "{}", String::from_utf8_lossy(&error));
    let took: u64 = output.trim().parse().expect("milliseconds");
    assert!(took < 3000, "{took} ms");
}
