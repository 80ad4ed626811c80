//! The ledger lists the program's cached functions. It also names those that are not worth caching.

use std::time::Duration;

use cached_core::testing::TestCache;
use cached_core::{Cache, Finding, coordinator_cached, ledger};
use cached_tests::{Memcached, RedirectableProxy};

#[coordinator_cached(name = "judged_course", version = edition)]
async fn course(id: u32, edition: u8) -> Option<String> {
    Some(format!("course {id}, edition {edition}"))
}

#[coordinator_cached(name = "judged_slow_course", version = edition)]
async fn slow_course(id: u32, edition: u8) -> Option<String> {
    tokio::time::sleep(Duration::from_millis(20)).await;
    Some(format!("course {id}, edition {edition}"))
}

#[coordinator_cached(name = "judged_local_course", version = edition, remote = false)]
async fn local_course(id: u32, edition: u8) -> Option<String> {
    Some(format!("course {id}, edition {edition}"))
}

/// Returns the findings about the function with this cache name.
fn findings(cache: &Cache, name: &str) -> Vec<Finding> {
    let mut findings = ledger().not_worth_caching(cache);
    findings.retain(|finding| finding.to_string().contains(&format!("`{name}`")));
    findings
}

#[tokio::test]
async fn a_function_that_is_rarely_called_is_named() {
    let test = TestCache::local();
    test.run(async {
        for _ in 0..59 {
            course(1, 1).await;
        }
    })
    .await;
    test.advance(Duration::from_secs(59 * 60));
    assert_eq!(findings(test.cache(), "judged_course"), [], "the cache is too young");

    test.advance(Duration::from_secs(2 * 60));
    let found = findings(test.cache(), "judged_course");
    let [finding @ Finding::FewCalls { calls: 59, watched, .. }] = &found[..] else {
        panic!("{found:?}")
    };
    assert!(watched.as_secs() >= 61 * 60, "{watched:?}");
    let line = finding.to_string();
    assert!(line.contains("59 times in 1h1m") && line.contains("remove the attribute"), "{line}");

    test.run(async {
        for _ in 0..10 {
            course(1, 1).await;
        }
    })
    .await;
    assert_eq!(findings(test.cache(), "judged_course"), [], "this is more than a call a minute");
}

#[tokio::test]
async fn a_function_that_rarely_hits_is_named() {
    let test = TestCache::local();
    let call = async |ids: std::ops::Range<u32>| {
        test.run(async {
            for id in ids {
                course(id, 1).await;
            }
        })
        .await;
    };
    call(0..999).await;
    assert_eq!(findings(test.cache(), "judged_course"), [], "these are too few calls");

    call(0..1).await;
    let found = findings(test.cache(), "judged_course");
    let [finding @ Finding::LowHitRate { calls: 1_000, saved: 1, .. }] = &found[..] else {
        panic!("{found:?}")
    };
    let line = finding.to_string();
    assert!(line.contains("1 of 1000 calls (0.1 %)") && line.contains("raise its ttl"), "{line}");

    // Too few of the first 1,109 calls are hits. Of 1,110 calls 111 are hits: ten percent, which is
    // just enough.
    call(0..109).await;
    assert_eq!(findings(test.cache(), "judged_course").len(), 1);
    call(0..1).await;
    assert_eq!(findings(test.cache(), "judged_course"), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_faster_than_memcached_is_named() {
    let memcached = Memcached::start();
    let proxy = RedirectableProxy::start_slow(&memcached, Duration::from_millis(3));
    let builder = Cache::builder().namespace("worth").memcached([proxy.address()]);
    let builder = builder.remote_timeout(Duration::from_secs(5));
    let cache = builder.build().await.expect("the settings are valid");
    let call = async |ids: std::ops::Range<u32>| {
        let tasks: Vec<_> = ids
            .map(|id| {
                let calls = async move {
                    (course(id, 1).await, slow_course(id, 1).await, local_course(id, 1).await)
                };
                tokio::spawn(cache.scope(calls))
            })
            .collect();
        for task in tasks {
            task.await.expect("the calls return");
        }
    };
    call(0..99).await;
    assert_eq!(findings(&cache, "judged_course"), [], "these are too few fetches");

    // The calls follow one another, so each command to memcached is an exchange of its own.
    for id in 100..200 {
        call(id..id + 1).await;
    }
    let found = findings(&cache, "judged_course");
    let [finding @ Finding::CheapFetch { fetch, exchange, .. }] = &found[..] else {
        panic!("{found:?}, {:?}", cache.servers())
    };
    assert!(fetch < exchange && *exchange >= Duration::from_millis(2), "{fetch:?}, {exchange:?}");
    let line = finding.to_string();
    assert!(line.contains("write `remote = false`"), "{line}");

    for name in ["judged_slow_course", "judged_local_course"] {
        assert_eq!(findings(&cache, name), [], "{name} is worth it");
    }
}

#[tokio::test]
async fn a_cache_that_is_off_judges_nothing() {
    let cache = Cache::disabled();
    for id in 0..1_000 {
        cache.scope(course(id, 1)).await;
    }
    assert_eq!(findings(&cache, "judged_course"), []);
}
