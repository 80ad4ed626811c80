//! A key whose server is lost, before anybody has ejected it: the next server stands in.
#![allow(missing_docs)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cached_core::testing::{TestCache, TestMemcached};
use cached_core::{Cache, coordinator_cached};
use cached_tests::{Behaviour, Memcached, StandIn};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const FETCH: Duration = Duration::from_millis(20);
const TIMEOUT: Duration = Duration::from_millis(800);
/// What a busy machine adds.
const LATE: Duration = Duration::from_millis(300);

/// Counts the fetches of each key.
#[derive(Clone, Default)]
struct Upstream(Arc<Mutex<HashMap<u32, u32>>>);

impl Upstream {
    async fn fetch(&self, number: u32) -> u32 {
        *self.0.lock().expect("nobody panics with it").entry(number).or_default() += 1;
        tokio::time::sleep(FETCH).await;
        number
    }

    fn fetches(&self, number: u32) -> u32 {
        self.0.lock().expect("nobody panics with it").get(&number).copied().unwrap_or_default()
    }
}

#[coordinator_cached(
    name = "record",
    version = number,
    local = false,
    skip(upstream),
    entry = record_entry
)]
async fn record(upstream: &Upstream, number: u32) -> Result<u32, String> {
    Ok(upstream.fetch(number).await)
}

async fn process(servers: &[Memcached]) -> Cache {
    let builder = Cache::builder().memcached(servers.iter().map(Memcached::address));
    // Longer than anything here takes: who waits for a lease waits for its fill.
    let builder = builder.remote_timeout(TIMEOUT).lease_wait(Duration::from_secs(20));
    builder.build().await.expect("fits")
}

fn key(cache: &Cache, number: u32) -> String {
    let key = std::pin::pin!(cache.scope(async move { record_entry(number).key().to_string() }));
    match key.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(key) => key,
        std::task::Poll::Pending => unreachable!("a companion awaits nothing"),
    }
}

/// So many keys whose home is the first of the servers.
async fn keys_of_the_first(servers: &[Memcached], count: usize) -> Vec<u32> {
    let (cache, upstream) = (process(servers).await, Upstream::default());
    let mut keys = Vec::new();
    for number in 10_000.. {
        cache.scope(record(&upstream, number)).await.expect("fetched");
        cache.flush().await;
        if servers[0].remaining(&key(&cache, number)).is_some() {
            keys.push(number);
        }
        if keys.len() == count {
            break;
        }
    }
    keys
}

/// Two processes call for the keys of a lost server, each key by turns: nobody has found out
/// before. Each key is fetched once in total, and no call takes longer than it may.
async fn each_key_once(servers: &[Memcached], keys: &[u32]) {
    let (a, b, upstream) = (process(servers).await, process(servers).await, Upstream::default());
    for (turn, &number) in keys.iter().enumerate() {
        let in_turn = if turn % 2 == 0 { [&a, &b] } else { [&b, &a] };
        for cache in in_turn {
            let began = Instant::now();
            let answer = cache.scope(record(&upstream, number)).await;
            let took = began.elapsed();
            assert_eq!(answer, Ok(number));
            assert!(took < TIMEOUT + FETCH + LATE, "{took:?}");
            cache.flush().await;
        }
        assert_eq!(upstream.fetches(number), 1, "the key of turn {turn}");
    }
}

/// The same with every call at once.
async fn each_key_once_at_once(servers: &[Memcached], keys: &[u32]) {
    let (a, b, upstream) = (process(servers).await, process(servers).await, Upstream::default());
    let mut calls = JoinSet::new();
    for &number in keys {
        for cache in [&a, &b, &a, &b] {
            let upstream = upstream.clone();
            calls.spawn(cache.scope(async move { (number, record(&upstream, number).await) }));
        }
    }
    while let Some(call) = calls.join_next().await {
        let (number, answer) = call.expect("no panic");
        assert_eq!(answer, Ok(number));
    }
    for &number in keys {
        assert_eq!(upstream.fetches(number), 1);
    }
}

#[tokio::test]
async fn a_server_that_is_killed_costs_one_fetch_for_each_of_its_keys_in_total() {
    let mut servers = [Memcached::start(), Memcached::start(), Memcached::start()];
    let keys = keys_of_the_first(&servers, 8).await;
    servers[0].kill();
    each_key_once(&servers, &keys[..4]).await;
    each_key_once_at_once(&servers, &keys[4..]).await;
}

#[tokio::test]
async fn a_server_that_hangs_costs_one_fetch_for_each_of_its_keys_in_total() {
    let servers = [Memcached::start(), Memcached::start(), Memcached::start()];
    let keys = keys_of_the_first(&servers, 8).await;
    servers[0].stop();
    each_key_once(&servers, &keys[..4]).await;
    each_key_once_at_once(&servers, &keys[4..]).await;
    servers[0].resume();
}

#[tokio::test]
async fn a_server_that_was_alone_leaves_time_for_the_one_that_was_added() {
    let servers = [Memcached::start(), Memcached::start()];
    let keys = keys_of_the_first(&servers, 2).await;
    let grown = async || {
        let cache = process(&servers[..1]).await;
        cache.set_memcached(servers.iter().map(Memcached::address)).expect("they fit");
        cache
    };
    let (one, other, upstream) = (grown().await, grown().await, Upstream::default());
    servers[0].stop();
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
async fn a_server_and_the_next_that_hang_cost_a_call_its_bound_and_no_more() {
    let servers = [Memcached::start(), Memcached::start()];
    let (cache, upstream) = (process(&servers).await, Upstream::default());
    servers.iter().for_each(Memcached::stop);
    for number in 0..4 {
        let began = Instant::now();
        assert_eq!(cache.scope(record(&upstream, number)).await, Ok(number));
        let took = began.elapsed();
        assert!(took < TIMEOUT + FETCH + LATE, "{took:?}");
    }
    servers.iter().for_each(Memcached::resume);
}

/// What a fetch sees is the state of when it begins; it ends when it may.
struct Source {
    state: AtomicU32,
    may_end: Semaphore,
}

impl Source {
    fn new() -> Arc<Source> {
        Arc::new(Source { state: AtomicU32::new(1), may_end: Semaphore::new(1000) })
    }

    fn changes(&self) -> u32 {
        self.state.fetch_add(1, Ordering::SeqCst) + 1
    }

    async fn fetch(&self) -> u32 {
        let state = self.state.load(Ordering::SeqCst);
        self.may_end.acquire().await.expect("it stays open").forget();
        state
    }
}

#[coordinator_cached(
    name = "status",
    overwrite(reason = "a status has no version of its own"),
    local = false,
    skip(source),
    entry = status_entry
)]
async fn status(source: &Source) -> Result<u32, String> {
    Ok(source.fetch().await)
}

/// Two processes over two servers in memory, of which one is the home of `status`.
struct Pair {
    processes: [TestCache; 2],
    home: TestMemcached,
    gutter: TestMemcached,
    source: Arc<Source>,
}

impl Pair {
    async fn new() -> Pair {
        let builder = Cache::builder().memcached(["one:1", "other:1"]).remote_timeout(TIMEOUT);
        let a = TestCache::with(builder).expect("fits");
        let source = Source::new();
        assert_eq!(a.run(status(&source)).await, Ok(1));
        let key = a.run(async { status_entry().key() }).await;
        let mut servers = ["one:1", "other:1"].map(|address| a.memcached_at(address));
        if !servers[0].holds(&key) {
            servers.swap(0, 1);
        }
        let [home, gutter] = servers;
        assert!(home.holds(&key) && !gutter.holds(&key));
        home.clear();
        Pair { processes: [a.another_process(), a], home, gutter, source }
    }

    /// A call, made while the home is out of reach.
    async fn call_without_home(&self, process: usize) -> u32 {
        self.home.fail();
        let answer = self.processes[process].run(status(&self.source)).await;
        self.home.recover();
        answer.expect("no call fails")
    }

    async fn invalidate(&self, process: usize) -> bool {
        let told = async { status_entry().invalidate().await };
        self.processes[process].run(told).await.is_ok()
    }
}

/// One process has seen the home fail, once; the other has not, and says what changed.
#[tokio::test]
async fn what_stands_in_for_one_process_is_invalidated_and_overwritten_by_another() {
    for overwrites in [false, true] {
        let pair = Pair::new().await;
        assert_eq!(pair.call_without_home(0).await, 1);
        let fetched = pair.source.changes();
        assert_eq!(pair.call_without_home(0).await, 1, "it stands in");
        match overwrites {
            false => assert!(pair.invalidate(1).await),
            true => {
                let told = async { status_entry().overwrite(fetched).await };
                pair.processes[1].run(told).await.expect("told");
            }
        }
        for process in [1, 0] {
            assert_eq!(pair.call_without_home(process).await, fetched);
        }
    }
}

#[tokio::test]
async fn a_fetch_for_the_gutter_that_is_invalidated_by_another_process_is_not_stored() {
    let pair = Pair::new().await;
    pair.source.may_end.forget_permits(1000);
    pair.home.fail();
    let (cache, source) = (pair.processes[0].cache().clone(), Arc::clone(&pair.source));
    let fetch = tokio::spawn(cache.scope(async move { status(&source).await }));
    let gutter = pair.gutter.clone();
    let asked = async {
        while gutter.commands() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, asked).await.expect("the gutter is asked");
    tokio::time::sleep(FETCH).await;
    pair.home.recover();
    let new = pair.source.changes();
    assert!(pair.invalidate(1).await);
    pair.source.may_end.add_permits(10);
    assert_eq!(fetch.await.expect("no panic"), Ok(1), "it was asked before");
    cache.flush().await;
    assert_eq!(pair.call_without_home(1).await, new);
}

#[tokio::test]
async fn an_invalidation_that_is_dropped_while_the_home_hangs_is_not_undone_by_the_gutter() {
    let pair = Pair::new().await;
    assert_eq!(pair.call_without_home(0).await, 1);
    let new = pair.source.changes();
    pair.home.stall();
    let told = pair.processes[0].cache().scope(async { status_entry().invalidate().await });
    assert!(tokio::time::timeout(TIMEOUT / 4, told).await.is_err(), "it waits");
    assert_eq!(pair.processes[0].run(status(&pair.source)).await, Ok(new));
}

#[tokio::test]
async fn a_server_that_has_recovered_is_asked_by_the_next_call_and_told_by_the_next_change() {
    let pair = Pair::new().await;
    let key = pair.processes[0].run(async { status_entry().key() }).await;
    pair.home.fail();
    for _ in 0..4 {
        assert_eq!(pair.processes[0].run(status(&pair.source)).await, Ok(1));
        assert!(!pair.invalidate(0).await, "its home cannot be told");
    }
    pair.home.recover();
    pair.processes[0].advance(Duration::from_secs(60));
    assert_eq!(pair.processes[0].run(status(&pair.source)).await, Ok(1));
    assert!(pair.home.holds(&key));
    pair.home.fail();
    while pair.invalidate(0).await || pair.invalidate(0).await {}
    assert!(!pair.invalidate(0).await);
    pair.home.recover();
    pair.processes[0].advance(Duration::from_secs(60));
    assert!(pair.invalidate(0).await, "it is told");
    assert!(!pair.home.holds(&key));
}

/// A server that answers, and refuses a fill: it is there, and asking another in its place would only
/// move its load.
#[tokio::test]
async fn a_server_that_refuses_a_write_is_not_stood_in_for() {
    let full = StandIn::start(Behaviour::Full);
    let memcached = Memcached::start();
    let builder = Cache::builder().memcached([full.address(), memcached.address()]);
    let cache = builder.remote_timeout(TIMEOUT).build().await.expect("fits");
    let upstream = Upstream::default();
    let mut refused = 0;
    for number in 0..20 {
        assert_eq!(cache.scope(record(&upstream, number)).await, Ok(number));
        cache.flush().await;
        let key = key(&cache, number);
        refused += usize::from(memcached.remaining(&key).is_none());
        assert_eq!(memcached.remaining(&format!("{key}:gutter")), None, "key {number}");
    }
    assert!(refused > 3, "{refused} of 20 are at home on the other");
}
