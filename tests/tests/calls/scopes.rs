//! Tests of scopes. Calls in the scope of a cache use this cache, and calls in the scope of a
//! request share their answers. `in_scope` and `Cache::spawn` carry both scopes into tasks and
//! threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use cached_core::testing::TestCache;
use cached_core::{Cache, RequestScope, StaticCache, coordinator_cached, in_scope};
use cached_tests::{collect_logs, logged};
use log::Level;
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinSet;

use crate::functions::local_cache;

/// Returns a limit from the tenant's own upstream. The tenant is not in the key, because each
/// tenant has its own cache.
#[coordinator_cached(
    name = "tenant_limit",
    overwrite(reason = "a tenant changes its limits"),
    skip(tenant),
    entry = limit_entry
)]
async fn limit(tenant: u64, product: u64) -> Result<u64, std::io::Error> {
    tokio::task::yield_now().await;
    Ok(tenant * 1_000 + product)
}

/// Calls `limit` in each way in which a handler can pass work to a task or a thread.
async fn fan_out(tenant: u64) -> Vec<u64> {
    let mut limits = Vec::new();
    let one = tokio::spawn(in_scope(async move { limit(tenant, 1).await }));
    limits.push(one.await.expect("no task panics").expect("the call succeeds"));
    let mut set = JoinSet::new();
    for product in 2..5 {
        set.spawn(in_scope(async move {
            // This task starts another task.
            let inner = tokio::spawn(in_scope(async move { limit(tenant, product).await }));
            inner.await.expect("no task panics")
        }));
    }
    for limit in set.join_all().await {
        limits.push(limit.expect("the call succeeds"));
    }
    let (work, runtime) = (in_scope(async move { limit(tenant, 5).await }), Handle::current());
    let blocking = tokio::task::spawn_blocking(move || runtime.block_on(work));
    limits.push(blocking.await.expect("no task panics").expect("the call succeeds"));
    let task = Cache::current().spawn(async move { limit(tenant, 6).await });
    limits.push(task.await.expect("no task panics").expect("the call succeeds"));
    limits.sort_unstable();
    limits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_never_see_another_tenants_answers() {
    for tenant in 1..=3 {
        let cache = local_cache().await;
        let limits = cache.scope(fan_out(tenant)).await;
        assert_eq!(limits, (1..=6).map(|product| tenant * 1_000 + product).collect::<Vec<_>>());
        let stats = cache.stats().get("tenant_limit").expect("the function was called");
        assert_eq!(stats.fetches, 6);
    }
}

#[tokio::test]
async fn a_future_is_dropped_in_its_scope() {
    /// On drop, stores 1 if the test's cache is the current one, and 0 if it is not.
    struct CurrentCacheRecorder(Arc<AtomicU64>);
    impl Drop for CurrentCacheRecorder {
        fn drop(&mut self) {
            let capacity = format!("{:?}", Cache::current());
            self.0.store(u64::from(capacity.contains("77777")), Ordering::SeqCst);
        }
    }
    let cache = Cache::builder().local_capacity(77_777).build().await.expect("the settings fit");
    for polls in 0..2 {
        let in_own_scope = Arc::new(AtomicU64::new(2));
        let guard = CurrentCacheRecorder(Arc::clone(&in_own_scope));
        let work = async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        };
        #[allow(clippy::async_yields_async)]
        let mut carried = cache.scope(async { Box::pin(in_scope(work)) }).await;
        for _ in 0..polls {
            assert!(cached_tests::poll_once(carried.as_mut()).await.is_none());
        }
        drop(carried);
        assert_eq!(
            in_own_scope.load(Ordering::SeqCst),
            1,
            "the drop sees the scope, after {polls} polls"
        );
    }
}

#[tokio::test]
async fn an_unscoped_future_uses_its_pollers_scope() {
    let cache = local_cache().await;
    let carried = in_scope(limit(9, 1));
    let carried_by_request = in_scope(limit(9, 1));
    assert_eq!(cache.scope(carried).await.expect("the call succeeds"), 9_001);
    let request = RequestScope::new().run(async {
        carried_by_request.await?;
        limit(9, 1).await
    });
    assert_eq!(cache.scope(request).await.expect("the call succeeds"), 9_001);
    let stats = cache.stats().get("tenant_limit").expect("the function was called");
    assert_eq!((stats.fetches, stats.local_hits, stats.request_hits), (1, 1, 1));
}

/// Returns a price that rises with each fetch. So two fetches never return the same price.
#[coordinator_cached(
    name = "rising_price",
    overwrite(reason = "a price rises all the time"),
    skip(price),
    entry = price_entry
)]
async fn price(price: &Arc<AtomicU64>, item: u64) -> Result<u64, std::io::Error> {
    let _ = item;
    tokio::task::yield_now().await;
    Ok(price.fetch_add(1, Ordering::SeqCst))
}

/// Many tasks of one request ask for the same prices. Meanwhile a task outside the request
/// invalidates these prices and fetches new ones.
#[test]
fn all_tasks_of_a_request_get_one_answer() {
    const ITEMS: u64 = 8;
    let runtime = Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let runtime = runtime.expect("the runtime starts");
    let source = Arc::new(AtomicU64::new(0));
    runtime.block_on(async {
        let cache = local_cache().await;
        for round in 0..200 {
            let force_miss = round % 4 == 3;
            let (source_of_request, others) = (Arc::clone(&source), Arc::clone(&source));
            let request = RequestScope::new().force_miss(force_miss).run(async move {
                let mut tasks = JoinSet::new();
                for task in 0..8 {
                    let source = Arc::clone(&source_of_request);
                    tasks.spawn(in_scope(async move {
                        let mut seen = Vec::new();
                        for step in 0..ITEMS * 3 {
                            let item = (step + task) % ITEMS;
                            let price = price(&source, item).await.expect("the call succeeds");
                            seen.push((item, price));
                        }
                        seen
                    }));
                }
                // The request's own task asks for all prices too: while the spawned tasks run, and
                // after they have ended.
                let mut seen = Vec::new();
                for item in 0..ITEMS {
                    seen.push((
                        item,
                        price(&source_of_request, item).await.expect("the call succeeds"),
                    ));
                }
                for seen_by_task in tasks.join_all().await {
                    seen.extend(seen_by_task);
                }
                for item in 0..ITEMS {
                    seen.push((
                        item,
                        price(&source_of_request, item).await.expect("the call succeeds"),
                    ));
                }
                seen
            });
            let change = cache.spawn(async move {
                for step in 0..200 {
                    price_entry(step % ITEMS).invalidate().await.expect("no server can fail");
                    price(&others, step % ITEMS).await.expect("the call succeeds");
                    tokio::task::yield_now().await;
                }
            });
            let seen = cache.spawn(request).await.expect("no task panics");
            change.await.expect("no task panics");
            let mut answers = [None; ITEMS as usize];
            for (item, price) in seen {
                let answer = answers[item as usize].get_or_insert(price);
                assert_eq!(*answer, price, "item {item} has one answer in round {round}");
            }
        }
    });
    let stats = runtime.block_on(async { Cache::current().stats().get("rising_price") });
    assert_eq!(
        stats.expect("the function is declared").fetches,
        0,
        "every task has kept its scope"
    );
}

/// A request invalidates a price again and again, while other threads of the request read it.
#[tokio::test]
async fn a_request_never_serves_values_it_invalidated() {
    let source = Arc::new(AtomicU64::new(0));
    let request = RequestScope::new().run(async move {
        // The lowest price that a new call may return.
        let floor = Arc::new(AtomicU64::new(0));
        let done = Arc::new(AtomicBool::new(false));
        let read = || {
            let (source, floor, done) = (source.clone(), floor.clone(), done.clone());
            in_scope(async move {
                let mut reads = 0_u64;
                while !done.load(Ordering::SeqCst) {
                    let floor_before = floor.load(Ordering::SeqCst);
                    let seen = price(&source, 70).await.expect("the call succeeds");
                    assert!(seen >= floor_before, "the price is at least {floor_before}: {seen}");
                    reads += 1;
                }
                reads
            })
        };
        let start = |work| {
            let runtime = Builder::new_current_thread().build().expect("the runtime starts");
            thread::spawn(move || runtime.block_on(work))
        };
        let readers: Vec<_> = (0..3).map(|_| start(read())).collect();
        for _ in 0..20_000 {
            // Every fetch that begins after this line returns this price or a higher one.
            let floor_before = source.load(Ordering::SeqCst);
            price_entry(70).invalidate().await.expect("no server can fail");
            floor.store(floor_before, Ordering::SeqCst);
        }
        done.store(true, Ordering::SeqCst);
        readers.into_iter().map(|reader| reader.join().expect("no reader panics")).sum::<u64>()
    });
    let reads = local_cache().await.scope(request).await;
    assert!(reads > 100, "the readers make many calls: {reads}");
}

#[tokio::test]
async fn a_task_keeps_its_request_after_the_handler() {
    let source = Arc::new(AtomicU64::new(0));
    let cache = local_cache().await;
    let (source_of_handler, source_of_task) = (source.clone(), source.clone());
    let late = cache.scope(RequestScope::new().run(async move {
        let first = price(&source_of_handler, 80).await.expect("the call succeeds");
        assert_eq!(price(&source_of_handler, 80).await.expect("the call succeeds"), first);
        let late = in_scope(async move { price(&source_of_task, 80).await });
        assert_eq!(price(&source_of_handler, 80).await.expect("the call succeeds"), first);
        (first, tokio::spawn(late))
    }));
    let (first, late) = late.await;
    cache.scope(async { price_entry(80).invalidate().await }).await.expect("no server can fail");
    let late = late.await.expect("no task panics").expect("the call succeeds");
    assert_eq!(late, first, "the task still belongs to the request");
    let stats = cache.stats().get("rising_price").expect("the function was called");
    assert_eq!((stats.fetches, stats.request_hits), (1, 3), "{stats:?}");
}

#[coordinator_cached(
    name = "inner_quote",
    overwrite(reason = "a quote changes with the market"),
    skip(quotes)
)]
async fn inner_quote(quotes: Arc<AtomicU64>, item: u64) -> Result<u64, std::io::Error> {
    let _ = item;
    Ok(quotes.fetch_add(1, Ordering::SeqCst))
}

#[coordinator_cached(
    name = "outer_quote",
    overwrite(reason = "a quote changes with the market"),
    ttl = "10m",
    refresh_ahead = "5m",
    skip(quotes)
)]
async fn outer_quote(quotes: Arc<AtomicU64>, item: u64) -> Result<u64, std::io::Error> {
    inner_quote(quotes, item).await
}

#[tokio::test]
async fn a_refresh_runs_in_its_caches_scope() {
    let quotes = Arc::new(AtomicU64::new(0));
    let test = TestCache::local();
    test.run(outer_quote(quotes.clone(), 1)).await.expect("the call succeeds");
    test.advance(Duration::from_secs(6 * 60));
    test.run(outer_quote(quotes.clone(), 1)).await.expect("the call succeeds");
    while test.stats("outer_quote").fetches < 2 {
        tokio::task::yield_now().await;
    }
    let inner = test.stats("inner_quote");
    assert_eq!((inner.fetches, inner.local_hits), (1, 1), "the refresh used the same cache");
}

#[coordinator_cached(name = "stray_stock", version = item)]
async fn stray_stock(item: u64) -> Result<u64, std::io::Error> {
    Ok(item)
}

#[coordinator_cached(name = "carried_stock", version = item)]
async fn carried_stock(item: u64) -> Result<u64, std::io::Error> {
    Ok(item)
}

#[tokio::test]
async fn a_task_without_its_scope_is_logged_once() {
    collect_logs();
    let cache = local_cache().await;
    // A call outside of every task and every scope uses the *embedded cache*, which every process
    // has. Such a call logs no warning.
    carried_stock(1).await.expect("the call succeeds");
    let work = cache.scope(async {
        tokio::spawn(in_scope(carried_stock(2))).await.expect("no task panics")?;
        for item in 0..3 {
            tokio::spawn(stray_stock(item)).await.expect("no task panics")?;
        }
        Ok::<(), std::io::Error>(())
    });
    work.await.expect("the calls succeed");
    let warnings = logged(Level::Warn, "`stray_stock`");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("in_scope"), "{warnings:?}");
    assert_eq!(logged(Level::Warn, "`carried_stock`"), Vec::<String>::new());
}

static REPORTS: StaticCache = StaticCache::new();

#[coordinator_cached(name = "static_report", version = edition, cache = REPORTS, entry = report_entry)]
async fn report(id: u64, edition: u64) -> Result<u64, std::io::Error> {
    Ok(id + edition)
}

#[tokio::test]
async fn an_installed_static_cache_is_used() {
    let test = TestCache::local();
    // No cache is installed in `REPORTS` yet, so the function uses the current cache.
    assert_eq!(test.run(report(1, 2)).await.expect("the call succeeds"), 3);
    assert!(test.run(async { report_entry(1, 2).get().await }).await.is_found());
    assert_eq!(test.stats("static_report").fetches, 1);

    let reports = Cache::from_url("local:?local_capacity=8MiB").await.expect("the URL fits");
    REPORTS.install(reports.clone()).expect("nothing is installed there");
    assert_eq!(test.run(report(1, 2)).await.expect("the call succeeds"), 3);
    assert!(test.run(async { report_entry(1, 2).get().await }).await.is_found());
    assert_eq!(test.stats("static_report").fetches, 1);
    let stats = reports.stats().get("static_report").expect("the function was called");
    assert_eq!(stats.fetches, 1);
    let second = REPORTS.install(reports).expect_err("a cache is installed").to_string();
    assert_eq!(second.matches("scopes.rs:").count(), 2, "{second}");
}

#[tokio::test]
async fn a_wrong_url_says_what_to_write() {
    let error = Cache::from_url("redis://a:6379").await.expect_err("the URL names no cache");
    assert!(error.to_string().starts_with("`redis://a:6379` is not a cache; write `local:`"));
    let off = Cache::from_url("off").await.expect("the URL fits");
    off.scope(limit(1, 1)).await.expect("the call succeeds");
    off.scope(limit(2, 1)).await.expect("the call succeeds");
    assert_eq!(off.stats().get("tenant_limit").expect("the function is declared").bypassed, 2);
}
