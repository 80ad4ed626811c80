//! Tests what happens to a key whose memcached server is lost.
//!
//! Each key is stored on its *home server*. If the home server is lost, the key moves to another
//! server, its *gutter server*. The first call that finds the home server lost moves the key. This
//! call does not wait until its process *ejects* the home server, that is, stops using it.
//!
//! These tests run in a process of their own because they measure time.
#![allow(missing_docs)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cached_core::testing::{TestCache, TestMemcached};
use cached_core::{Cache, coordinator_cached};
use cached_tests::{FakeMemcached, Memcached, ServerKind};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const FETCH_TIME: Duration = Duration::from_millis(20);
const TIMEOUT: Duration = Duration::from_millis(800);
/// The delay that a busy machine can add.
const LATENESS: Duration = Duration::from_millis(300);

/// An upstream that counts the fetches of each key.
#[derive(Clone, Default)]
struct CountingUpstream(Arc<Mutex<HashMap<u32, u32>>>);

impl CountingUpstream {
    async fn fetch(&self, number: u32) -> u32 {
        *self
            .0
            .lock()
            .expect("no thread panics while it holds the lock")
            .entry(number)
            .or_default() += 1;
        tokio::time::sleep(FETCH_TIME).await;
        number
    }

    fn fetches(&self, number: u32) -> u32 {
        self.0
            .lock()
            .expect("no thread panics while it holds the lock")
            .get(&number)
            .copied()
            .unwrap_or_default()
    }
}

#[coordinator_cached(
    name = "record",
    version = number,
    local = false,
    skip(upstream),
    entry = record_entry
)]
async fn record(upstream: &CountingUpstream, number: u32) -> Result<u32, String> {
    Ok(upstream.fetch(number).await)
}

/// Returns a cache that stands for a new process. It shares memcached with the other caches of the
/// test, and nothing else.
async fn new_process_cache(servers: &[Memcached]) -> Cache {
    let builder = Cache::builder().memcached(servers.iter().map(Memcached::address));
    // A *lease* is the right of one call to fetch. A process without the lease must wait until the
    // holder of the lease has stored the value.
    let builder = builder.remote_timeout(TIMEOUT).lease_wait(Duration::from_secs(20));
    builder.build().await.expect("the settings are valid")
}

fn key(cache: &Cache, number: u32) -> String {
    let key = std::pin::pin!(cache.scope(async move { record_entry(number).key().to_string() }));
    match key.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(key) => key,
        std::task::Poll::Pending => unreachable!("a companion returns an entry at once"),
    }
}

/// Returns `count` arguments of `record` whose keys have the first server as their home server.
async fn keys_of_first_server(servers: &[Memcached], count: usize) -> Vec<u32> {
    let (cache, upstream) = (new_process_cache(servers).await, CountingUpstream::default());
    let mut keys = Vec::new();
    for number in 10_000.. {
        cache.scope(record(&upstream, number)).await.expect("the call succeeds");
        cache.flush().await;
        if servers[0].remaining_ttl(&key(&cache, number)).is_some() {
            keys.push(number);
        }
        if keys.len() == count {
            break;
        }
    }
    keys
}

/// Calls `record` from two processes in turn, with keys whose home server is lost. Checks that each
/// key is fetched once in total, and that no call takes longer than one timeout plus one fetch.
async fn assert_one_fetch_in_turn(servers: &[Memcached], keys: &[u32]) {
    let (a, b, upstream) = (
        new_process_cache(servers).await,
        new_process_cache(servers).await,
        CountingUpstream::default(),
    );
    for (turn, &number) in keys.iter().enumerate() {
        let in_turn = if turn % 2 == 0 { [&a, &b] } else { [&b, &a] };
        for cache in in_turn {
            let began = Instant::now();
            let answer = cache.scope(record(&upstream, number)).await;
            let took = began.elapsed();
            assert_eq!(answer, Ok(number));
            assert!(took < TIMEOUT + FETCH_TIME + LATENESS, "one timeout and one fetch: {took:?}");
            cache.flush().await;
        }
        assert_eq!(upstream.fetches(number), 1, "the key of turn {turn} is fetched once");
    }
}

/// Calls `record` from two processes at once, with keys whose home server is lost. Checks that each
/// key is fetched once in total.
async fn assert_one_fetch_at_once(servers: &[Memcached], keys: &[u32]) {
    let (a, b, upstream) = (
        new_process_cache(servers).await,
        new_process_cache(servers).await,
        CountingUpstream::default(),
    );
    let mut calls = JoinSet::new();
    for &number in keys {
        for cache in [&a, &b, &a, &b] {
            let upstream = upstream.clone();
            calls.spawn(cache.scope(async move { (number, record(&upstream, number).await) }));
        }
    }
    while let Some(call) = calls.join_next().await {
        let (number, answer) = call.expect("no task panics");
        assert_eq!(answer, Ok(number));
    }
    for &number in keys {
        assert_eq!(upstream.fetches(number), 1);
    }
}

#[tokio::test]
async fn a_killed_server_costs_one_fetch_per_key() {
    let mut servers = [Memcached::start(), Memcached::start(), Memcached::start()];
    let keys = keys_of_first_server(&servers, 8).await;
    servers[0].kill();
    assert_one_fetch_in_turn(&servers, &keys[..4]).await;
    assert_one_fetch_at_once(&servers, &keys[4..]).await;
}

#[tokio::test]
async fn a_hanging_server_costs_one_fetch_per_key() {
    let servers = [Memcached::start(), Memcached::start(), Memcached::start()];
    let keys = keys_of_first_server(&servers, 8).await;
    servers[0].suspend();
    assert_one_fetch_in_turn(&servers, &keys[..4]).await;
    assert_one_fetch_at_once(&servers, &keys[4..]).await;
    servers[0].resume();
}

#[tokio::test]
async fn an_added_server_that_hangs_costs_one_fetch() {
    let servers = [Memcached::start(), Memcached::start()];
    let keys = keys_of_first_server(&servers, 2).await;
    let process_with_added_server = async || {
        let cache = new_process_cache(&servers[..1]).await;
        cache
            .set_memcached(servers.iter().map(Memcached::address))
            .expect("the settings are valid");
        cache
    };
    let (one, other) = (process_with_added_server().await, process_with_added_server().await);
    let upstream = CountingUpstream::default();
    servers[0].suspend();
    for number in keys {
        for cache in [&one, &other] {
            assert_eq!(cache.scope(record(&upstream, number)).await, Ok(number));
            cache.flush().await;
        }
        assert_eq!(upstream.fetches(number), 1);
    }
    servers[0].resume();
}

#[tokio::test]
async fn two_hanging_servers_cost_one_timeout() {
    let servers = [Memcached::start(), Memcached::start()];
    let (cache, upstream) = (new_process_cache(&servers).await, CountingUpstream::default());
    servers.iter().for_each(Memcached::suspend);
    for number in 0..4 {
        let began = Instant::now();
        assert_eq!(cache.scope(record(&upstream, number)).await, Ok(number));
        let took = began.elapsed();
        assert!(took < TIMEOUT + FETCH_TIME + LATENESS, "one timeout and one fetch: {took:?}");
    }
    servers.iter().for_each(Memcached::resume);
}

/// An upstream whose state the test can change. A fetch returns the state that it read when it
/// began. It ends when the test allows it.
struct StatusUpstream {
    state: AtomicU32,
    may_end: Semaphore,
}

impl StatusUpstream {
    fn new() -> Arc<StatusUpstream> {
        Arc::new(StatusUpstream { state: AtomicU32::new(1), may_end: Semaphore::new(1000) })
    }

    fn change(&self) -> u32 {
        self.state.fetch_add(1, Ordering::SeqCst) + 1
    }

    async fn fetch(&self) -> u32 {
        let state = self.state.load(Ordering::SeqCst);
        self.may_end.acquire().await.expect("the semaphore stays open").forget();
        state
    }
}

#[coordinator_cached(
    name = "status",
    overwrite(reason = "a status has no version of its own"),
    local = false,
    skip(upstream),
    entry = status_entry
)]
async fn status(upstream: &StatusUpstream) -> Result<u32, String> {
    Ok(upstream.fetch().await)
}

/// Two simulated processes that share two in-memory servers. One server is the home server of
/// `status`'s only key, and the other is its gutter server.
struct TwoProcesses {
    processes: [TestCache; 2],
    home: TestMemcached,
    gutter: TestMemcached,
    upstream: Arc<StatusUpstream>,
}

impl TwoProcesses {
    async fn new() -> TwoProcesses {
        let builder = Cache::builder().memcached(["one:1", "other:1"]).remote_timeout(TIMEOUT);
        let a = TestCache::with(builder).expect("the settings are valid");
        let upstream = StatusUpstream::new();
        assert_eq!(a.run(status(&upstream)).await, Ok(1));
        let key = a.run(async { status_entry().key() }).await;
        let mut servers = ["one:1", "other:1"].map(|address| a.memcached_at(address));
        if !servers[0].holds(&key) {
            servers.swap(0, 1);
        }
        let [home, gutter] = servers;
        assert!(home.holds(&key) && !gutter.holds(&key));
        home.clear();
        TwoProcesses { processes: [a.another_process(), a], home, gutter, upstream }
    }

    /// Calls `status` while the home server fails.
    async fn call_without_home(&self, process: usize) -> u32 {
        self.home.fail();
        let answer = self.processes[process].run(status(&self.upstream)).await;
        self.home.recover();
        answer.expect("the call succeeds")
    }

    async fn invalidate(&self, process: usize) -> bool {
        let invalidate = async { status_entry().invalidate().await };
        self.processes[process].run(invalidate).await.is_ok()
    }
}

/// One process has seen the home server fail, and has stored a value on the gutter server. The
/// other process has seen no failure. It changes the entry, and must also reach the gutter server.
#[tokio::test]
async fn changes_reach_the_gutter_of_other_processes() {
    for overwrites in [false, true] {
        let both = TwoProcesses::new().await;
        assert_eq!(both.call_without_home(0).await, 1);
        let fetched = both.upstream.change();
        assert_eq!(both.call_without_home(0).await, 1, "the value comes from the gutter server");
        match overwrites {
            false => assert!(both.invalidate(1).await),
            true => {
                let overwrite = async { status_entry().overwrite(fetched).await };
                both.processes[1].run(overwrite).await.expect("memcached is reached");
            }
        }
        for process in [1, 0] {
            assert_eq!(both.call_without_home(process).await, fetched);
        }
    }
}

#[tokio::test]
async fn an_invalidated_gutter_fetch_is_not_stored() {
    let both = TwoProcesses::new().await;
    both.upstream.may_end.forget_permits(1000);
    both.home.fail();
    let (cache, upstream) = (both.processes[0].cache().clone(), Arc::clone(&both.upstream));
    let fetch = tokio::spawn(cache.scope(async move { status(&upstream).await }));
    let gutter = both.gutter.clone();
    let is_read = async {
        while gutter.commands() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, is_read).await.expect("the gutter is read");
    tokio::time::sleep(FETCH_TIME).await;
    both.home.recover();
    let new = both.upstream.change();
    assert!(both.invalidate(1).await);
    both.upstream.may_end.add_permits(10);
    assert_eq!(fetch.await.expect("no task panics"), Ok(1), "the call began before the change");
    cache.flush().await;
    assert_eq!(both.call_without_home(1).await, new);
}

#[tokio::test]
async fn a_dropped_invalidation_still_clears_the_gutter() {
    let both = TwoProcesses::new().await;
    assert_eq!(both.call_without_home(0).await, 1);
    let new = both.upstream.change();
    both.home.stall();
    let invalidate = both.processes[0].cache().scope(async { status_entry().invalidate().await });
    let invalidated = tokio::time::timeout(TIMEOUT / 4, invalidate).await;
    assert!(invalidated.is_err(), "the home server does not answer");
    assert_eq!(both.processes[0].run(status(&both.upstream)).await, Ok(new));
}

#[tokio::test]
async fn a_recovered_server_gets_the_next_command() {
    let both = TwoProcesses::new().await;
    let key = both.processes[0].run(async { status_entry().key() }).await;
    both.home.fail();
    for _ in 0..4 {
        assert_eq!(both.processes[0].run(status(&both.upstream)).await, Ok(1));
        assert!(!both.invalidate(0).await, "the home server fails");
    }
    both.home.recover();
    both.processes[0].advance(Duration::from_secs(60));
    assert_eq!(both.processes[0].run(status(&both.upstream)).await, Ok(1));
    assert!(both.home.holds(&key));
    both.home.fail();
    while both.invalidate(0).await || both.invalidate(0).await {}
    assert!(!both.invalidate(0).await);
    both.home.recover();
    both.processes[0].advance(Duration::from_secs(60));
    assert!(both.invalidate(0).await, "the home server is used again");
    assert!(!both.home.holds(&key));
}

/// A full server answers reads and refuses fills. Its keys stay, because moving them would only
/// bring the same load to the gutter server.
#[tokio::test]
async fn a_refused_write_does_not_use_the_gutter() {
    let full = FakeMemcached::start(ServerKind::Full);
    let memcached = Memcached::start();
    let builder = Cache::builder().memcached([full.address(), memcached.address()]);
    let cache = builder.remote_timeout(TIMEOUT).build().await.expect("the settings are valid");
    let upstream = CountingUpstream::default();
    let mut refused = 0;
    for number in 0..20 {
        assert_eq!(cache.scope(record(&upstream, number)).await, Ok(number));
        cache.flush().await;
        let key = key(&cache, number);
        refused += usize::from(memcached.remaining_ttl(&key).is_none());
        let in_gutter = memcached.remaining_ttl(&format!("{key}:gutter"));
        assert_eq!(in_gutter, None, "key {number} stays at its home server");
    }
    assert!(refused > 3, "the full server refuses some fills: {refused} of 20");
}
