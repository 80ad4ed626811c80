//! Many callers share a few connections. A caller that is cancelled or no longer polled disturbs no
//! other caller.
//!
//! These tests run in a process of their own because they count connections under load.
#![allow(missing_docs)]

use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Memcached, Upstream, UpstreamDown, poll_once};

/// Returns the square of a number. The function has no local tier, so each call reads memcached.
#[coordinator_cached(
    name = "square",
    version = number,
    local = false,
    skip(upstream),
    entry = square_entry
)]
async fn square(upstream: &Upstream, number: u64) -> Result<u64, UpstreamDown> {
    upstream.fetch().await?;
    Ok(number * number)
}

#[coordinator_cached(
    name = "counted",
    overwrite(reason = "the count goes up with time"),
    local = false,
    skip(upstream),
    entry = counted_entry
)]
async fn counted(upstream: &Upstream, number: u64) -> Result<usize, UpstreamDown> {
    let _ = number;
    upstream.fetch().await
}

/// Returns a cache like that of a new process: it shares only memcached with other caches.
async fn new_process_cache(memcached: &Memcached, timeout_secs: u64) -> Cache {
    // The lease, which is the right of one caller to fetch, is so long that it does not end early
    // on a busy machine.
    let lease = Duration::from_secs(60);
    let builder = Cache::builder().memcached([memcached.address()]).lease(lease);
    builder
        .remote_timeout(Duration::from_secs(timeout_secs))
        .build()
        .await
        .expect("the settings are valid")
}

/// Polls a future up to `times` times. Returns the output if the future is ready by then.
async fn poll_some<F: Future>(mut future: Pin<&mut F>, times: usize) -> Option<F::Output> {
    for _ in 0..times {
        if let Some(output) = poll_once(future.as_mut()).await {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_share_a_few_connections() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached, 10).await;
    let upstream = Upstream::default();
    let before = memcached.stat("total_connections");
    for _ in 0..2 {
        let calls: Vec<_> = (0..1000)
            .map(|number| {
                let upstream = upstream.clone();
                tokio::spawn(cache.scope(async move { square(&upstream, number).await }))
            })
            .collect();
        for (number, call) in (0u64..).zip(calls) {
            assert_eq!(call.await.expect("no task panics"), Ok(number * number));
        }
        cache.flush().await;
    }
    assert_eq!(upstream.fetches(), 1000, "the second round finds every value");
    // Calls and background work each use at most six connections for single commands, and two for
    // batches. One more connection reads `total_connections`.
    let connections = memcached.stat("total_connections") - before - 1;
    assert!(connections <= 16, "at most 16 connections are opened: {connections}");
}

/// Cancels about a third of the callers after some polls. Checks that each answer belongs to its
/// caller.
async fn assert_each_caller_gets_its_answer(cache: Cache) {
    let upstream = Upstream::default();
    for number in 0..200 {
        cache.scope(square(&upstream, number)).await.expect("the call succeeds");
    }
    cache.flush().await;
    for round in 0..10 {
        let calls: Vec<_> = (0..600u64)
            .map(|caller| {
                let upstream = upstream.clone();
                let number = (caller * 7 + round) % 200;
                tokio::spawn(cache.scope(async move {
                    let mut call = Box::pin(square(&upstream, number));
                    let answer = match caller % 3 {
                        0 => poll_some(call.as_mut(), (caller % 5) as usize + 1).await,
                        _ => Some(call.await),
                    };
                    assert!(
                        answer.is_none_or(|answer| answer == Ok(number * number)),
                        "the answer belongs to the caller"
                    );
                }))
            })
            .collect();
        for call in calls {
            call.await.expect("no task panics");
        }
    }
    assert_eq!(upstream.fetches(), 200, "no command is lost");
    assert_eq!(cache.stats().total().remote_errors, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_get_their_own_answers_on_many_threads() {
    let memcached = Memcached::start();
    assert_each_caller_gets_its_answer(new_process_cache(&memcached, 10).await).await;
}

#[tokio::test]
async fn callers_get_their_own_answers_on_one_thread() {
    let memcached = Memcached::start();
    assert_each_caller_gets_its_answer(new_process_cache(&memcached, 10).await).await;
}

#[tokio::test]
async fn cancelled_callers_leave_no_lease_behind() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached, 5).await;
    let upstream = Upstream::default();
    cache.scope(async { assert!(!square_entry(0).get().await.is_found()) }).await;
    memcached.suspend();
    {
        // The first call sends its command itself. The commands of the other calls are sent in a
        // batch.
        let mut calls: Vec<_> =
            (0..20).map(|number| Box::pin(cache.scope(square(&upstream, number)))).collect();
        for call in &mut calls {
            assert!(poll_some(call.as_mut(), 1).await.is_none());
        }
        // This is long enough for the commands to be sent or queued.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    memcached.resume();
    let other = new_process_cache(&memcached, 5).await;
    let began = Instant::now();
    for number in 0..20 {
        assert_eq!(other.scope(square(&upstream, number)).await, Ok(number * number));
    }
    let took = began.elapsed();
    assert!(took < Duration::from_millis(2500), "no call waits for a lease: {took:?}");
    assert_eq!(upstream.fetches(), 20);
}

#[tokio::test]
async fn an_unpolled_caller_delays_no_other_caller() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached, 5).await;
    let upstream = Upstream::default();
    cache
        .scope(async {
            for number in 0..50 {
                square(&upstream, number).await.expect("the call succeeds");
            }
            Cache::current().flush().await;
            let mut held = pin!(square(&upstream, 0));
            assert!(poll_some(held.as_mut(), 1).await.is_none(), "the call is not ready");
            let began = Instant::now();
            for number in 1..50 {
                assert_eq!(square(&upstream, number).await, Ok(number * number));
            }
            let took = began.elapsed();
            assert!(
                took < Duration::from_millis(2500),
                "no call waits for the unpolled one: {took:?}"
            );
            assert_eq!(held.await, Ok(0));
            assert_eq!(upstream.fetches(), 50);
        })
        .await;
}

#[test]
fn queued_commands_end_with_their_runtime() {
    let memcached = Memcached::start();
    let runtime = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("the runtime starts")
    };
    let first = runtime();
    let cache = first.block_on(new_process_cache(&memcached, 20));
    let upstream = Upstream::default();
    first.block_on(async {
        cache.scope(square(&upstream, 0)).await.expect("the call succeeds");
        memcached.suspend();
        for number in 0..100 {
            let upstream = upstream.clone();
            tokio::spawn(cache.scope(async move { square(&upstream, number).await }));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    });
    // The first runtime sends the command of this call and ends. A second runtime then polls the
    // call.
    let mut outside = Box::pin(cache.scope(square(&upstream, 101)));
    first.block_on(async { assert!(poll_some(outside.as_mut(), 1).await.is_none()) });
    drop(first);
    memcached.resume();
    let began = Instant::now();
    let second = runtime();
    assert_eq!(second.block_on(outside), Ok(101 * 101));
    for number in 0..100 {
        let answer = second.block_on(cache.scope(square(&upstream, number)));
        assert_eq!(answer, Ok(number * number));
    }
    second.block_on(cache.flush());
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "no call waits for the ended runtime: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_never_reads_a_value_it_invalidated() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached, 10).await;
    let upstream = Upstream::default();
    let callers: Vec<_> = (0..64)
        .map(|caller| {
            let upstream = upstream.clone();
            tokio::spawn(cache.scope(async move {
                for _ in 0..20 {
                    let before = counted(&upstream, caller).await.expect("the call succeeds");
                    counted_entry(caller).invalidate().await.expect("memcached is reached");
                    let after = counted(&upstream, caller).await.expect("the call succeeds");
                    assert!(after > before, "the second value is newer: {before}, then {after}");
                }
            }))
        })
        .collect();
    for caller in callers {
        caller.await.expect("no caller reads an old value");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_value_fails_alone_and_ejects_nothing() {
    #[coordinator_cached(name = "large", version = number, skip(upstream), local = false)]
    async fn large(upstream: &Upstream, number: u64) -> Result<String, UpstreamDown> {
        upstream.fetch().await?;
        Ok("x".repeat(if number % 5 == 0 { 1100 << 10 } else { 10 << 10 }))
    }
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached, 10).await;
    let upstream = Upstream::default();
    for _ in 0..2 {
        let calls: Vec<_> = (0..20)
            .map(|number| {
                let upstream = upstream.clone();
                tokio::spawn(cache.scope(async move { large(&upstream, number).await }))
            })
            .collect();
        for call in calls {
            call.await.expect("no task panics").expect("the call succeeds");
        }
        cache.flush().await;
    }
    let stats = cache.stats().get("large").expect("the function was called");
    assert_eq!((stats.fetches, stats.remote_hits, stats.fills), (24, 16, 16), "{stats:?}");
    // A server that refuses several values in a row is not ejected: the process continues to use
    // it.
    for number in (100..140).step_by(5) {
        cache.scope(large(&upstream, number)).await.expect("the call succeeds");
        cache.flush().await;
    }
    cache.scope(large(&upstream, 1)).await.expect("the call succeeds");
    let stats = cache.stats().get("large").expect("the function was called");
    assert_eq!((stats.fetches, stats.remote_hits), (32, 17), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fills_delay_no_caller_and_are_stored_later() {
    #[coordinator_cached(name = "gated", version = number, skip(upstream, gate), local = false)]
    async fn gated(
        upstream: &Upstream,
        gate: tokio::sync::watch::Receiver<bool>,
        number: u64,
    ) -> Result<u64, UpstreamDown> {
        upstream.fetch().await?;
        let mut gate = gate;
        gate.wait_for(|open| *open).await.map_err(|_| UpstreamDown)?;
        Ok(number)
    }
    const CALLS: u64 = 5000;
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached, 30).await;
    let upstream = Upstream::default();
    let (open, gate) = tokio::sync::watch::channel(false);
    let calls: Vec<_> = (0..CALLS)
        .map(|number| {
            let (upstream, gate) = (upstream.clone(), gate.clone());
            tokio::spawn(cache.scope(async move { gated(&upstream, gate, number).await }))
        })
        .collect();
    while upstream.fetches() < CALLS as usize {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Each call holds a lease. Every caller is answered although memcached is suspended.
    memcached.suspend();
    open.send(true).expect("the fetches wait");
    for (number, call) in (0..CALLS).zip(calls) {
        assert_eq!(call.await.expect("no task panics"), Ok(number));
    }
    let stats = cache.stats().get("gated").expect("the function was called");
    assert_eq!((stats.fills, stats.fills_dropped), (0, 0));
    memcached.resume();
    cache.flush().await;
    let stats = cache.stats().get("gated").expect("the function was called");
    assert_eq!(stats.fills + stats.fills_dropped, CALLS, "{stats:?}");
    assert!(stats.fills > CALLS * 9 / 10, "most fills are stored: {stats:?}");
}
