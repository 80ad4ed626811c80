//! Calls in a process without memcached. `scripts/test` also runs these tests in a build without
//! the feature `memcached`.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cached_core::testing::TestCache;
use cached_core::{Cache, RequestScope, Tier, coordinator_cached, first_found};

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

#[coordinator_cached(name = "embedded_payment", version = state, entry = payment_entry, remote = true)]
async fn payment(number: u32, state: &str) -> Result<String, io::Error> {
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(format!("{number} is {state}"))
}

#[tokio::test]
async fn a_thousand_callers_fetch_once_and_again_after_the_ttl() {
    let test = TestCache::local();
    let calls: Vec<_> =
        (0..1000).map(|_| tokio::spawn(test.cache().scope(payment(7, "paid")))).collect();
    for call in calls {
        assert_eq!(call.await.expect("it ends").expect("it is answered"), "7 is paid");
    }
    assert_eq!(test.stats("embedded_payment").fetches, 1);
    test.advance(minutes(31));
    test.run(payment(7, "paid")).await.expect("it is answered");
    assert_eq!(test.stats("embedded_payment").fetches, 2);
}

#[tokio::test]
async fn entries_are_found_added_and_invalidated() {
    let test = TestCache::local();
    let work = async {
        let (paid, open) = (payment_entry(1, "paid"), payment_entry(1, "open"));
        assert!(format!("{paid:?}").starts_with("CacheEntry(embedded_payment"));
        assert!(!paid.get().await.is_found());
        assert!(open.add("added".into()).await);
        assert!(!open.add("another".into()).await);
        assert_eq!(open.get().await.tier(), Some(Tier::Local));
        assert_eq!(first_found([paid.clone(), open.clone()]).await.as_deref(), Some("added"));
        open.invalidate().await.expect("there is nobody to be told");
        assert_eq!(first_found([paid, open]).await, None);
    };
    test.run(work).await;
}

#[coordinator_cached(
    name = "embedded_rate",
    overwrite(reason = "a rate has no version of its own"),
    entry = rate_entry,
    ttl = "10m",
    stale_if_error = "1h",
    remote = false
)]
async fn rate(_live: &bool) -> Result<f64, io::Error> {
    static FETCHES: AtomicU32 = AtomicU32::new(0);
    match FETCHES.fetch_add(1, Ordering::Relaxed) {
        0 => Ok(1.0),
        _ => Err(io::Error::other("the upstream is down")),
    }
}

#[tokio::test]
async fn what_is_overwritten_outlives_a_failing_upstream() {
    let test = TestCache::local();
    assert_eq!(test.run(rate(&true)).await.expect("the first is answered"), 1.0);
    let overwritten = test.cache().scope(async { rate_entry(&true).overwrite(2.0).await });
    overwritten.await.expect("there is nobody to be told");
    test.advance(minutes(30));
    assert_eq!(test.run(rate(&true)).await.expect("a stale answer"), 2.0);
    assert_eq!(test.stats("embedded_rate").stale_answers, 1);
    test.advance(minutes(61));
    assert!(test.run(rate(&true)).await.is_err());
}

#[coordinator_cached(
    name = "embedded_price",
    overwrite(reason = "the upstream has no versions of a price"),
    ttl = "10m",
    refresh_ahead = "2m"
)]
async fn price(course: u32) -> Result<u32, io::Error> {
    Ok(course)
}

#[tokio::test]
async fn an_entry_is_refreshed_before_its_end() {
    let test = TestCache::local();
    for _ in 0..2 {
        test.run(price(1)).await.expect("it is answered");
        test.advance(minutes(9));
    }
    // The test only has to wait, because the refresh runs in a task of its own.
    let refreshed = async {
        while test.stats("embedded_price").fetches < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refreshed).await.expect("it is refreshed");
    assert_eq!(test.stats("embedded_price").refreshes, 1);
}

#[coordinator_cached(name = "embedded_page", version = revision)]
async fn page(revision: u32, bytes: usize) -> Result<Vec<u8>, io::Error> {
    let mut page = vec![0; bytes];
    page[0] = revision as u8;
    Ok(page)
}

/// The bound is a number of bytes in every build, whichever way a build computes the weight of a
/// value.
#[tokio::test]
async fn the_local_tier_keeps_to_its_bound() {
    let cache = Cache::builder().local_capacity(100 << 10).build().await.expect("it fits");
    let again = cache.scope(async {
        for revision in 0..100 {
            page(revision, 10_000).await.expect("it is answered");
        }
        let fetches = || cache.stats().get("embedded_page").expect("it is declared").fetches;
        let before = fetches();
        for revision in 0..100 {
            page(revision, 10_000).await.expect("it is answered");
        }
        fetches() - before
    });
    let again = again.await;
    assert!(again >= 85, "ten of a hundred pages fit into the tier; {again} were fetched again");
}

#[tokio::test]
async fn a_request_has_one_answer() {
    let test = TestCache::local();
    let calls = async {
        price(2).await?;
        price(2).await
    };
    test.run(RequestScope::new().run(calls)).await.expect("it is answered");
    let stats = test.stats("embedded_price");
    assert_eq!((stats.fetches, stats.request_hits), (1, 1));
}
