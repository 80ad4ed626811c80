//! Runtimes that come and go, that nobody drives, that lack a clock or have one that is paused.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Down, Memcached, Upstream};
use tokio::runtime::{Builder, Runtime};

#[coordinator_cached(
    name = "cube",
    version = number,
    local = false,
    skip(upstream),
    entry = cube_entry
)]
async fn cube(upstream: &Upstream, number: u64) -> Result<u64, Down> {
    upstream.answer().await?;
    Ok(number * number * number)
}

#[coordinator_cached(
    name = "level",
    overwrite(reason = "a level changes with time"),
    local = false,
    skip(upstream),
    entry = level_entry
)]
async fn level(upstream: &Upstream, number: u64) -> Result<usize, Down> {
    let _ = number;
    upstream.answer().await
}

#[coordinator_cached(name = "report", version = number, skip(upstream))]
async fn report(upstream: &Upstream, number: u64) -> Result<usize, Down> {
    upstream.answer().await
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn process(memcached: &Memcached, timeout: Duration) -> Cache {
    let builder = Cache::builder().memcached([memcached.address()]).remote_timeout(timeout);
    builder.build().await.expect("fits")
}

const TIMEOUT: Duration = Duration::from_millis(500);

fn errors(cache: &Cache) -> u64 {
    cache.stats().total().remote_errors
}

#[test]
fn sixteen_runtimes_keep_the_connections_they_have() {
    let memcached = Memcached::start();
    let cache = runtime().block_on(process(&memcached, Duration::from_secs(5)));
    let before = memcached.stat("total_connections");
    let threads: Vec<_> = (0..16)
        .map(|thread| {
            let cache = cache.clone();
            std::thread::spawn(move || {
                let upstream = Upstream::default();
                runtime().block_on(async {
                    for number in 0..200 {
                        let number = thread * 1000 + number;
                        cache.scope(cube(&upstream, number)).await.expect("fetched");
                        // Every runtime has its turn between two calls of this one.
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    cache.flush().await;
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no call panics"));
    assert_eq!(errors(&cache), 0);
    let dialled = memcached.stat("total_connections") - before - 1;
    println!("{dialled} connections");
    assert!(dialled <= 64, "{dialled} connections for 16 runtimes");
}

/// How many descriptors this process has open.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("Linux").count()
}

#[test]
fn a_runtime_that_has_ended_leaves_nothing_behind() {
    let memcached = Memcached::start();
    let cache = runtime().block_on(process(&memcached, Duration::from_secs(5)));
    let upstream = Upstream::default();
    let before = descriptors();
    for number in 0..300 {
        runtime().block_on(async {
            cache.scope(cube(&upstream, number)).await.expect("fetched");
            cache.flush().await;
        });
    }
    assert_eq!(errors(&cache), 0);
    let left = descriptors().saturating_sub(before);
    assert!(left < 20, "{left} descriptors of 300 runtimes");
}

#[test]
fn a_read_on_a_connection_that_was_closed_while_nobody_looked_is_asked_again() {
    let mut memcached = Memcached::start();
    let runtime = runtime();
    let cache = runtime.block_on(process(&memcached, TIMEOUT));
    let upstream = Upstream::default();
    runtime.block_on(async {
        cache.scope(cube(&upstream, 1)).await.expect("fetched");
        cache.flush().await;
        cache.scope(cube(&upstream, 1)).await.expect("found");
        // This blocks the runtime's only thread: it sees no connection close.
        memcached.kill();
        let port = memcached.port();
        memcached = Memcached::start_on(port).expect("the port is free");
        cache.scope(cube(&upstream, 1)).await.expect("fetched");
        cache.flush().await;
        cache.scope(cube(&upstream, 1)).await.expect("found");
    });
    let stats = cache.stats().get("cube").expect("called");
    assert_eq!((stats.remote_errors, stats.fetches), (0, 2), "{stats:?}");
}

/// Calls that time out while memcached is stopped; what it then gives them is given back.
async fn leases_won_too_late(calls: u64) {
    let memcached = Memcached::start();
    let cache = process(&memcached, Duration::from_millis(200)).await;
    let upstream = Upstream::default();
    // So many that two flushers and all direct exchanges have a connection.
    let warm: Vec<_> = (1000..1100)
        .map(|number| {
            let (cache, upstream) = (cache.clone(), upstream.clone());
            tokio::spawn(async move { cache.scope(cube(&upstream, number)).await })
        })
        .collect();
    for call in warm {
        call.await.expect("no call panics").expect("fetched");
    }
    cache.flush().await;
    let items = memcached.stat("total_items");
    memcached.stop();
    let late: Vec<_> = (0..calls)
        .map(|number| {
            let (cache, upstream) = (cache.clone(), upstream.clone());
            tokio::spawn(async move { cache.scope(cube(&upstream, number)).await })
        })
        .collect();
    for call in late {
        call.await.expect("no call panics").expect("fetched");
    }
    memcached.resume();
    let mut keys = Vec::new();
    for number in 0..calls {
        keys.push(cache.scope(async { cube_entry(number).key().to_string() }).await);
    }
    let give_up = Instant::now() + Duration::from_millis(800);
    let held =
        || keys.iter().filter(|key| memcached.command(&format!("mg {key} t")) != "EN").count();
    // It takes the commands first.
    tokio::time::sleep(Duration::from_millis(100)).await;
    while held() > 0 {
        assert!(Instant::now() < give_up, "{} of {calls} leases are held", held());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(memcached.stat("total_items") >= items + calls, "they were won");
}

#[tokio::test]
async fn a_lease_that_is_won_too_late_is_given_back() {
    leases_won_too_late(1).await;
}

#[tokio::test]
async fn leases_that_a_batch_wins_too_late_are_given_back() {
    leases_won_too_late(50).await;
}

#[test]
fn a_runtime_without_time_or_io_has_no_remote_tier_and_no_call_panics() {
    let memcached = Memcached::start();
    let (only_time, only_io) = (
        Builder::new_current_thread().enable_time().build(),
        Builder::new_current_thread().enable_io().build(),
    );
    let neither = Builder::new_multi_thread().worker_threads(1).build();
    for runtime in [only_time, only_io, neither] {
        let runtime = runtime.expect("a runtime");
        let upstream = Upstream::default();
        let cache = runtime.block_on(process(&memcached, TIMEOUT));
        runtime.block_on(cache.scope(async {
            for number in 0..5 {
                assert_eq!(cube(&upstream, number).await, Ok(number * number * number));
                assert_eq!(level(&upstream, number).await.map(|_| ()), Ok(()));
                assert!(!cube_entry(number).get().await.is_found());
                assert!(level_entry(number).invalidate().await.is_err(), "memcached is not told");
                assert!(level_entry(number).overwrite(1).await.is_err(), "memcached is not told");
                let _ = cube_entry(number).add(number).await;
            }
        }));
        runtime.block_on(cache.flush());
        assert_eq!(upstream.fetches(), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_and_one_that_goes_on_again_fail_no_exchange() {
    let memcached = Memcached::start();
    let cache = process(&memcached, TIMEOUT).await;
    let upstream = Upstream::default();
    let calls = async |numbers: std::ops::Range<u64>| {
        for number in numbers {
            cache.scope(cube(&upstream, number)).await.expect("fetched");
        }
        cache.flush().await;
    };
    calls(0..10).await;
    calls(0..10).await;
    let stats = cache.stats().get("cube").expect("called");
    assert_eq!((stats.remote_errors, stats.fetches, stats.remote_hits), (0, 10, 10), "{stats:?}");
    tokio::time::advance(Duration::from_secs(100)).await;
    tokio::time::resume();
    calls(0..20).await;
    let stats = cache.stats().get("cube").expect("called");
    assert_eq!((stats.remote_errors, stats.fetches, stats.remote_hits), (0, 20, 20), "{stats:?}");
    // A server that hangs costs what it costs in real time.
    tokio::time::pause();
    memcached.stop();
    let began = Instant::now();
    cache.scope(cube(&upstream, 1)).await.expect("fetched");
    let took = began.elapsed();
    assert!(took >= TIMEOUT && took < TIMEOUT * 3, "{took:?}");
}

/// A fetch begins on one runtime, which runs for long enough to renew its lease once, and then no more:
/// `stop` sees to that. A follower on another runtime takes the lead over. Meanwhile another process calls
/// the function, which waits for as long as the lease is alive. Where `in_mid_renewal` is true, memcached
/// answers the renewal only when nobody reads the answer.
fn a_lease_goes_on_elsewhere(in_mid_renewal: bool, stop: impl FnOnce(Runtime) -> Option<Runtime>) {
    let memcached = Memcached::start();
    let (first, second, elsewhere) = (runtime(), runtime(), runtime());
    let cache = second.block_on(process(&memcached, TIMEOUT));
    let upstream = Upstream::default().taking(4000);
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
    if in_mid_renewal {
        memcached.stop();
    }
    drive(300);
    let _first = stop(first);
    if in_mid_renewal {
        memcached.resume();
    }
    std::thread::sleep(Duration::from_millis(300));
    let waits = elsewhere.block_on(async {
        let other = process(&memcached, TIMEOUT).await;
        call(&other).await
    });
    assert_eq!(follower.join().expect("no call panics"), Ok(2));
    assert_eq!(waits, Ok(2), "it waited for the second leader");
    assert_eq!(upstream.fetches(), 2);
}

#[test]
fn a_lease_is_renewed_by_another_runtime_when_its_own_ends() {
    a_lease_goes_on_elsewhere(false, |first| {
        drop(first);
        None
    });
}

#[test]
fn a_lease_is_renewed_by_another_runtime_when_its_own_is_not_driven() {
    a_lease_goes_on_elsewhere(false, Some);
}

#[test]
fn a_lease_is_renewed_by_another_runtime_when_its_own_stands_still_in_mid_renewal() {
    a_lease_goes_on_elsewhere(true, Some);
}
