//! Single-flight: one call, the *leader*, fetches for all calls of a key. The other calls, its
//! *followers*, wait. If the leader cannot go on, a follower takes the lead.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Upstream, UpstreamDown, poll_once};
use tokio::task::JoinHandle;

use crate::functions::{Payment, PaymentState, local_cache, payment};

/// Calls `payment` with one key in `count` tasks.
fn spawn_payments(
    cache: &Cache,
    upstream: &Upstream,
    count: usize,
) -> Vec<JoinHandle<Result<Payment, UpstreamDown>>> {
    let call = || {
        let upstream = upstream.clone();
        tokio::spawn(cache.scope(async move { payment(&upstream, "7", PaymentState::Paid).await }))
    };
    (0..count).map(|_| call()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_of_one_key_fetch_once() {
    let cache = local_cache().await;
    let upstream = Upstream::default().taking_millis(50);
    for call in spawn_payments(&cache, &upstream, 1000) {
        assert_eq!(call.await.expect("no task panics").expect("the call succeeds").fetched, 1);
    }
    assert_eq!(upstream.fetches(), 1);
    let stats = cache.stats().get("payment").expect("the function was called");
    assert_eq!((stats.fetches, stats.waits + stats.local_hits), (1, 999));
}

#[tokio::test]
async fn an_error_reaches_every_follower_at_once() {
    let cache = local_cache().await;
    let upstream = Upstream::default().taking_millis(300);
    upstream.fail();
    for call in spawn_payments(&cache, &upstream, 10) {
        assert_eq!(call.await.expect("no task panics"), Err(UpstreamDown));
    }
    assert_eq!(upstream.fetches(), 1);
}

/// An error that followers cannot share.
#[derive(Debug)]
pub(crate) struct UnshareableError;

#[coordinator_cached(name = "unshared", version = number, skip(upstream))]
pub(crate) async fn unshared(upstream: &Upstream, number: u32) -> Result<u32, UnshareableError> {
    upstream.fetch().await.map_err(|UpstreamDown| UnshareableError)?;
    Ok(number)
}

#[tokio::test]
async fn followers_of_an_unshareable_error_also_fetch() {
    let cache = local_cache().await;
    let upstream = Upstream::default().taking_millis(20);
    upstream.fail();
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(cache.scope(async move { unshared(&upstream, 7).await }))
        })
        .collect();
    for call in calls {
        assert!(call.await.expect("no task panics").is_err());
    }
    assert_eq!(upstream.fetches(), 5);
}

#[coordinator_cached(name = "stepwise", version = number, skip(upstream))]
async fn stepwise(upstream: &Upstream, number: u32) -> Result<u32, UpstreamDown> {
    upstream.fetch().await?;
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
    Ok(number)
}

#[tokio::test]
async fn a_cancelled_leader_hands_over_at_any_await() {
    for polls in 1..=4 {
        let cache = local_cache().await;
        let upstream = Upstream::default();
        let followers: Vec<_> = cache
            .scope(async {
                let mut leader = Box::pin(stepwise(&upstream, 7));
                for _ in 0..polls {
                    let polled = poll_once(leader.as_mut()).await;
                    assert!(polled.is_none());
                }
                let followers = (0..20)
                    .map(|_| {
                        let upstream = upstream.clone();
                        tokio::spawn(cache.scope(async move { stepwise(&upstream, 7).await }))
                    })
                    .collect();
                tokio::task::yield_now().await;
                drop(leader);
                followers
            })
            .await;
        let began = Instant::now();
        for follower in followers {
            assert_eq!(follower.await.expect("no task panics"), Ok(7));
        }
        assert!(
            began.elapsed() < Duration::from_millis(800),
            "a follower takes the lead at once, after {polls} polls"
        );
        let fetches = upstream.fetches();
        assert!(fetches <= 2, "one follower fetches, after {polls} polls: {fetches} fetches");
    }
}

#[coordinator_cached(name = "panics_once", version = number, skip(upstream))]
async fn panics_once(upstream: &Upstream, number: u32) -> Result<u32, UpstreamDown> {
    assert!(upstream.fetch().await != Ok(1), "the first fetch panics");
    Ok(number)
}

#[tokio::test]
async fn a_panicking_leader_hands_over() {
    let cache = local_cache().await;
    let upstream = Upstream::default().taking_millis(20);
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(cache.scope(async move { panics_once(&upstream, 7).await }))
        })
        .collect();
    let mut panicked = 0;
    for call in calls {
        match call.await {
            Ok(answer) => assert_eq!(answer, Ok(7)),
            Err(error) if error.is_panic() => panicked += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((panicked, upstream.fetches()), (1, 2));
    assert_eq!(cache.scope(panics_once(&upstream, 7)).await, Ok(7));
    assert_eq!(upstream.fetches(), 2);
}

#[tokio::test]
async fn an_unpolled_leader_soon_loses_the_lead() {
    let upstream = Upstream::default().taking_millis(20);
    local_cache()
        .await
        .scope(async {
            let mut held = pin!(payment(&upstream, "7", PaymentState::Paid));
            assert!(poll_once(held.as_mut()).await.is_none());
            let began = Instant::now();
            let answer =
                payment(&upstream, "7", PaymentState::Paid).await.expect("the call succeeds");
            let took = began.elapsed();
            assert!(took < Duration::from_millis(2000), "the follower soon fetches: {took:?}");
            assert_eq!(answer.fetched, 2);
            // The held leader still returns the result of its own fetch. This result does not
            // replace the cached entry.
            assert_eq!(held.await.expect("the call succeeds").number, "7");
            assert_eq!(payment(&upstream, "7", PaymentState::Paid).await, Ok(answer));
            assert_eq!(upstream.fetches(), 2);
        })
        .await;
}

#[tokio::test]
async fn a_slow_fetch_stays_one_fetch() {
    let cache = local_cache().await;
    let upstream = Upstream::default().taking_millis(3000);
    for call in spawn_payments(&cache, &upstream, 10) {
        assert_eq!(call.await.expect("no task panics").expect("the call succeeds").fetched, 1);
    }
    assert_eq!(upstream.fetches(), 1);
}

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

#[coordinator_cached(name = "recursive", version = number)]
async fn recursive(number: u32) -> Result<usize, UpstreamDown> {
    let depth = DEPTH.get();
    if depth == 2 {
        return Ok(depth);
    }
    DEPTH.set(depth + 1);
    Box::pin(recursive(number)).await
}

#[tokio::test]
async fn a_recursive_call_does_not_deadlock() {
    let cache = local_cache().await;
    let answer = tokio::time::timeout(Duration::from_secs(5), cache.scope(recursive(7))).await;
    assert_eq!(answer.expect("the call ends"), Ok(2));
}

/// A gate at which a call stops. The call has then looked in the local tier, and is not yet a
/// leader or a follower.
struct CallGate {
    reached: std::sync::mpsc::Sender<()>,
    opened: std::sync::mpsc::Receiver<()>,
}

/// Returns the ttl of `gated`. A call computes its ttl after its lookup, so the gate can hold the
/// call here.
fn ttl_at_gate(gate: Option<&CallGate>) -> Duration {
    if let Some(gate) = gate {
        gate.reached.send(()).expect("the test waits");
        gate.opened.recv().expect("the test opens the gate");
    }
    Duration::from_secs(60)
}

#[coordinator_cached(name = "gated", version = number, ttl = ttl_at_gate(gate), skip(upstream, gate))]
async fn gated(
    upstream: &Upstream,
    number: u32,
    gate: Option<&CallGate>,
) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn a_late_joiner_does_not_fetch_again() {
    let cache = local_cache().await;
    let upstream = Upstream::default();
    let (reached, wait_until_reached) = std::sync::mpsc::channel();
    let (open, opened) = std::sync::mpsc::channel();
    let late = std::thread::spawn({
        let (cache, upstream) = (cache.clone(), upstream.clone());
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let gate = CallGate { reached, opened };
            let call = cache.scope(async { gated(&upstream, 7, Some(&gate)).await });
            runtime.expect("the runtime starts").block_on(call)
        }
    });
    wait_until_reached.recv().expect("the call does its lookup");
    assert_eq!(cache.scope(gated(&upstream, 7, None)).await, Ok(1));
    open.send(()).expect("the call waits");
    assert_eq!(late.join().expect("no task panics"), Ok(1));
    assert_eq!(upstream.fetches(), 1);
}

#[coordinator_cached(name = "computing", version = number, skip(upstream))]
async fn computing(upstream: &Upstream, number: u32) -> Result<u32, UpstreamDown> {
    let waker = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
    upstream.fetch().await?;
    // Another thread wakes the leader while the leader blocks its own thread.
    std::thread::spawn(move || waker.wake());
    std::thread::sleep(Duration::from_millis(1500));
    tokio::task::yield_now().await;
    Ok(number)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_computing_leader_keeps_the_lead() {
    let cache = local_cache().await;
    let upstream = Upstream::default();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(cache.scope(async move { computing(&upstream, 7).await }))
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no task panics"), Ok(7));
    }
    assert_eq!(upstream.fetches(), 1);
}
