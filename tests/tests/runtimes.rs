//! Tests of tokio runtimes that end, that run no tasks, that lack a timer or sockets, or whose
//! clock is paused.
//!
//! These tests run in a process of their own because they count open file descriptors.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Memcached, Upstream, UpstreamDown, collect_logs, logged};
use tokio::runtime::{Builder, Runtime};

#[coordinator_cached(
    name = "cube",
    version = number,
    local = false,
    skip(upstream),
    entry = cube_entry
)]
async fn cube(upstream: &Upstream, number: u64) -> Result<u64, UpstreamDown> {
    upstream.fetch().await?;
    Ok(number * number * number)
}

#[coordinator_cached(
    name = "level",
    overwrite(reason = "a level changes with time"),
    local = false,
    skip(upstream),
    entry = level_entry
)]
async fn level(upstream: &Upstream, number: u64) -> Result<usize, UpstreamDown> {
    let _ = number;
    upstream.fetch().await
}

#[coordinator_cached(name = "report", version = number, skip(upstream))]
async fn report(upstream: &Upstream, number: u64) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("the runtime starts")
}

/// Returns a cache like that of a new process: it shares only memcached with other caches.
async fn new_process_cache(memcached: &Memcached, timeout: Duration) -> Cache {
    let builder = Cache::builder().memcached([memcached.address()]).remote_timeout(timeout);
    builder.build().await.expect("the settings are valid")
}

const TIMEOUT: Duration = Duration::from_millis(500);

fn remote_errors(cache: &Cache) -> u64 {
    cache.stats().total().remote_errors
}

#[test]
fn sixteen_runtimes_keep_their_connections() {
    let memcached = Memcached::start();
    let cache = runtime().block_on(new_process_cache(&memcached, Duration::from_secs(5)));
    let before = memcached.stat("total_connections");
    let threads: Vec<_> = (0..16)
        .map(|thread| {
            let cache = cache.clone();
            std::thread::spawn(move || {
                let upstream = Upstream::default();
                runtime().block_on(async {
                    for number in 0..200 {
                        let number = thread * 1000 + number;
                        cache.scope(cube(&upstream, number)).await.expect("the call succeeds");
                        // The pause lets the other runtimes run between two calls.
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    cache.flush().await;
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no task panics"));
    assert_eq!(remote_errors(&cache), 0);
    let connections = memcached.stat("total_connections") - before - 1;
    println!("{connections} connections");
    assert!(connections <= 64, "16 runtimes open at most 64 connections: {connections}");
}

/// Returns the number of open file descriptors of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("the test runs on Linux").count()
}

#[test]
fn an_ended_runtime_leaves_no_descriptors() {
    let memcached = Memcached::start();
    let cache = runtime().block_on(new_process_cache(&memcached, Duration::from_secs(5)));
    let upstream = Upstream::default();
    let before = descriptors();
    for number in 0..300 {
        runtime().block_on(async {
            cache.scope(cube(&upstream, number)).await.expect("the call succeeds");
            cache.flush().await;
        });
    }
    assert_eq!(remote_errors(&cache), 0);
    let left = descriptors().saturating_sub(before);
    assert!(left < 20, "300 runtimes leave less than 20 descriptors: {left}");
}

#[test]
fn a_read_on_a_closed_connection_is_repeated() {
    let mut memcached = Memcached::start();
    let runtime = runtime();
    let cache = runtime.block_on(new_process_cache(&memcached, TIMEOUT));
    let upstream = Upstream::default();
    runtime.block_on(async {
        cache.scope(cube(&upstream, 1)).await.expect("the call succeeds");
        cache.flush().await;
        cache.scope(cube(&upstream, 1)).await.expect("an entry is found");
        // The restart blocks the only thread of the runtime, so the runtime does not see that the
        // connection closes.
        memcached.kill();
        let port = memcached.port();
        memcached = Memcached::start_on(port).expect("the port is free");
        cache.scope(cube(&upstream, 1)).await.expect("the call succeeds");
        cache.flush().await;
        cache.scope(cube(&upstream, 1)).await.expect("an entry is found");
    });
    let stats = cache.stats().get("cube").expect("the function was called");
    assert_eq!((stats.remote_errors, stats.fetches), (0, 2), "{stats:?}");
}

/// Checks that a lease is released if memcached grants it only after the call has timed out.
///
/// A *lease* is the right of one caller to fetch a missing value. The calls ask for leases while
/// memcached is suspended, and memcached grants the leases when it resumes.
async fn assert_late_leases_released(calls: u64) {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached, Duration::from_millis(200)).await;
    let upstream = Upstream::default();
    // These 100 calls make the library open all its connections before memcached is suspended.
    let warm: Vec<_> = (1000..1100)
        .map(|number| {
            let (cache, upstream) = (cache.clone(), upstream.clone());
            tokio::spawn(async move { cache.scope(cube(&upstream, number)).await })
        })
        .collect();
    for call in warm {
        call.await.expect("no task panics").expect("the call succeeds");
    }
    cache.flush().await;
    let items = memcached.stat("total_items");
    memcached.suspend();
    let late_calls: Vec<_> = (0..calls)
        .map(|number| {
            let (cache, upstream) = (cache.clone(), upstream.clone());
            tokio::spawn(async move { cache.scope(cube(&upstream, number)).await })
        })
        .collect();
    for call in late_calls {
        call.await.expect("no task panics").expect("the call succeeds");
    }
    memcached.resume();
    let mut keys = Vec::new();
    for number in 0..calls {
        keys.push(cache.scope(async { cube_entry(number).key().to_string() }).await);
    }
    let give_up = Instant::now() + Duration::from_millis(800);
    let held_leases =
        || keys.iter().filter(|key| memcached.command(&format!("mg {key} t")) != "EN").count();
    // During this pause, memcached executes the commands that arrived while it was suspended.
    tokio::time::sleep(Duration::from_millis(100)).await;
    while held_leases() > 0 {
        assert!(Instant::now() < give_up, "{calls} leases are released: {} are not", held_leases());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(memcached.stat("total_items") >= items + calls, "memcached has granted the leases");
}

#[tokio::test]
async fn a_lease_won_too_late_is_released() {
    assert_late_leases_released(1).await;
}

#[tokio::test]
async fn batched_leases_won_too_late_are_released() {
    assert_late_leases_released(50).await;
}

#[test]
fn a_runtime_without_drivers_skips_memcached() {
    collect_logs();
    let memcached = Memcached::start();
    let runtimes = [
        (Builder::new_current_thread().enable_time().build(), "has no I/O"),
        (Builder::new_current_thread().enable_io().build(), "has no time"),
        (Builder::new_multi_thread().worker_threads(1).build(), "has no time"),
    ];
    for (runtime, missing) in runtimes {
        let runtime = runtime.expect("the runtime starts");
        let upstream = Upstream::default();
        let cache = runtime.block_on(new_process_cache(&memcached, TIMEOUT));
        runtime.block_on(cache.scope(async {
            for number in 0..5 {
                assert_eq!(cube(&upstream, number).await, Ok(number * number * number));
                assert_eq!(level(&upstream, number).await.map(|_| ()), Ok(()));
                assert!(!cube_entry(number).get().await.is_found());
                let error = level_entry(number).invalidate().await;
                let error = error.expect_err("memcached is skipped");
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let cause = cause.expect("the error has a cause");
                assert!(cause.ends_with(missing), "one cause is named: {cause}");
                assert!(level_entry(number).overwrite(1).await.is_err(), "memcached is skipped");
                let _ = cube_entry(number).add(number).await;
            }
        }));
        runtime.block_on(cache.flush());
        assert_eq!(upstream.fetches(), 10);
    }
    let warnings = logged(log::Level::Warn, "a tokio runtime has no ");
    assert_eq!(warnings.len(), 1, "one warning is enough: {warnings:?}");
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_fails_no_exchange() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached, TIMEOUT).await;
    let upstream = Upstream::default();
    let calls = async |numbers: std::ops::Range<u64>| {
        for number in numbers {
            cache.scope(cube(&upstream, number)).await.expect("the call succeeds");
        }
        cache.flush().await;
    };
    calls(0..10).await;
    calls(0..10).await;
    let stats = cache.stats().get("cube").expect("the function was called");
    assert_eq!((stats.remote_errors, stats.fetches, stats.remote_hits), (0, 10, 10), "{stats:?}");
    tokio::time::advance(Duration::from_secs(100)).await;
    tokio::time::resume();
    calls(0..20).await;
    let stats = cache.stats().get("cube").expect("the function was called");
    assert_eq!((stats.remote_errors, stats.fetches, stats.remote_hits), (0, 20, 20), "{stats:?}");
    // The timeout of a call runs in real time, although tokio's clock is paused.
    tokio::time::pause();
    memcached.suspend();
    let began = Instant::now();
    cache.scope(cube(&upstream, 1)).await.expect("the call succeeds");
    let took = began.elapsed();
    assert!(took >= TIMEOUT && took < TIMEOUT * 3, "the call takes one timeout: {took:?}");
}

/// Checks that another runtime renews a lease after the first runtime has stopped.
///
/// A fetch begins on the first runtime, which renews the fetch's lease once. Then `stop` drops this
/// runtime or leaves it idle. On the second runtime, a call that has waited for the fetch begins
/// its own fetch and renews the lease. Meanwhile a call of another process waits for the value. If
/// `during_renewal` is true, memcached answers the second renewal only after the first runtime has
/// stopped.
fn assert_renewals_move(during_renewal: bool, stop: impl FnOnce(Runtime) -> Option<Runtime>) {
    let memcached = Memcached::start();
    let (first, second, elsewhere) = (runtime(), runtime(), runtime());
    let cache = second.block_on(new_process_cache(&memcached, TIMEOUT));
    let upstream = Upstream::default().taking_millis(4000);
    let call = |cache: &Cache| {
        let upstream = upstream.clone();
        cache.scope(async move { report(&upstream, 7).await })
    };
    let drive = |millis| {
        first.block_on(async { tokio::time::sleep(Duration::from_millis(millis)).await });
    };
    let _leader = first.spawn(call(&cache));
    drive(100);
    let follower = call(&cache);
    let follower = std::thread::spawn(move || second.block_on(follower));
    drive(300);
    if during_renewal {
        memcached.suspend();
    }
    drive(300);
    let _first = stop(first);
    if during_renewal {
        memcached.resume();
    }
    std::thread::sleep(Duration::from_millis(300));
    let waits = elsewhere.block_on(async {
        let other = new_process_cache(&memcached, TIMEOUT).await;
        call(&other).await
    });
    assert_eq!(follower.join().expect("no task panics"), Ok(2));
    assert_eq!(waits, Ok(2), "the other process waits for the second fetch");
    assert_eq!(upstream.fetches(), 2);
}

#[test]
fn renewals_move_when_their_runtime_ends() {
    assert_renewals_move(false, |first| {
        drop(first);
        None
    });
}

#[test]
fn renewals_move_when_their_runtime_idles() {
    assert_renewals_move(false, Some);
}

#[test]
fn renewals_move_when_a_renewal_is_interrupted() {
    assert_renewals_move(true, Some);
}
