//! Tests in which memcached is killed and started again while a process fetches.
//!
//! memcached numbers its writes; such a number is called a CAS. The new server counts from the
//! start, so it can give a CAS of the old server to another item. A *lease* is the right to store
//! a missing value, and is identified by a CAS.

use std::time::{Duration, Instant};

use cached_core::{Cache, RequestScope, coordinator_cached};
use cached_tests::{Memcached, Upstream, UpstreamDown};

#[coordinator_cached(name = "restarted_report", version = edition, local = false, skip(upstream), entry = report_entry)]
async fn report(upstream: &Upstream, edition: u32) -> Result<usize, UpstreamDown> {
    let _ = edition;
    upstream.fetch().await
}

#[coordinator_cached(
    name = "restarted_board",
    overwrite(reason = "a board has no version of its own"),
    local = false,
    skip(upstream),
    entry = board_entry
)]
async fn board(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    let _ = number;
    upstream.fetch().await
}

/// Returns a cache that stands for a new process. It shares memcached with the other caches of the
/// test, and nothing else.
async fn new_process_cache(memcached: &Memcached) -> Cache {
    let builder = Cache::builder().memcached([memcached.address()]);
    builder.remote_timeout(Duration::from_secs(1)).build().await.expect("the settings are valid")
}

/// Asks memcached for the CAS number of an item. The answer is for example `HD c7`.
fn cas_of(memcached: &Memcached, key: &str) -> u64 {
    let answer = memcached.command(&format!("mg {key} c"));
    let cas = answer.split(' ').find_map(|word| word.strip_prefix('c'));
    cas.and_then(|cas| cas.parse().ok()).unwrap_or_else(|| panic!("{key} has no item: {answer}"))
}

/// Writes an unrelated item again and again. The next write after that gets the number `cas`.
fn advance_cas_to(memcached: &Memcached, cas: u64) {
    loop {
        let answer = memcached.command("ms filler 1 c\r\nx");
        let last: u64 = answer
            .strip_prefix("HD c")
            .expect("memcached stores the value")
            .parse()
            .expect("the text is a number");
        assert!(last < cas, "the server has not reached {cas}: {last}");
        if last + 1 == cas {
            return;
        }
    }
}

/// Kills the server and starts another one on its port.
fn restart(mut memcached: Memcached) -> Memcached {
    let port = memcached.port();
    memcached.kill();
    let give_up = Instant::now() + Duration::from_secs(5);
    while Instant::now() < give_up {
        if let Some(memcached) = Memcached::start_on(port) {
            return memcached;
        }
    }
    panic!("memcached did not start on its old port");
}

/// Spawns `call`, which must fetch for 400 ms, and restarts memcached during the fetch. Returns the
/// call, the new server, and the CAS number that the key's item had on the old server.
async fn restart_during_fetch(
    call: impl Future<Output = Result<usize, UpstreamDown>> + Send + 'static,
    memcached: Memcached,
    key: &str,
) -> (tokio::task::JoinHandle<Result<usize, UpstreamDown>>, Memcached, u64) {
    let call = tokio::spawn(call);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let old_cas = cas_of(&memcached, key);
    (call, restart(memcached), old_cas)
}

/// Starts a server whose next CAS number is 20.
fn start_server() -> Memcached {
    let memcached = Memcached::start();
    advance_cas_to(&memcached, 20);
    memcached
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_lease_fills_no_new_lease() {
    let memcached = start_server();
    let holder = new_process_cache(&memcached).await;
    let key = holder.scope(async { report_entry(1).key().to_string() }).await;
    let call = holder.scope(async { report(&Upstream::default().taking_millis(400), 1).await });
    let (call, memcached, old_cas) = restart_during_fetch(call, memcached, &key).await;
    let other = new_process_cache(&memcached).await;
    other.scope(async { report_entry(1).invalidate().await }).await.expect("memcached is reached");
    advance_cas_to(&memcached, old_cas);
    let lease = memcached.command(&format!("mg {key} N30 v c"));
    assert!(lease.starts_with(&format!("VA 0 c{old_cas} W")), "{lease}");
    assert_eq!(call.await.expect("no task panics"), Ok(1));
    holder.flush().await;
    assert!(!other.scope(async { report_entry(1).get().await.is_found() }).await);
    assert_eq!(holder.stats().get("restarted_report").expect("the function was called").fills, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_lease_replaces_no_new_value() {
    let memcached = start_server();
    let holder = new_process_cache(&memcached).await;
    let key = holder.scope(async { report_entry(2).key().to_string() }).await;
    let call = holder.scope(async { report(&Upstream::default().taking_millis(400), 2).await });
    let (call, memcached, old_cas) = restart_during_fetch(call, memcached, &key).await;
    let other = new_process_cache(&memcached).await;
    advance_cas_to(&memcached, old_cas);
    assert!(other.scope(async { report_entry(2).add(77).await }).await);
    assert_eq!(cas_of(&memcached, &key), old_cas);
    assert_eq!(call.await.expect("no task panics"), Ok(1));
    holder.flush().await;
    let found = other.scope(async { report_entry(2).get().await.into_option() }).await;
    assert_eq!(found, Some(77));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_lease_removes_no_new_value() {
    let memcached = start_server();
    let holder = new_process_cache(&memcached).await;
    let key = holder.scope(async { report_entry(3).key().to_string() }).await;
    let upstream = Upstream::default().taking_millis(400);
    upstream.fail();
    let call = holder.scope(async move { report(&upstream, 3).await });
    let (call, memcached, old_cas) = restart_during_fetch(call, memcached, &key).await;
    advance_cas_to(&memcached, old_cas);
    let other = new_process_cache(&memcached).await;
    assert!(other.scope(async { report_entry(3).add(77).await }).await);
    assert_eq!(cas_of(&memcached, &key), old_cas);
    assert_eq!(call.await.expect("no task panics"), Err(UpstreamDown));
    holder.flush().await;
    let found = other.scope(async { report_entry(3).get().await.into_option() }).await;
    assert_eq!(found, Some(77));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_read_replaces_no_new_value() {
    let memcached = start_server();
    let holder = new_process_cache(&memcached).await;
    let key = holder.scope(async { board_entry(1).key().to_string() }).await;
    holder.scope(board(&Upstream::default(), 1)).await.expect("the call succeeds");
    holder.flush().await;
    let call = holder.scope(async {
        let refreshed = async { board(&Upstream::default().taking_millis(400), 1).await };
        RequestScope::new().force_miss(true).run(refreshed).await
    });
    let (call, memcached, old_cas) = restart_during_fetch(call, memcached, &key).await;
    let other = new_process_cache(&memcached).await;
    advance_cas_to(&memcached, old_cas);
    other.scope(async { board_entry(1).overwrite(77).await }).await.expect("memcached is reached");
    assert_eq!(cas_of(&memcached, &key), old_cas);
    assert_eq!(call.await.expect("no task panics"), Ok(1));
    holder.flush().await;
    let found = other.scope(async { board_entry(1).get().await.into_option() }).await;
    assert_eq!(found, Some(77));
}
