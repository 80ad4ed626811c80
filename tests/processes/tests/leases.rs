//! Tests of *leases*: a lease is the right of one process to fetch a missing value. Leases are
//! short, are renewed while their holder fetches, and are given back when the holder ends normally.
//!
//! These tests run in a process of their own because they measure time.
#![allow(missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Memcached, Upstream, UpstreamDown};

const SHORT_PROGRAM: &str = env!("CARGO_BIN_EXE_short_program");

/// Runs the program `short_program`. Returns how its call was answered and how long the call took.
fn run(address: &str, settings: &[(&str, &str)]) -> (String, Duration) {
    let mut command = Command::new(SHORT_PROGRAM);
    command.env("CACHE_URL", format!("memcache://{address}?timeout=1s"));
    let output = command.envs(settings.iter().copied()).output().expect("the program starts");
    let output = String::from_utf8(output.stdout).expect("the output is UTF-8");
    match output.trim().split_once(' ') {
        Some((how, millis)) => {
            (how.to_owned(), Duration::from_millis(millis.parse().expect("the text is a number")))
        }
        None => ("ended".to_owned(), Duration::ZERO),
    }
}

#[test]
fn a_program_without_flush_leaves_its_value() {
    for runtime in ["multi_thread", "current_thread"] {
        let memcached = Memcached::start();
        let run = || run(&memcached.address(), &[("RUNTIME", runtime)]);
        assert_eq!(run().0, "fetched");
        for _ in 0..3 {
            let (how, took) = run();
            assert_eq!(how, "hit", "{runtime}");
            assert!(took < Duration::from_millis(200), "{runtime}: a hit is quick: {took:?}");
        }
    }
}

#[test]
fn a_cancelled_call_leaves_no_lease() {
    for runtime in ["multi_thread", "current_thread"] {
        let memcached = Memcached::start();
        let gives_up = [("RUNTIME", runtime), ("END", "gives_up"), ("FETCH_MS", "500")];
        assert_eq!(run(&memcached.address(), &gives_up).0, "gave-up");
        let (how, took) = run(&memcached.address(), &[("RUNTIME", runtime)]);
        assert_eq!(how, "fetched");
        assert!(
            took < Duration::from_millis(250),
            "{runtime}: the call waits for no lease: {took:?}"
        );
        assert_eq!(run(&memcached.address(), &[]).0, "hit", "the second program wins the lease");
    }
}

#[test]
fn an_orphaned_lease_delays_about_one_second() {
    let memcached = Memcached::start();
    assert_eq!(run(&memcached.address(), &[("END", "aborts")]).0, "ended");
    let (how, took) = run(&memcached.address(), &[]);
    assert_eq!(how, "fetched");
    assert!(took < Duration::from_millis(1100), "the lease soon ends: {took:?}");
}

#[test]
fn an_orphaned_renewed_lease_ends_in_seconds() {
    let memcached = Memcached::start();
    assert_eq!(run(&memcached.address(), &[("END", "aborts"), ("FETCH_MS", "1300")]).0, "ended");
    let (how, took) = run(&memcached.address(), &[]);
    assert_eq!(how, "fetched");
    assert!(took < Duration::from_millis(3500), "the renewed lease soon ends: {took:?}");
    assert_eq!(run(&memcached.address(), &[]).0, "hit", "the second process wins the lease");
}

#[coordinator_cached(name = "slow_report", version = edition, skip(upstream), entry = slow_entry)]
async fn slow_report(upstream: &Upstream, edition: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[coordinator_cached(name = "another_report", version = edition, skip(upstream))]
async fn report(upstream: &Upstream, edition: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

/// Returns a cache like that of a new process: it shares only memcached with other caches.
async fn new_process_cache(address: &str) -> Cache {
    let builder = Cache::builder().memcached([address]);
    builder
        .remote_timeout(Duration::from_millis(200))
        .build()
        .await
        .expect("the settings are valid")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_processes_share_a_six_second_fetch() {
    let memcached = Memcached::start();
    let upstream = Upstream::default().taking_millis(6000);
    let began = Instant::now();
    let mut calls = Vec::new();
    for _ in 0..4 {
        let (cache, upstream) = (new_process_cache(&memcached.address()).await, upstream.clone());
        calls.push(tokio::spawn(cache.scope(async move { slow_report(&upstream, 7).await })));
    }
    for call in calls {
        assert_eq!(call.await.expect("no task panics"), Ok(1));
    }
    assert_eq!(upstream.fetches(), 1);
    let took = began.elapsed();
    assert!(took < Duration::from_millis(6500), "the processes share one fetch: {took:?}");
}

/// A holder that renews its lease leaves a *marker* in memcached. The marker shows waiting
/// processes that the holder is alive, and they then wait longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_lease_carries_a_marker_too() {
    let memcached = Memcached::start();
    let new_process_cache = async || {
        let builder = Cache::builder().memcached([memcached.address()]);
        builder.lease(Duration::from_secs(10)).build().await.expect("the settings are valid")
    };
    let upstream = Upstream::default().taking_millis(2500);
    let holder = new_process_cache().await;
    let call = {
        let upstream = upstream.clone();
        tokio::spawn(holder.scope(async move { slow_report(&upstream, 40).await }))
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let waiter = {
        let (cache, upstream) = (new_process_cache().await, upstream.clone());
        tokio::spawn(cache.scope(async move { slow_report(&upstream, 40).await }))
    };
    tokio::time::sleep(Duration::from_millis(650)).await;
    let key = holder.scope(async { slow_entry(40).key().to_string() }).await;
    assert!(memcached.command(&format!("mg {key} v")).starts_with("VA 19"), "the item is a marker");
    for call in [call, waiter] {
        assert_eq!(call.await.expect("no task panics"), Ok(1));
    }
    assert_eq!(upstream.fetches(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_fetch_stores_nothing_after_an_invalidation() {
    let memcached = Memcached::start();
    let upstream = Upstream::default().taking_millis(1800);
    let holder = new_process_cache(&memcached.address()).await;
    let call = {
        let upstream = upstream.clone();
        tokio::spawn(holder.scope(async move { slow_report(&upstream, 8).await }))
    };
    // Wait until the lease has been renewed.
    tokio::time::sleep(Duration::from_millis(800)).await;
    let other = new_process_cache(&memcached.address()).await;
    other.scope(async { slow_entry(8).invalidate().await }).await.expect("memcached is reached");
    assert_eq!(call.await.expect("no task panics"), Ok(1));
    holder.flush().await;
    let found = other.scope(async { slow_entry(8).get().await }).await;
    assert!(!found.is_found(), "the value of the earlier fetch is not stored");
    assert_eq!(holder.stats().get("slow_report").expect("the function was called").fills, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_added_value_replaces_a_renewed_lease() {
    let memcached = Memcached::start();
    let upstream = Upstream::default().taking_millis(1500);
    let holder = new_process_cache(&memcached.address()).await;
    let call = {
        let upstream = upstream.clone();
        tokio::spawn(holder.scope(async move { slow_report(&upstream, 9).await }))
    };
    tokio::time::sleep(Duration::from_millis(800)).await;
    let other = new_process_cache(&memcached.address()).await;
    assert!(other.scope(async { slow_entry(9).add(77).await }).await);
    assert_eq!(call.await.expect("no task panics"), Ok(1));
    holder.flush().await;
    let third = new_process_cache(&memcached.address()).await;
    let found = third.scope(async { slow_entry(9).get().await }).await;
    assert_eq!(found.into_option(), Some(77));
}

/// Starts a server that reports for each key, at any time, that another caller holds the lease.
/// Returns the server's address.
fn start_busy_server() -> String {
    fn serve(stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let mut stream = stream;
        while let Some(line) = lines.next() {
            let line = line?;
            let answer = match line.split(' ').next().unwrap_or_default() {
                "version" => "VERSION 1.6.18\r\n",
                "mg" => "VA 0 c7 t2 Z\r\n\r\n",
                "ms" => {
                    lines.next();
                    "NF\r\n"
                }
                "mn" => "MN\r\n",
                "stats" => "END\r\n",
                _ => "NF\r\n",
            };
            stream.write_all(answer.as_bytes())?;
        }
        Ok(())
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("the listener has an address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

#[tokio::test]
async fn a_forever_busy_server_delays_calls_briefly() {
    let cache = new_process_cache(&start_busy_server()).await;
    let upstream = Upstream::default().taking_millis(100);
    let began = Instant::now();
    for edition in 0..3 {
        cache.scope(slow_report(&upstream, edition)).await.expect("the call succeeds");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_millis(2200), "calls wait briefly for a lease: {took:?}");
    // Wait so long that the leases of killed processes would have ended.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let began = Instant::now();
    for edition in 3..13 {
        cache.scope(slow_report(&upstream, edition)).await.expect("the call succeeds");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_millis(1800), "calls no longer wait for a lease: {took:?}");
    assert_eq!(upstream.fetches(), 13);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_processes_refetch_once_after_a_failure() {
    let memcached = Memcached::start();
    let upstream = Upstream::default().taking_millis(1300);
    let quick = Upstream::default().taking_millis(300);
    upstream.fail();
    let holder = new_process_cache(&memcached.address()).await;
    let failing = {
        let upstream = upstream.clone();
        tokio::spawn(holder.scope(async move { slow_report(&upstream, 20).await }))
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut calls = Vec::new();
    for _ in 0..6 {
        let (cache, quick) = (new_process_cache(&memcached.address()).await, quick.clone());
        calls.push(tokio::spawn(cache.scope(async move { slow_report(&quick, 20).await })));
    }
    assert_eq!(failing.await.expect("no task panics"), Err(UpstreamDown));
    for call in calls {
        assert_eq!(call.await.expect("no task panics"), Ok(1));
    }
    assert_eq!(quick.fetches(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_wait_for_leases_after_orphaned_leases() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached.address()).await;
    for edition in 0..3 {
        // The read below leaves the same placeholder as a process that is killed while it fetches.
        let key = cache.scope(async { slow_entry(edition).key().to_string() }).await;
        assert!(memcached.command(&format!("mg {key} N2 v c")).starts_with("VA 0"));
        cache.scope(slow_report(&Upstream::default(), edition)).await.expect("the call succeeds");
    }
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let upstream = Upstream::default().taking_millis(400);
    let other = new_process_cache(&memcached.address()).await;
    let first = {
        let upstream = upstream.clone();
        tokio::spawn(other.scope(async move { report(&upstream, 30).await }))
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(cache.scope(report(&upstream, 30)).await, Ok(1), "the call waits for the lease");
    assert_eq!(first.await.expect("no task panics"), Ok(1));
}
