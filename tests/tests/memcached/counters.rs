//! Tests the counters of calls, fills, leases and servers, with memcached processes. A *lease* is
//! the right of one caller to fetch a missing value, and a *fill* stores the fetched value in
//! memcached.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cached_core::event::{Event, Observer};
use cached_core::testing::TestCache;
use cached_core::{
    Cache, CallResult, DeclarationStats, Health, ServerState, ServerStats, Tier,
    coordinator_cached, with_outcome,
};
use cached_tests::{Memcached, Upstream, UpstreamDown};

use crate::functions::{new_process_cache, payment, profile, profile_entry};

#[coordinator_cached(
    name = "counted_rate",
    overwrite(reason = "rates change without a version"),
    skip(upstream),
    ttl = "2s",
    local_ttl = "1s",
    stale_if_error = "1h"
)]
async fn counted_rate(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    let _ = number;
    upstream.fetch().await
}

fn stats_of(cache: &Cache, name: &str) -> DeclarationStats {
    cache.stats().get(name).expect("the function is declared")
}

fn only_server(cache: &Cache) -> ServerStats {
    let mut servers = cache.servers();
    assert_eq!(servers.len(), 1);
    servers.remove(0)
}

/// Calls `payment`, which must succeed.
async fn pay(cache: &Cache, upstream: &Upstream, number: u64) {
    let number = number.to_string();
    cache.scope(payment(upstream, &number, "paid")).await.expect("the call succeeds");
}

/// Waits until `condition` is true, for 20 s at most.
async fn wait_until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < give_up, "{what} within 20 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn leases_and_fills_are_counted_by_their_outcome() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default();
    a.scope(payment(&upstream, "1", "paid")).await.expect("the call succeeds");
    a.flush().await;
    b.scope(payment(&upstream, "1", "paid")).await.expect("the call succeeds");
    let (a_stats, b_stats) = (stats_of(&a, "payment"), stats_of(&b, "payment"));
    assert_eq!((a_stats.leases_won, a_stats.leases_busy, a_stats.fills), (1, 0, 1));
    assert_eq!((b_stats.leases_won, b_stats.remote_hits, b_stats.misses), (0, 1, 0));

    // While process A fetches, process B finds the lease taken.
    let slow = Upstream::default().taking_millis(300);
    let (one, other) = tokio::join!(
        a.scope(payment(&slow, "2", "paid")),
        b.scope(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            payment(&slow, "2", "paid").await
        })
    );
    assert_eq!(one, other);
    let b_stats = stats_of(&b, "payment");
    assert_eq!((b_stats.leases_busy, b_stats.remote_hits), (1, 2), "{b_stats:?}");

    // B invalidates the key while A fetches it, so A's fill is dropped.
    let fetch = a.scope(profile(&slow, 1));
    let invalidate = b.scope(async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        profile_entry(1).invalidate().await.expect("memcached answers");
    });
    let (fetched, ()) = tokio::join!(fetch, invalidate);
    assert!(fetched.is_ok());
    a.flush().await;
    let stats = stats_of(&a, "profile");
    assert_eq!((stats.fills, stats.fills_dropped, stats.fills_overtaken), (0, 1, 1), "{stats:?}");
}

#[tokio::test]
async fn a_stale_answer_is_counted_once() {
    let (cache, upstream) = (TestCache::new(), Upstream::default());
    cache.run(counted_rate(&upstream, 1)).await.expect("the call succeeds");
    cache.advance(Duration::from_secs(4));
    upstream.fail();
    assert_eq!(cache.run(counted_rate(&upstream, 1)).await, Ok(1));
    let stats = cache.stats("counted_rate");
    assert_eq!((stats.misses, stats.stale_answers, stats.calls()), (1, 1, 2), "{stats:?}");
    assert_eq!((stats.fetches, stats.fetch_errors), (2, 1), "{stats:?}");
}

#[coordinator_cached(name = "counted_none", version = number, skip(upstream))]
async fn counted_none(upstream: &Upstream, number: u32) -> Result<Option<usize>, UpstreamDown> {
    upstream.fetch().await.map(|_| None)
}

/// After each call, the lease is given back in the background.
#[tokio::test]
async fn a_process_does_not_wait_for_its_own_lease() {
    let memcached = Memcached::start();
    let (cache, upstream) = (new_process_cache(&memcached).await, Upstream::default());
    for _ in 0..300 {
        cache.scope(counted_none(&upstream, 1)).await.expect("the call succeeds");
    }
    let stats = stats_of(&cache, "counted_none");
    assert_eq!((stats.misses, stats.leases_won, stats.not_cached), (300, 300, 300), "{stats:?}");
    assert_eq!((stats.leases_busy, stats.lease_timeouts), (0, 0), "{stats:?}");
}

/// A call that waits while another call reads memcached is a hit too: nobody fetches.
#[tokio::test]
async fn all_callers_of_a_found_value_are_hits() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default();
    a.scope(payment(&upstream, "1", "paid")).await.expect("the call succeeds");
    a.flush().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let upstream = upstream.clone();
        calls.spawn(b.scope(async move { with_outcome(payment(&upstream, "1", "paid")).await }));
    }
    while let Some(call) = calls.join_next().await {
        let (answer, outcome) = call.expect("no task panics");
        answer.expect("the call succeeds");
        let outcome = outcome.expect("the call has an answer");
        assert_eq!(outcome.result(), CallResult::Hit, "{outcome:?}");
        if outcome.tier() == Some(Tier::Remote) {
            assert!(outcome.time_left() > Some(Duration::from_secs(1700)), "{outcome:?}");
        }
    }
    let stats = stats_of(&b, "payment");
    assert!(stats.remote_hits > 1, "some calls wait for the read of another: {stats:?}");
    assert_eq!((stats.hits(), stats.waits, stats.fetches), (50, 0, 0), "{stats:?}");
}

/// An observer that collects the changes of the servers' states.
#[derive(Default)]
struct ServerChangeRecorder(Mutex<Vec<String>>);

impl Observer for ServerChangeRecorder {
    fn event(&self, event: &Event<'_>) {
        let change = match event {
            Event::ServerEjected { address, .. } => format!("{address} is out"),
            Event::ServerBack { address, .. } => format!("{address} is back"),
            _ => return,
        };
        self.0.lock().expect("no thread panics while it holds the lock").push(change);
    }
}

/// An observer that blocks in `ServerFenced` until the sender of its channel is dropped.
struct FenceBlockingObserver(Mutex<Receiver<()>>);

impl Observer for FenceBlockingObserver {
    fn event(&self, event: &Event<'_>) {
        if let Event::ServerFenced { .. } = event {
            let _ = self.0.lock().expect("no thread panics while it holds the lock").recv();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_server_comes_back_while_an_observer_blocks() {
    let (kept, removed) = (Memcached::start(), Memcached::start());
    let (release, released) = channel();
    let changes = Arc::new(ServerChangeRecorder::default());
    let builder = Cache::builder().memcached([kept.address()]);
    let builder = builder.observer(Arc::clone(&changes) as Arc<dyn Observer>);
    let builder = builder.observer(Arc::new(FenceBlockingObserver(Mutex::new(released))));
    let cache = builder.build().await.expect("the settings are valid");
    cache.set_memcached([kept.address(), removed.address()]).expect("a valid list");
    let (changed, address) = (cache.clone(), kept.address());
    let change = move || changed.set_memcached([address]).expect("a valid list");
    let change = tokio::task::spawn_blocking(change);
    let back = format!("{} is back", kept.address());
    wait_until("the server is back", async || {
        changes.0.lock().expect("no thread panics while it holds the lock").contains(&back)
    })
    .await;
    assert_eq!(only_server(&cache).state, ServerState::Up);
    assert!(!change.is_finished(), "the observer still blocks");
    drop(release);
    change.await.expect("the observer returns");
}

#[tokio::test]
async fn the_health_names_a_killed_server() {
    let mut memcached = Memcached::start();
    let (port, address) = (memcached.port(), memcached.address());
    let changes = Arc::new(ServerChangeRecorder::default());
    let builder = Cache::builder().memcached([&address]).remote_timeout(Duration::from_secs(1));
    let builder = builder.observer(Arc::clone(&changes) as Arc<dyn Observer>);
    let cache = builder.build().await.expect("the settings are valid");
    let upstream = Upstream::default();
    assert!(only_server(&cache).durations.count() == 0 && cache.health().is_up());

    for number in 0..10 {
        pay(&cache, &upstream, number).await;
    }
    cache.flush().await;
    let server = only_server(&cache);
    assert_eq!((server.address.as_str(), server.state), (address.as_str(), ServerState::Up));
    assert!(
        (11..=20).contains(&server.exchanges),
        "10 reads, and 10 writes in batches: {server:?}"
    );
    assert_eq!((server.errors, server.timeouts, server.ejections), (0, 0, 0), "{server:?}");
    assert_eq!(server.durations.count(), server.exchanges);
    assert!(server.durations.sum() > Duration::ZERO);

    memcached.kill();
    let mut number = 10;
    wait_until("the server is ejected", async || {
        pay(&cache, &upstream, number).await;
        number += 1;
        !cache.health().is_up()
    })
    .await;
    let server = only_server(&cache);
    assert_eq!((server.state, server.ejections), (ServerState::Ejected, 1), "{server:?}");
    assert!(server.errors >= 3, "{server:?}");
    let health = cache.health();
    assert!(matches!(&health, Health::Degraded { servers, .. } if *servers == [address.clone()]));
    assert_eq!(health.to_string(), format!("degraded: memcached at {address} is out of rotation"));

    let failed = stats_of(&cache, "payment").remote_errors;
    assert!(failed > 0, "the calls before the ejection have failed");
    for _ in 0..50 {
        pay(&cache, &upstream, number).await;
        number += 1;
    }
    let stats = stats_of(&cache, "payment");
    assert_eq!(stats.remote_errors, failed, "calls do not ask an ejected server");

    let _memcached = Memcached::start_on(port).expect("the port is free");
    wait_until("the server is back", async || cache.health().is_up()).await;
    assert_eq!(only_server(&cache).state, ServerState::Up);
    let changes = changes.0.lock().expect("no thread panics while it holds the lock");
    assert_eq!(*changes, [format!("{address} is out"), format!("{address} is back")]);
    let stats = stats_of(&cache, "payment");
    assert_eq!((stats.calls(), stats.misses), (number, number), "{stats:?}");
    assert_eq!(stats.fetches, upstream.fetches() as u64, "{stats:?}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_counts_timeouts() {
    let memcached = Memcached::start();
    let builder = Cache::builder().memcached([memcached.address()]);
    let cache = builder.remote_timeout(Duration::from_millis(50)).build().await;
    let cache = cache.expect("the settings are valid");
    let upstream = Upstream::default();
    cache.scope(payment(&upstream, "1", "paid")).await.expect("the call succeeds");
    cache.flush().await;
    memcached.suspend();
    let mut number = 1;
    // After three timeouts that count, the server is ejected: it is taken out of rotation. A
    // timeout does not count if this process itself was paused, so more than three can occur.
    wait_until("the server is ejected", async || {
        number += 1;
        pay(&cache, &upstream, number).await;
        !cache.health().is_up()
    })
    .await;
    let server = only_server(&cache);
    assert!(server.timeouts >= 3 && server.errors >= server.timeouts, "{server:?}");
    assert!(server.exchanges > server.errors, "{server:?}");
    let slow = server.durations.quantile(1.0).expect("there are exchanges");
    assert!(slow >= Duration::from_millis(40), "{server:?}");
    memcached.resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_add_up_while_memcached_restarts() {
    const TASKS: u32 = 12;
    const STEPS: u32 = 250;
    let mut memcached = Memcached::start();
    let port = memcached.port();
    let mut processes = Vec::new();
    for _ in 0..3 {
        let builder = Cache::builder().memcached([memcached.address()]);
        let builder = builder.remote_timeout(Duration::from_millis(200));
        processes.push(builder.build().await.expect("the settings are valid"));
    }
    let upstream = Upstream::default().taking_millis(2);
    let (made, steps) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let tasks = (0..TASKS).map(|task| {
        let cache = &processes[task as usize % processes.len()];
        let (upstream, made, steps) = (upstream.clone(), Arc::clone(&made), Arc::clone(&steps));
        tokio::spawn(cache.scope(async move {
            for step in 0..STEPS {
                // New keys appear all the time, so commands are sent to memcached during its outage
                // too.
                let number = step / 3;
                made.fetch_add(1, Ordering::Relaxed);
                steps.fetch_add(1, Ordering::Relaxed);
                match (step + task) % 8 {
                    0 => {
                        let limit = Duration::from_millis(1);
                        let call = counted_rate(&upstream, number);
                        let _ = tokio::time::timeout(limit, call).await;
                    }
                    1 if step % 64 == 1 => {
                        upstream.fail();
                        let _ = counted_rate(&upstream, number).await;
                    }
                    2 => {
                        upstream.recover();
                        let _ = counted_rate(&upstream, number).await;
                    }
                    _ => drop(counted_rate(&upstream, number).await),
                }
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }))
    });
    let tasks: Vec<_> = tasks.collect();
    let all = u64::from(TASKS * STEPS);
    wait_until("a third of the load is done", async || steps.load(Ordering::Relaxed) > all / 3)
        .await;
    memcached.kill();
    wait_until("two thirds of the load are done", async || {
        steps.load(Ordering::Relaxed) > all * 2 / 3
    })
    .await;
    let _memcached = Memcached::start_on(port).expect("the port is free");
    for task in tasks {
        task.await.expect("no task panics");
    }
    let mut total = DeclarationStats::default();
    for cache in &processes {
        cache.flush().await;
        let stats = stats_of(cache, "counted_rate");
        let refused = [
            stats.fills_queue_full,
            stats.fills_not_storable,
            stats.fills_ttl_too_short,
            stats.fills_overtaken,
            stats.fills_failed,
        ];
        assert_eq!(refused.iter().sum::<u64>(), stats.fills_dropped, "{stats:?}");
        total += stats;
        let server = only_server(cache);
        assert!(server.ejections >= 1 && server.errors >= 3, "{server:?}");
    }
    assert_eq!(total.calls(), made.load(Ordering::Relaxed), "{total:?}");
    assert_eq!(total.fetches, upstream.fetches() as u64, "{total:?}");
    for (name, count) in [
        ("local hits", total.local_hits),
        ("remote hits", total.remote_hits),
        ("misses", total.misses),
        ("leases", total.leases_won),
        ("fills", total.fills),
        ("remote errors", total.remote_errors),
        ("cancelled calls", total.cancelled),
    ] {
        assert!(count > 0, "the load has {name}: {total:?}");
    }
}
