//! One process changes an entry, and other processes see the change.

use std::time::Duration;

use cached_core::{Cache, RequestScope, Tier, first_found};
use cached_tests::{Memcached, Upstream, UpstreamDown, poll_once};
use tokio::task::JoinHandle;

use crate::functions::{
    Payment, new_process_cache, payment, payment_entry, profile, profile_entry,
};

/// Calls `payment` in a new task, and gives the task time to begin its fetch.
async fn begin_fetch(
    process: &Cache,
    upstream: &Upstream,
) -> JoinHandle<Result<Payment, UpstreamDown>> {
    let (process, upstream) = (process.clone(), upstream.clone());
    let fetch = tokio::spawn(async move { process.scope(payment(&upstream, "7", "paid")).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    fetch
}

#[tokio::test]
async fn invalidate_beats_a_fetch_of_another_process() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default().taking_millis(500);
    let fetch = begin_fetch(&a, &upstream).await;
    b.scope(async { payment_entry("7", "paid").invalidate().await.expect("memcached is reached") })
        .await;
    assert_eq!(fetch.await.expect("no task panics").expect("the call succeeds").fetched, 1);
    a.flush().await;
    // The fetch that began before the invalidation stored nothing in memcached.
    assert_eq!(
        b.scope(payment(&upstream, "7", "paid")).await.expect("the call succeeds").fetched,
        2
    );
    b.flush().await;
    b.scope(async { payment_entry("7", "paid").invalidate().await.expect("memcached is reached") })
        .await;
    let found = b.scope(async { payment_entry("7", "paid").get().await }).await;
    assert!(!found.is_found());
}

#[tokio::test]
async fn add_and_overwrite_reach_every_process() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default();
    let cash = Payment { number: "7".into(), fetched: 99 };
    assert!(a.scope(async { payment_entry("7", "paid").add(cash.clone()).await }).await);
    assert!(!b.scope(async { payment_entry("7", "paid").add(cash.clone()).await }).await);
    let found = b.scope(async { payment_entry("7", "paid").get().await }).await;
    assert_eq!((found.tier(), found.into_option()), (Some(Tier::Remote), Some(cash)));

    a.scope(profile(&upstream, 7)).await.expect("the call succeeds");
    a.flush().await;
    a.scope(async {
        profile_entry(7).overwrite("new".into()).await.expect("memcached is reached")
    })
    .await;
    assert_eq!(a.scope(profile(&upstream, 7)).await.as_deref(), Ok("new"));
    assert_eq!(b.scope(profile(&upstream, 7)).await.as_deref(), Ok("new"));
    assert_eq!(upstream.fetches(), 1);
}

#[tokio::test]
async fn add_fills_the_placeholder_of_another_caller() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default().taking_millis(500);
    let fetch = begin_fetch(&a, &upstream).await;
    let cash = Payment { number: "7".into(), fetched: 99 };
    assert!(b.scope(async { payment_entry("7", "paid").add(cash.clone()).await }).await);
    fetch.await.expect("no task panics").expect("the call succeeds");
    a.flush().await;
    let c = new_process_cache(&memcached).await;
    assert_eq!(
        c.scope(payment(&upstream, "7", "paid")).await,
        Ok(cash),
        "a write-once entry is not replaced"
    );
}

#[tokio::test]
async fn first_found_tries_versions_in_order() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default();
    a.scope(payment(&upstream, "7", "processing")).await.expect("the call succeeds");
    a.flush().await;
    let both = || async {
        first_found([payment_entry("7", "paid"), payment_entry("7", "processing")]).await
    };
    assert_eq!(b.scope(both()).await.expect("an entry is found").fetched, 1);
    a.scope(payment(&upstream, "7", "paid")).await.expect("the call succeeds");
    a.flush().await;
    // Process `b` now holds "processing" locally, but it still looks for "paid" in memcached first.
    assert_eq!(b.scope(both()).await.expect("an entry is found").fetched, 2);
    assert!(b.scope(first_found([payment_entry("8", "paid")])).await.is_none());
}

#[tokio::test]
async fn force_miss_replaces_only_overwritable_items() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default();
    let both = || async {
        (
            profile(&upstream, 7).await.expect("the call succeeds"),
            payment(&upstream, "7", "paid").await.expect("the call succeeds").fetched,
        )
    };
    assert_eq!(a.scope(both()).await, ("user 7, fetch 1".into(), 2));
    a.flush().await;
    let forced = a.scope(RequestScope::new().force_miss(true).run(both())).await;
    assert_eq!(forced, ("user 7, fetch 3".into(), 4));
    a.flush().await;
    assert_eq!(b.scope(both()).await, ("user 7, fetch 3".into(), 2));
}

#[tokio::test]
async fn a_late_add_does_not_undo_an_invalidation() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    cache
        .scope(async {
            let value = Payment { number: "7".into(), fetched: 5 };
            assert!(
                !payment_entry("8", "paid").get().await.is_found(),
                "this read opens the connection"
            );
            let entry = payment_entry("7", "paid");
            let mut add = Box::pin(entry.add(value));
            while memcached.remaining_ttl(&entry.key().to_string()).is_none() {
                assert!(poll_once(add.as_mut()).await.is_none());
                // `add` waits for memcached's answer to a read before it writes. Yielding lets the
                // runtime receive that answer.
                tokio::task::yield_now().await;
            }
            payment_entry("7", "paid").invalidate().await.expect("memcached is reached");
            add.await;
            assert!(!payment_entry("7", "paid").get().await.is_found());
        })
        .await;
}

#[tokio::test]
async fn a_late_overwrite_keeps_a_later_one() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    cache
        .scope(async {
            assert!(!profile_entry(8).get().await.is_found(), "this read opens the connection");
            let entry = profile_entry(7);
            let mut late = Box::pin(entry.overwrite("first".into()));
            while memcached.remaining_ttl(&entry.key().to_string()).is_none() {
                assert!(poll_once(late.as_mut()).await.is_none());
            }
            profile_entry(7).overwrite("second".into()).await.expect("memcached is reached");
            late.await.expect("memcached is reached");
            let found = profile_entry(7).get().await;
            assert_eq!(found.into_option().as_deref(), Some("second"));
        })
        .await;
}

#[tokio::test]
async fn force_miss_keeps_write_once_entries_locally() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default();
    a.scope(payment(&upstream, "7", "paid")).await.expect("the call succeeds");
    a.flush().await;
    let forced = RequestScope::new().force_miss(true).run(payment(&upstream, "7", "paid"));
    assert_eq!(b.scope(forced).await.expect("the call succeeds").fetched, 2);
    assert_eq!(
        b.scope(payment(&upstream, "7", "paid")).await.expect("the call succeeds").fetched,
        1
    );
}

/// `invalidate` sends a delete, but memcached is suspended and does not answer yet. Another call in
/// the same process then reads the old value. The future of `invalidate` is dropped before it
/// receives its answer.
#[tokio::test]
async fn a_dropped_invalidation_clears_the_local_tier() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default();
    a.scope(payment(&upstream, "7", "paid")).await.expect("the call succeeds");
    a.flush().await;
    b.scope(async {
        let other_entry = payment_entry("8", "paid");
        assert!(!other_entry.get().await.is_found(), "this read opens the connection");
        let entry = payment_entry("7", "paid");
        let mut invalidate = Box::pin(entry.invalidate());
        memcached.suspend();
        assert!(poll_once(invalidate.as_mut()).await.is_none());
        // memcached can answer the next call before it executes the delete. The call then stores
        // the old value in the local tier, which `invalidate` has already cleared once.
        memcached.resume();
        payment(&upstream, "7", "paid").await.expect("the call succeeds");
        drop(invalidate);
        let found = entry.get().await;
        assert_ne!(found.tier(), Some(Tier::Local), "the drop clears the local tier again");
    })
    .await;
}
