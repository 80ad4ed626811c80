//! Tests that only one process fetches if several processes miss the same key. If the fetching call
//! fails, is cancelled or is no longer polled, another call takes over.

use std::time::{Duration, Instant};

use cached_core::coordinator_cached;
use cached_tests::{Memcached, Upstream, UpstreamDown, poll_once};

use crate::functions::{new_process_cache, payment};

#[coordinator_cached(name = "failing", version = number, skip(upstream))]
async fn failing(upstream: &Upstream, number: u32) -> Result<u32, UpstreamDown> {
    upstream.fetch().await?;
    Err(UpstreamDown)
}

#[tokio::test]
async fn failed_and_cancelled_fetches_release_their_lease() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default().taking_millis(20);
    assert_eq!(a.scope(failing(&upstream, 7)).await, Err(UpstreamDown));
    let hanging = Upstream::default().taking_millis(10_000);
    let cancelled =
        tokio::time::timeout(Duration::from_millis(200), a.scope(payment(&hanging, "7", "paid")));
    assert!(cancelled.await.is_err());
    a.flush().await;
    let began = Instant::now();
    assert_eq!(b.scope(failing(&upstream, 7)).await, Err(UpstreamDown));
    b.scope(payment(&upstream, "7", "paid")).await.expect("the call succeeds");
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "no call waits for a lease: {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_takeover_inherits_the_lease() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    let upstream = Upstream::default().taking_millis(20);
    let took = cache
        .scope(async {
            let mut held = Box::pin(payment(&upstream, "7", "paid"));
            while upstream.fetches() == 0 {
                assert!(poll_once(held.as_mut()).await.is_none());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let began = Instant::now();
            let answer = payment(&upstream, "7", "paid").await.expect("the call succeeds");
            assert_eq!(answer.fetched, 2);
            began.elapsed()
        })
        .await;
    assert!(took < Duration::from_millis(2500), "the second call soon takes over: {took:?}");
    // The second call has taken over the first call's *lease* (the right to fetch), so memcached
    // stores the second call's value.
    cache.flush().await;
    let other = new_process_cache(&memcached).await;
    assert_eq!(
        other.scope(payment(&upstream, "7", "paid")).await.expect("the call succeeds").fetched,
        2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_misses_leaves_no_leases() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default().taking_millis(5);
    let calls: Vec<_> = (0..10_000)
        .map(|number| {
            let upstream = upstream.clone();
            let call = async move { payment(&upstream, &number.to_string(), "paid").await };
            tokio::spawn(a.scope(call))
        })
        .collect();
    for call in calls {
        call.await.expect("no task panics").expect("the call succeeds");
    }
    a.flush().await;
    let mut slowest = Duration::ZERO;
    for number in 0..300 {
        let began = Instant::now();
        b.scope(payment(&upstream, &(number * 33).to_string(), "paid"))
            .await
            .expect("the call succeeds");
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_millis(1500), "no call waits for a lease: {slowest:?}");
}
