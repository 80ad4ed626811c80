//! A memcached that is absent, killed or suspended changes no answer and delays no call for long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cached_core::Cache;
use cached_tests::{Memcached, Upstream, free_port};

use crate::functions::{new_process_cache, payment};

#[tokio::test]
async fn an_absent_memcached_changes_no_answer() {
    let builder = Cache::builder().memcached([format!("127.0.0.1:{}", free_port())]);
    assert_answers_in_time(builder.remote_timeout(Duration::from_millis(100)), || {}).await;
}

#[tokio::test]
async fn an_unresolvable_server_name_changes_no_answer() {
    let builder = Cache::builder().memcached(["no-such-host.invalid:11211"]);
    assert_answers_in_time(builder.remote_timeout(Duration::from_millis(100)), || {}).await;
}

#[tokio::test]
async fn a_killed_memcached_changes_no_answer() {
    let mut memcached = Memcached::start();
    let builder = Cache::builder().memcached([memcached.address()]);
    assert_answers_in_time(builder.remote_timeout(Duration::from_millis(100)), || memcached.kill())
        .await;
}

#[tokio::test]
async fn a_suspended_memcached_changes_no_answer() {
    let memcached = Memcached::start();
    let builder = Cache::builder().memcached([memcached.address()]);
    assert_answers_in_time(builder.remote_timeout(Duration::from_millis(100)), || {
        memcached.suspend()
    })
    .await;
    memcached.resume();
}

/// Makes 600 calls with 300 keys in 20 tasks, and runs `outage` after 200 calls.
///
/// Checks that no call takes longer than this sum: its fetch, the remote timeout of 100 ms, 40 ms
/// of slack, and twice the measured delay of timers.
async fn assert_answers_in_time(builder: cached_core::CacheBuilder, outage: impl FnOnce()) {
    const FETCH_MILLIS: u64 = 20;
    let cache = builder.build().await.expect("the settings are valid");
    let upstream = Upstream::default().taking_millis(FETCH_MILLIS);
    let progress = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..20)
        .map(|task| {
            let (upstream, progress) = (upstream.clone(), Arc::clone(&progress));
            tokio::spawn(cache.scope(async move {
                let mut slowest = Duration::ZERO;
                for call in 0..30 {
                    let number = (task * 15 + call / 2).to_string();
                    let began = Instant::now();
                    let answer =
                        payment(&upstream, &number, "paid").await.expect("the call succeeds");
                    slowest = slowest.max(began.elapsed());
                    assert_eq!(answer.number, number);
                    progress.fetch_add(1, Ordering::SeqCst);
                }
                slowest
            }))
        })
        .collect();
    // A task on the same thread measures how late timers fire, which depends on the machine's load.
    let lateness = Arc::new(std::sync::Mutex::new(Duration::ZERO));
    let watch = tokio::spawn({
        let lateness = Arc::clone(&lateness);
        async move {
            loop {
                let began = Instant::now();
                tokio::time::sleep(Duration::from_millis(5)).await;
                let late = began.elapsed().saturating_sub(Duration::from_millis(5));
                let mut latest = lateness.lock().expect("no thread panics while it holds the lock");
                *latest = late.max(*latest);
            }
        }
    });
    while progress.load(Ordering::SeqCst) < 200 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    outage();
    let mut slowest = Duration::ZERO;
    for task in tasks {
        slowest = slowest.max(task.await.expect("no task panics"));
    }
    watch.abort();
    // A call waits for two timers, one for its deadline and one for its fetch.
    let late = *lateness.lock().expect("no thread panics while it holds the lock");
    let limit = Duration::from_millis(FETCH_MILLIS + 100 + 40) + 2 * late;
    assert!(slowest < limit, "each call is in time: {slowest:?}, timers up to {late:?} late");
    assert!(upstream.fetches() <= 600);
}

#[tokio::test]
async fn a_returning_server_is_used_again() {
    let mut memcached = Memcached::start();
    let port = memcached.port();
    let cache = new_process_cache(&memcached).await;
    let upstream = Upstream::default();
    memcached.kill();
    for number in 0..10 {
        cache
            .scope(payment(&upstream, &number.to_string(), "paid"))
            .await
            .expect("the call succeeds");
    }
    let _memcached = Memcached::start_on(port).expect("the port is free");
    let give_up = Instant::now() + Duration::from_secs(20);
    for number in 10.. {
        cache
            .scope(payment(&upstream, &number.to_string(), "paid"))
            .await
            .expect("the call succeeds");
        cache.flush().await;
        if cache.stats().get("payment").expect("the function was called").fills > 0 {
            break;
        }
        assert!(Instant::now() < give_up, "the server is used again within 20 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
