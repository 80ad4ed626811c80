//! `Cache::clear` and `Cache::invalidate_all`: the entries that they remove, and the entries that
//! stay.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use cached_core::testing::TestCache;
use cached_core::{Cache, RequestScope, coordinator_cached};
use cached_tests::{Upstream, UpstreamDown, poll_once};

use crate::functions::local_cache;

#[coordinator_cached(name = "cleared.stock", version = item, skip(upstream), stale_if_error = "1h")]
async fn stock(upstream: &Upstream, item: u64) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[coordinator_cached(
    name = "cleared.offer",
    overwrite(reason = "an offer ends at any time"),
    skip(upstream),
    entry = offer_entry
)]
async fn offer(upstream: &Upstream, item: u64) -> Result<usize, UpstreamDown> {
    let _ = item;
    upstream.fetch().await
}

#[coordinator_cached(name = "cleared.generic", version = item, skip(upstream))]
async fn generic<T: Default>(upstream: &Upstream, item: u64) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[tokio::test]
async fn one_function_is_invalidated_with_all_its_arguments() {
    let upstream = Upstream::default();
    let cache = local_cache().await;
    cache
        .scope(async {
            for item in 0..10 {
                stock(&upstream, item).await?;
                generic::<u8>(&upstream, item).await?;
                generic::<u16>(&upstream, item).await?;
            }
            assert_eq!(cache.invalidate_all("cleared.generic").await, Ok(20));
            for item in 0..10 {
                stock(&upstream, item).await?;
            }
            assert_eq!(upstream.fetches(), 30);
            generic::<u8>(&upstream, 0).await?;
            assert_eq!(upstream.fetches(), 31);
            assert_eq!(cache.clear().await, 11);
            stock(&upstream, 0).await?;
            assert_eq!(upstream.fetches(), 32);
            Ok::<(), UpstreamDown>(())
        })
        .await
        .expect("the upstream works");
    let count = |name| cache.stats().get(name).expect("the function was called").invalidations;
    assert_eq!((count("cleared.generic"), count("cleared.stock")), (21, 10));
}

#[tokio::test]
async fn an_unknown_name_is_answered_with_near_names() {
    let error = local_cache().await.invalidate_all("cleared.sotck").await;
    let error = error.expect_err("no function has the name");
    assert_eq!(error.near().first(), Some(&"cleared.stock"));
    assert!(error.to_string().starts_with("`cleared.sotck` is not the cache name"), "{error}");
}

/// Runs both futures concurrently, and polls `first` before `second`.
async fn join_in_order<A, B>(
    first: impl Future<Output = A>,
    second: impl Future<Output = B>,
) -> (A, B) {
    tokio::join!(biased; first, second)
}

#[tokio::test]
async fn a_fetch_that_was_under_way_stores_nothing() {
    for clears_all in [true, false] {
        let upstream = Upstream::default().taking_millis(20);
        let cache = local_cache().await;
        let clear = async || match clears_all {
            true => drop(cache.clear().await),
            false => drop(cache.invalidate_all("cleared.offer").await),
        };
        let first = cache.scope(join_in_order(offer(&upstream, 2), clear())).await.0;
        assert_eq!((first, cache.scope(offer(&upstream, 2)).await), (Ok(1), Ok(2)));

        let upstream = Upstream::default().taking_millis(20);
        let clear_and_call = async {
            clear().await;
            offer(&upstream, 1).await
        };
        let calls = join_in_order(offer(&upstream, 1), clear_and_call);
        assert_eq!(cache.scope(calls).await, (Ok(1), Ok(2)), "the second call fetches itself");
        assert_eq!(cache.scope(offer(&upstream, 1)).await, Ok(2));
        assert_eq!(upstream.fetches(), 2);
    }
}

#[tokio::test]
async fn the_current_request_forgets_its_answers() {
    let upstream = Upstream::default();
    let cache = local_cache().await;
    let request = RequestScope::new().run(async {
        let (one, other) = (offer(&upstream, 1).await, stock(&upstream, 1).await);
        let other_request = RequestScope::new().run(async { cache.clear().await });
        assert_eq!(other_request.await, 2);
        assert_eq!(offer(&upstream, 1).await, one, "another request has cleared the cache");
        assert_eq!(cache.invalidate_all("cleared.offer").await, Ok(0));
        assert_ne!(offer(&upstream, 1).await, one);
        assert_eq!(stock(&upstream, 1).await, other);
        cache.clear().await;
        assert_ne!(stock(&upstream, 1).await, other);
    });
    cache.scope(request).await;
}

#[tokio::test]
async fn a_cleared_value_is_never_served_stale() {
    let upstream = Upstream::default();
    let test = TestCache::local();
    test.run(stock(&upstream, 1)).await.expect("the upstream works");
    test.advance(Duration::from_secs(31 * 60));
    upstream.fail();
    test.run(stock(&upstream, 1)).await.expect("the expired value is served");
    test.run(async { Cache::current().clear().await }).await;
    assert!(test.run(stock(&upstream, 1)).await.is_err());
}

#[tokio::test]
async fn memcached_keeps_cleared_entries() {
    let upstream = Upstream::default();
    let test = TestCache::new();
    assert_eq!(test.run(offer(&upstream, 1)).await, Ok(1));
    assert_eq!(test.run(async { Cache::current().clear().await }).await, 1);
    assert_eq!(test.run(offer(&upstream, 1)).await, Ok(1), "the value comes from memcached");
    assert_eq!(test.stats("cleared.offer").remote_hits, 1);
    // `invalidate` removes the entry from memcached too.
    test.run(async { offer_entry(1).invalidate().await }).await.expect("memcached is reached");
    assert_eq!(test.run(offer(&upstream, 1)).await, Ok(2));
}

static FREED: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Page(Vec<u8>);

impl Drop for Page {
    fn drop(&mut self) {
        FREED.fetch_add(1, Ordering::SeqCst);
    }
}

#[coordinator_cached(name = "cleared.page", version = number, skip(last))]
async fn page(last: &Mutex<Weak<Page>>, number: u64) -> Result<Arc<Page>, std::io::Error> {
    let page = Arc::new(Page(vec![7; 100]));
    *last.lock().expect("no thread panics while it holds the lock") = Arc::downgrade(&page);
    Ok(page)
}

/// The runtime has one thread. `clear` must not block that thread while it removes many entries.
#[tokio::test]
async fn many_entries_are_removed_off_the_runtime_thread() {
    const PAGES: u64 = 50_000;
    let last = Mutex::new(Weak::new());
    let cache = Cache::builder().local_capacity(1 << 30).build().await.expect("the settings fit");
    let calls = cache.scope(async {
        for number in 0..PAGES {
            page(&last, number).await.expect("the call succeeds");
        }
    });
    calls.await;
    let freed_before = FREED.load(Ordering::SeqCst);
    let mut clear = Box::pin(cache.clear());
    assert_eq!(poll_once(clear.as_mut()).await, None, "another thread removes the entries");
    assert_eq!(clear.await as u64, PAGES);
    cache.scope(page(&last, 1)).await.expect("the call succeeds");
    let stats = cache.stats().get("cleared.page").expect("the function was called");
    assert_eq!((stats.fetches, stats.invalidations), (PAGES + 1, PAGES));
    // The local tier's hash table frees removed values in batches, once no thread reads them.
    let freed = || FREED.load(Ordering::SeqCst) - freed_before;
    for _ in 0..200 {
        if freed() >= PAGES {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} of {PAGES} values are freed", freed());
}
