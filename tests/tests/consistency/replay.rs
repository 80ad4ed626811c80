//! The worst traces of the model, played to the library on a real memcached: two caches are two
//! processes, a gate in each fetch and one before memcached fix the order.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cached_core::{Cache, Tier, coordinator_cached};
use cached_tests::Memcached;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

/// What the fetch asks. A fetch sees the state of when it begins, and ends when it is let.
struct Upstream {
    state: AtomicU32,
    began: Semaphore,
    may_end: Semaphore,
}

impl Upstream {
    fn new() -> Arc<Upstream> {
        let (began, may_end) = (Semaphore::new(0), Semaphore::new(0));
        Arc::new(Upstream { state: AtomicU32::new(1), began, may_end })
    }

    async fn fetch(&self) -> u32 {
        let state = self.state.load(Ordering::SeqCst);
        self.began.add_permits(1);
        self.may_end.acquire().await.expect("it stays open").forget();
        state
    }

    /// Waits until one more fetch has begun.
    async fn fetch_began(&self) {
        let began = tokio::time::timeout(Duration::from_secs(10), self.began.acquire());
        began.await.expect("a fetch begins").expect("it stays open").forget();
    }

    fn let_one_end(&self) {
        self.may_end.add_permits(1);
    }

    /// What is fetched from here on is new.
    fn changes(&self) {
        self.state.fetch_add(1, Ordering::SeqCst);
    }
}

#[coordinator_cached(name = "once", version = number, skip(upstream), entry = once_entry)]
async fn once(upstream: &Upstream, number: u32) -> Result<u32, String> {
    let _ = number;
    Ok(upstream.fetch().await)
}

#[coordinator_cached(
    name = "profile",
    overwrite(reason = "a profile has no version of its own"),
    skip(upstream),
    entry = profile_entry
)]
async fn profile(upstream: &Upstream, user: u32) -> Result<u32, String> {
    let _ = user;
    Ok(upstream.fetch().await)
}

async fn process(address: &str) -> Cache {
    with_lease(address, 20).await
}

async fn with_lease(address: &str, seconds: u64) -> Cache {
    let builder = Cache::builder().memcached([address]).remote_timeout(Duration::from_secs(5));
    builder.lease(Duration::from_secs(seconds)).build().await.expect("fits")
}

fn call(cache: &Cache, upstream: &Arc<Upstream>) -> JoinHandle<Result<u32, String>> {
    let upstream = Arc::clone(upstream);
    tokio::spawn(cache.scope(async move { once(&upstream, 7).await }))
}

async fn returns(call: JoinHandle<Result<u32, String>>) -> u32 {
    call.await.expect("no panic").expect("fetched")
}

async fn invalidate(cache: &Cache) {
    let told = cache.scope(async { once_entry(7).invalidate().await }).await;
    told.expect("memcached is told");
}

async fn look(cache: &Cache) -> (Option<Tier>, Option<u32>) {
    let found = cache.scope(async { once_entry(7).get().await }).await;
    (found.tier(), found.into_option())
}

/// A way to memcached on which a command that begins with `held` is kept until it is let go.
struct Way {
    address: String,
    holds: UnboundedReceiver<()>,
    go: Sender<()>,
}

impl Way {
    fn to(memcached: &Memcached, held: &'static str) -> Way {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let server = memcached.address();
        let (say, holds) = unbounded_channel();
        let (go, may_go) = channel();
        let may_go = Arc::new(Mutex::new(may_go));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(&server)) else {
                    return;
                };
                let both = || Some((client.try_clone().ok()?, server.try_clone().ok()?));
                let (Some((to, from)), Some((mut client, mut server))) = (both(), both()) else {
                    return;
                };
                std::thread::spawn(move || copy(from, to));
                let (say, may_go) = (say.clone(), Arc::clone(&may_go));
                std::thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Ok(read @ 1..) = client.read(&mut bytes) {
                        if bytes.starts_with(held.as_bytes()) {
                            let may_go = may_go.lock().expect("nobody panics with it");
                            let _ = say.send(());
                            let _ = may_go.recv_timeout(Duration::from_secs(10));
                        }
                        if server.write_all(&bytes[..read]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Way { address, holds, go }
    }

    /// Waits until a command is held.
    async fn holds(&mut self) {
        let held = tokio::time::timeout(Duration::from_secs(10), self.holds.recv());
        held.await.expect("a command is held").expect("the way is open");
    }

    fn let_go(&self) {
        self.go.send(()).expect("the way is open");
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

/// The trace of a fill without CAS.
#[tokio::test]
async fn a_fill_that_an_invalidation_overtook_on_its_way_is_not_stored() {
    let memcached = Memcached::start();
    let mut way = Way::to(&memcached, "cas ");
    let a = process(&way.address).await;
    let upstream = Upstream::new();
    let fetch = call(&a, &upstream);
    upstream.fetch_began().await;
    upstream.let_one_end();
    assert_eq!(returns(fetch).await, 1);
    way.holds().await;
    upstream.changes();
    invalidate(&a).await;
    way.let_go();
    a.flush().await;
    assert_eq!(look(&a).await, (None, None));
    assert_eq!(look(&process(&memcached.address()).await).await, (None, None));
    assert_eq!(a.stats().get("once").expect("called").fills_dropped, 1);
}

/// The same from another process: the one that fetched keeps its answer, for 5 s at most.
#[tokio::test]
async fn a_fetch_that_another_process_invalidated_stays_in_its_own_for_seconds() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached.address()).await, process(&memcached.address()).await);
    let upstream = Upstream::new();
    let fetch = call(&a, &upstream);
    upstream.fetch_began().await;
    upstream.changes();
    invalidate(&b).await;
    upstream.let_one_end();
    assert_eq!(returns(fetch).await, 1);
    let stored = Instant::now();
    a.flush().await;
    assert_eq!(look(&b).await, (None, None));
    let again = call(&b, &upstream);
    upstream.fetch_began().await;
    upstream.let_one_end();
    assert_eq!(returns(again).await, 2);
    b.flush().await;
    // It was published before `stored`: who still finds it looked within 5 s of that.
    loop {
        let asked = stored.elapsed();
        if look(&a).await != (Some(Tier::Local), Some(1)) {
            break;
        }
        assert!(asked < Duration::from_secs(5), "it lives on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(look(&a).await.1, Some(2));
}

/// The traces of a publication without ticket, and of a flight that outlives an invalidation.
#[tokio::test]
async fn calls_after_an_invalidation_neither_follow_nor_find_the_fetch_from_before() {
    let memcached = Memcached::start();
    let a = process(&memcached.address()).await;
    let upstream = Upstream::new();
    let before = call(&a, &upstream);
    upstream.fetch_began().await;
    upstream.changes();
    invalidate(&a).await;
    let after = call(&a, &upstream);
    upstream.fetch_began().await;
    upstream.let_one_end();
    assert_eq!(returns(before).await, 1, "it was asked before");
    a.flush().await;
    assert_eq!(look(&a).await, (None, None));
    upstream.let_one_end();
    assert_eq!(returns(after).await, 2);
    a.flush().await;
    assert_eq!(look(&a).await, (Some(Tier::Local), Some(2)));
    assert_eq!(look(&process(&memcached.address()).await).await.1, Some(2));
}

/// The trace of a process that forgets only before memcached is told: another caller reads the
/// old value there in between.
#[tokio::test]
async fn what_is_read_while_memcached_is_being_told_is_forgotten_too() {
    let memcached = Memcached::start();
    let mut way = Way::to(&memcached, "md ");
    let (a, b) = (process(&memcached.address()).await, process(&way.address).await);
    let upstream = Upstream::new();
    upstream.let_one_end();
    assert_eq!(returns(call(&a, &upstream)).await, 1);
    a.flush().await;
    let telling = tokio::spawn(b.scope(async { once_entry(7).invalidate().await }));
    way.holds().await;
    assert_eq!(returns(call(&b, &upstream)).await, 1);
    assert_eq!(look(&b).await, (Some(Tier::Local), Some(1)), "it was asked before");
    // A key has two slots, and so two commands.
    way.let_go();
    way.let_go();
    telling.await.expect("no panic").expect("memcached is told");
    assert_eq!(look(&b).await, (None, None));
}

/// Write-once: a fetch whose lease is gone, here because memcached has evicted it, fills nothing, least
/// of all over another's entry.
#[tokio::test]
async fn a_fetch_that_outlasts_its_lease_does_not_replace_what_came_after() {
    let memcached = Memcached::start();
    let (a, b) = (with_lease(&memcached.address(), 2).await, process(&memcached.address()).await);
    let (slow_upstream, upstream) = (Upstream::new(), Upstream::new());
    let slow = call(&a, &slow_upstream);
    slow_upstream.fetch_began().await;
    let key = a.scope(async { once_entry(7).key().to_string() }).await;
    assert_eq!(memcached.command(&format!("md {key}")), "HD");
    upstream.changes();
    let other = call(&b, &upstream);
    upstream.let_one_end();
    assert_eq!(returns(other).await, 2);
    b.flush().await;
    slow_upstream.let_one_end();
    assert_eq!(returns(slow).await, 1);
    a.flush().await;
    assert_eq!(look(&process(&memcached.address()).await).await.1, Some(2));
}

#[tokio::test]
async fn a_fetch_that_was_overwritten_meanwhile_replaces_nothing() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached.address()).await, process(&memcached.address()).await);
    let upstream = Upstream::new();
    let fetch = tokio::spawn({
        let upstream = Arc::clone(&upstream);
        a.scope(async move { profile(&upstream, 7).await })
    });
    upstream.fetch_began().await;
    b.scope(async { profile_entry(7).overwrite(9).await }).await.expect("memcached is told");
    upstream.let_one_end();
    assert_eq!(returns(fetch).await, 1);
    a.flush().await;
    for cache in [b, process(&memcached.address()).await] {
        let found = cache.scope(async { profile_entry(7).get().await }).await;
        assert_eq!(found.into_option(), Some(9));
    }
}

/// Who fetches under a lease that its server has lost stores nothing when that is back, and nobody
/// waits for it.
#[tokio::test]
async fn a_server_that_comes_back_empty_knows_no_lease_from_before() {
    let mut memcached = Memcached::start();
    let (a, b) = (process(&memcached.address()).await, process(&memcached.address()).await);
    let upstream = Upstream::new();
    let fetch = call(&a, &upstream);
    upstream.fetch_began().await;
    memcached.kill();
    let memcached = Memcached::start_on(memcached.port()).expect("the port is free again");
    upstream.let_one_end();
    assert_eq!(returns(fetch).await, 1);
    a.flush().await;
    assert_eq!(look(&b).await, (None, None));
    drop(memcached);
}
