//! memcached is killed and started anew while a process fetches. The new server counts its CAS numbers
//! from the start, so a number of before may be another item's now.

use std::time::{Duration, Instant};

use cached_core::{Cache, RequestScope, coordinator_cached};
use cached_tests::{Down, Memcached, Upstream};

#[coordinator_cached(name = "restarted_report", version = edition, local = false, skip(upstream), entry = report_entry)]
async fn report(upstream: &Upstream, edition: u32) -> Result<usize, Down> {
    let _ = edition;
    upstream.answer().await
}

#[coordinator_cached(
    name = "restarted_board",
    overwrite(reason = "a board has no version of its own"),
    local = false,
    skip(upstream),
    entry = board_entry
)]
async fn board(upstream: &Upstream, number: u32) -> Result<usize, Down> {
    let _ = number;
    upstream.answer().await
}

/// A cache of its own, as another process would have.
async fn process(memcached: &Memcached) -> Cache {
    let builder = Cache::builder().memcached([memcached.address()]);
    builder.remote_timeout(Duration::from_secs(1)).build().await.expect("it fits")
}

/// The CAS of the item under the key, as in `HD c7`.
fn cas(memcached: &Memcached, key: &str) -> u64 {
    let answer = memcached.command(&format!("mg {key} c"));
    let cas = answer.split(' ').find_map(|word| word.strip_prefix('c'));
    cas.and_then(|cas| cas.parse().ok()).unwrap_or_else(|| panic!("{key} is there: {answer}"))
}

/// Uses up the CAS numbers below this one.
fn count_up_to(memcached: &Memcached, cas: u64) {
    loop {
        let answer = memcached.command("ms filler 1 c\r\nx");
        let last: u64 = answer.strip_prefix("HD c").expect("stored").parse().expect("a number");
        assert!(last < cas, "{last} is past {cas} already");
        if last + 1 == cas {
            return;
        }
    }
}

/// Kills the server and starts another on its port.
fn restart(mut memcached: Memcached) -> Memcached {
    let port = memcached.port();
    memcached.kill();
    let give_up = Instant::now() + Duration::from_secs(5);
    while Instant::now() < give_up {
        if let Some(memcached) = Memcached::start_on(port) {
            return memcached;
        }
    }
    panic!("memcached did not come up on its port");
}

/// Begins a fetch that takes 400 ms, and restarts its server meanwhile. Returns the call, the new server,
/// and the CAS of what the key had before.
async fn fetch_over_a_restart(
    call: impl Future<Output = Result<usize, Down>> + Send + 'static,
    memcached: Memcached,
    key: &str,
) -> (tokio::task::JoinHandle<Result<usize, Down>>, Memcached, u64) {
    let call = tokio::spawn(call);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let won = cas(&memcached, key);
    (call, restart(memcached), won)
}

/// A server whose next CAS is not among its first.
fn server() -> Memcached {
    let memcached = Memcached::start();
    count_up_to(&memcached, 20);
    memcached
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_of_before_a_restart_fills_no_lease_of_after_it() {
    let memcached = server();
    let holder = process(&memcached).await;
    let key = holder.scope(async { report_entry(1).key().to_string() }).await;
    let call = holder.scope(async { report(&Upstream::default().taking(400), 1).await });
    let (call, memcached, won) = fetch_over_a_restart(call, memcached, &key).await;
    let other = process(&memcached).await;
    other.scope(async { report_entry(1).invalidate().await }).await.expect("memcached is told");
    count_up_to(&memcached, won);
    let lease = memcached.command(&format!("mg {key} N30 v c"));
    assert!(lease.starts_with(&format!("VA 0 c{won} W")), "{lease}");
    assert_eq!(call.await.expect("no call panics"), Ok(1));
    holder.flush().await;
    assert!(!other.scope(async { report_entry(1).get().await.is_found() }).await);
    assert_eq!(holder.stats().get("restarted_report").expect("called").fills, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_of_before_a_restart_replaces_no_value_of_after_it() {
    let memcached = server();
    let holder = process(&memcached).await;
    let key = holder.scope(async { report_entry(2).key().to_string() }).await;
    let call = holder.scope(async { report(&Upstream::default().taking(400), 2).await });
    let (call, memcached, won) = fetch_over_a_restart(call, memcached, &key).await;
    let other = process(&memcached).await;
    count_up_to(&memcached, won);
    assert!(other.scope(async { report_entry(2).add(77).await }).await);
    assert_eq!(cas(&memcached, &key), won);
    assert_eq!(call.await.expect("no call panics"), Ok(1));
    holder.flush().await;
    let found = other.scope(async { report_entry(2).get().await.into_option() }).await;
    assert_eq!(found, Some(77));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_of_before_a_restart_gives_back_nothing_of_after_it() {
    let memcached = server();
    let holder = process(&memcached).await;
    let key = holder.scope(async { report_entry(3).key().to_string() }).await;
    let upstream = Upstream::default().taking(400);
    upstream.fail();
    let call = holder.scope(async move { report(&upstream, 3).await });
    let (call, memcached, won) = fetch_over_a_restart(call, memcached, &key).await;
    count_up_to(&memcached, won);
    let other = process(&memcached).await;
    assert!(other.scope(async { report_entry(3).add(77).await }).await);
    assert_eq!(cas(&memcached, &key), won);
    assert_eq!(call.await.expect("no call panics"), Err(Down));
    holder.flush().await;
    let found = other.scope(async { report_entry(3).get().await.into_option() }).await;
    assert_eq!(found, Some(77));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_was_read_before_a_restart_is_not_replaced_after_it() {
    let memcached = server();
    let holder = process(&memcached).await;
    let key = holder.scope(async { board_entry(1).key().to_string() }).await;
    holder.scope(board(&Upstream::default(), 1)).await.expect("fetched");
    holder.flush().await;
    let call = holder.scope(async {
        let refreshed = async { board(&Upstream::default().taking(400), 1).await };
        RequestScope::new().force_miss(true).run(refreshed).await
    });
    let (call, memcached, read) = fetch_over_a_restart(call, memcached, &key).await;
    let other = process(&memcached).await;
    count_up_to(&memcached, read);
    other.scope(async { board_entry(1).overwrite(77).await }).await.expect("memcached is told");
    assert_eq!(cas(&memcached, &key), read);
    assert_eq!(call.await.expect("no call panics"), Ok(1));
    holder.flush().await;
    let found = other.scope(async { board_entry(1).get().await.into_option() }).await;
    assert_eq!(found, Some(77));
}
