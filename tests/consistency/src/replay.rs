//! Replays traces against the library and a memcached process. A *trace* is a sequence of steps
//! that breaks a faulty variant of the protocol. The traces were found by a search of this crate's
//! model of the protocol.
//!
//! Two caches stand for two processes. To fix the order of the steps, an upstream delays each
//! fetch, and a proxy delays commands to memcached.

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

/// An upstream with a state. A fetch returns the state at the time when it began, and ends when the
/// test allows it.
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
        self.may_end.acquire().await.expect("the semaphore stays open").forget();
        state
    }

    /// Waits until one more fetch has begun.
    async fn wait_for_fetch(&self) {
        let began = tokio::time::timeout(Duration::from_secs(10), self.began.acquire());
        began.await.expect("a fetch begins").expect("the semaphore stays open").forget();
    }

    fn release_fetch(&self) {
        self.may_end.add_permits(1);
    }

    /// Changes the state. Later fetches return a new value.
    fn change(&self) {
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

/// Returns a cache like that of a new process: it shares only memcached with other caches.
async fn new_process_cache(address: &str) -> Cache {
    new_process_cache_with_lease(address, 20).await
}

/// Like [`new_process_cache`], but with leases of `lease_secs` seconds. A lease is one caller's
/// right to fetch a key and store its value in memcached.
async fn new_process_cache_with_lease(address: &str, lease_secs: u64) -> Cache {
    let builder = Cache::builder().memcached([address]).remote_timeout(Duration::from_secs(5));
    builder.lease(Duration::from_secs(lease_secs)).build().await.expect("the settings are valid")
}

/// Calls `once` in a new task.
fn call(cache: &Cache, upstream: &Arc<Upstream>) -> JoinHandle<Result<u32, String>> {
    let upstream = Arc::clone(upstream);
    tokio::spawn(cache.scope(async move { once(&upstream, 7).await }))
}

/// Waits for a call and returns its answer.
async fn answer_of(call: JoinHandle<Result<u32, String>>) -> u32 {
    call.await.expect("no task panics").expect("the call succeeds")
}

async fn invalidate(cache: &Cache) {
    let invalidated = cache.scope(async { once_entry(7).invalidate().await }).await;
    invalidated.expect("memcached is reached");
}

/// Reads the entry without fetching.
async fn read(cache: &Cache) -> (Option<Tier>, Option<u32>) {
    let found = cache.scope(async { once_entry(7).get().await }).await;
    (found.tier(), found.into_option())
}

/// A proxy in front of memcached. The proxy holds each command that begins with the prefix given to
/// [`to`](Self::to), until the test releases the command, or for ten seconds at most.
struct HoldingProxy {
    address: String,
    held_commands: UnboundedReceiver<()>,
    release: Sender<()>,
}

impl HoldingProxy {
    fn to(memcached: &Memcached, held: &'static str) -> HoldingProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("the listener has an address").to_string();
        let server = memcached.address();
        let (report_held, held_commands) = unbounded_channel();
        let (release, released) = channel();
        let released = Arc::new(Mutex::new(released));
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
                let (report_held, released) = (report_held.clone(), Arc::clone(&released));
                std::thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Ok(read @ 1..) = client.read(&mut bytes) {
                        if bytes.starts_with(held.as_bytes()) {
                            let released =
                                released.lock().expect("no thread panics while it holds the lock");
                            let _ = report_held.send(());
                            let _ = released.recv_timeout(Duration::from_secs(10));
                        }
                        if server.write_all(&bytes[..read]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        HoldingProxy { address, held_commands, release }
    }

    /// Waits until a command is held.
    async fn wait_for_command(&mut self) {
        let held = tokio::time::timeout(Duration::from_secs(10), self.held_commands.recv());
        held.await.expect("a command is held").expect("the proxy runs");
    }

    fn release(&self) {
        self.release.send(()).expect("the proxy runs");
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

/// Replays a trace in which a fill (a write of a fetched value) ignores the item's CAS number.
/// With the real protocol, memcached must refuse the fill.
#[tokio::test]
async fn a_fill_after_an_invalidation_is_refused() {
    let memcached = Memcached::start();
    let mut proxy = HoldingProxy::to(&memcached, "cas ");
    let a = new_process_cache(&proxy.address).await;
    let upstream = Upstream::new();
    let fetch = call(&a, &upstream);
    upstream.wait_for_fetch().await;
    upstream.release_fetch();
    assert_eq!(answer_of(fetch).await, 1);
    proxy.wait_for_command().await;
    upstream.change();
    invalidate(&a).await;
    proxy.release();
    a.flush().await;
    assert_eq!(read(&a).await, (None, None));
    assert_eq!(read(&new_process_cache(&memcached.address()).await).await, (None, None));
    assert_eq!(a.stats().get("once").expect("the function was called").fills_dropped, 1);
}

/// Another process invalidates the entry during a fetch. The process that fetches keeps the answer
/// for 5 s at most.
#[tokio::test]
async fn an_invalidated_answer_stays_local_for_five_seconds() {
    let memcached = Memcached::start();
    let (a, b) = (
        new_process_cache(&memcached.address()).await,
        new_process_cache(&memcached.address()).await,
    );
    let upstream = Upstream::new();
    let fetch = call(&a, &upstream);
    upstream.wait_for_fetch().await;
    upstream.change();
    invalidate(&b).await;
    upstream.release_fetch();
    assert_eq!(answer_of(fetch).await, 1);
    let stored = Instant::now();
    a.flush().await;
    assert_eq!(read(&b).await, (None, None));
    let again = call(&b, &upstream);
    upstream.wait_for_fetch().await;
    upstream.release_fetch();
    assert_eq!(answer_of(again).await, 2);
    b.flush().await;
    // The value was stored locally before the time `stored`, so it must be gone 5 s later.
    loop {
        let read_at = stored.elapsed();
        if read(&a).await != (Some(Tier::Local), Some(1)) {
            break;
        }
        assert!(read_at < Duration::from_secs(5), "the local entry expires within 5 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(read(&a).await.1, Some(2));
}

/// Replays two traces. In the first trace, a value is stored locally although the entry was
/// invalidated during the fetch. In the second trace, a call waits for a fetch that began before an
/// invalidation.
#[tokio::test]
async fn calls_after_an_invalidation_ignore_earlier_fetches() {
    let memcached = Memcached::start();
    let a = new_process_cache(&memcached.address()).await;
    let upstream = Upstream::new();
    let before = call(&a, &upstream);
    upstream.wait_for_fetch().await;
    upstream.change();
    invalidate(&a).await;
    let after = call(&a, &upstream);
    upstream.wait_for_fetch().await;
    upstream.release_fetch();
    assert_eq!(answer_of(before).await, 1, "the call began before the change");
    a.flush().await;
    assert_eq!(read(&a).await, (None, None));
    upstream.release_fetch();
    assert_eq!(answer_of(after).await, 2);
    a.flush().await;
    assert_eq!(read(&a).await, (Some(Tier::Local), Some(2)));
    assert_eq!(read(&new_process_cache(&memcached.address()).await).await.1, Some(2));
}

/// Replays a trace in which an invalidation clears the local tier only once, before it deletes the
/// value from memcached. In between, a call in the same process reads the old value from memcached.
#[tokio::test]
async fn values_read_during_an_invalidation_are_dropped() {
    let memcached = Memcached::start();
    let mut proxy = HoldingProxy::to(&memcached, "md ");
    let (a, b) =
        (new_process_cache(&memcached.address()).await, new_process_cache(&proxy.address).await);
    let upstream = Upstream::new();
    upstream.release_fetch();
    assert_eq!(answer_of(call(&a, &upstream)).await, 1);
    a.flush().await;
    let invalidation = tokio::spawn(b.scope(async { once_entry(7).invalidate().await }));
    proxy.wait_for_command().await;
    assert_eq!(answer_of(call(&b, &upstream)).await, 1);
    assert_eq!(read(&b).await, (Some(Tier::Local), Some(1)), "the call began before the change");
    // A key can have two items in memcached, because two builds of a program can encode the value
    // differently. An invalidation deletes both items, and the proxy holds both commands.
    proxy.release();
    proxy.release();
    invalidation.await.expect("no task panics").expect("memcached is reached");
    assert_eq!(read(&b).await, (None, None));
}

/// A fetch whose lease is gone must not fill memcached, and must not replace the entry of another
/// fetch. The test removes the lease with a delete command.
#[tokio::test]
async fn a_fetch_without_its_lease_replaces_nothing() {
    let memcached = Memcached::start();
    let (a, b) = (
        new_process_cache_with_lease(&memcached.address(), 2).await,
        new_process_cache(&memcached.address()).await,
    );
    let (slow_upstream, upstream) = (Upstream::new(), Upstream::new());
    let slow = call(&a, &slow_upstream);
    slow_upstream.wait_for_fetch().await;
    let key = a.scope(async { once_entry(7).key().to_string() }).await;
    assert_eq!(memcached.command(&format!("md {key}")), "HD");
    upstream.change();
    let other = call(&b, &upstream);
    upstream.release_fetch();
    assert_eq!(answer_of(other).await, 2);
    b.flush().await;
    slow_upstream.release_fetch();
    assert_eq!(answer_of(slow).await, 1);
    a.flush().await;
    assert_eq!(read(&new_process_cache(&memcached.address()).await).await.1, Some(2));
}

#[tokio::test]
async fn an_overwritten_fetch_replaces_nothing() {
    let memcached = Memcached::start();
    let (a, b) = (
        new_process_cache(&memcached.address()).await,
        new_process_cache(&memcached.address()).await,
    );
    let upstream = Upstream::new();
    let fetch = tokio::spawn({
        let upstream = Arc::clone(&upstream);
        a.scope(async move { profile(&upstream, 7).await })
    });
    upstream.wait_for_fetch().await;
    b.scope(async { profile_entry(7).overwrite(9).await }).await.expect("memcached is reached");
    upstream.release_fetch();
    assert_eq!(answer_of(fetch).await, 1);
    a.flush().await;
    for cache in [b, new_process_cache(&memcached.address()).await] {
        let found = cache.scope(async { profile_entry(7).get().await }).await;
        assert_eq!(found.into_option(), Some(9));
    }
}

/// A memcached server loses its leases when it restarts. A fetch whose lease was lost stores
/// nothing in memcached.
#[tokio::test]
async fn a_restarted_server_refuses_earlier_leases() {
    let mut memcached = Memcached::start();
    let (a, b) = (
        new_process_cache(&memcached.address()).await,
        new_process_cache(&memcached.address()).await,
    );
    let upstream = Upstream::new();
    let fetch = call(&a, &upstream);
    upstream.wait_for_fetch().await;
    memcached.kill();
    let memcached = Memcached::start_on(memcached.port()).expect("the port is free");
    upstream.release_fetch();
    assert_eq!(answer_of(fetch).await, 1);
    a.flush().await;
    assert_eq!(read(&b).await, (None, None));
    drop(memcached);
}
