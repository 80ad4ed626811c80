//! Servers that are not fit to be used: too old, or not open to this process.

use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Behaviour, Down, Memcached, StandIn, Upstream, collect_logs, logged};

/// A text that is a command, from its second line on.
const TEXT: &str = "hi\r\nset canary 0 0 4\r\ndead\r\n";

#[coordinator_cached(name = "written_note", version = number, local = false, skip(upstream), entry = note_entry)]
async fn note(upstream: &Upstream, number: u32) -> Result<String, Down> {
    let _ = number;
    upstream.answer().await?;
    Ok(TEXT.to_owned())
}

#[coordinator_cached(
    name = "written_board",
    overwrite(reason = "a board has no version of its own"),
    local = false,
    skip(upstream),
    entry = board_entry
)]
async fn board(upstream: &Upstream, number: u32) -> Result<String, Down> {
    let _ = number;
    upstream.answer().await?;
    Ok(TEXT.to_owned())
}

async fn process(address: &str) -> Cache {
    let builder = Cache::builder().memcached([address]);
    builder.remote_timeout(Duration::from_millis(500)).build().await.expect("fits")
}

/// Returns the warnings that name a server.
fn warnings(server: &str) -> Vec<String> {
    logged(log::Level::Warn, server)
}

/// Does all that writes a value.
async fn write_all(cache: &Cache, upstream: &Upstream) {
    for number in 0..6 {
        cache.scope(note(upstream, number)).await.expect("no call fails");
        cache.scope(board(upstream, number)).await.expect("no call fails");
        cache.flush().await;
    }
    cache
        .scope(async {
            note_entry(10).add(TEXT.to_owned()).await;
            let _ = board_entry(10).overwrite(TEXT.to_owned()).await;
        })
        .await;
    cache.flush().await;
}

async fn is_never_written_to(behaviour: Behaviour, says: &[&str]) {
    collect_logs();
    let server = StandIn::start(behaviour);
    let cache = process(&server.address()).await;
    let upstream = Upstream::default();
    write_all(&cache, &upstream).await;
    assert!(!server.holds("canary"), "{:?}", server.lines());
    let is_probe = |line: &String| {
        matches!(line.as_str(), "version" | "stats" | "mn")
            || line.starts_with("ms cached-core.probe 2 ")
    };
    assert!(server.lines().iter().all(is_probe), "{:?}", server.lines());
    let warnings = warnings(&server.address());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(says.iter().all(|word| warnings[0].contains(word)), "{warnings:?}");
    // It is ejected: nobody waits for it, and it is tried again at growing pauses.
    let (began, dialled) = (Instant::now(), server.connections());
    for number in 0..1000 {
        cache.scope(note(&upstream, number)).await.expect("no call fails");
    }
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let dialled = server.connections() - dialled;
    assert!((1..=5).contains(&dialled), "{dialled} attempts");
}

#[tokio::test]
async fn a_value_is_not_executed_by_a_memcached_without_meta_commands() {
    is_never_written_to(Behaviour::Memcached1_4, &["1.4.34", "1.6.13"]).await;
}

#[tokio::test]
async fn a_value_is_not_executed_by_a_memcached_with_an_older_meta_set() {
    is_never_written_to(Behaviour::Memcached1_6_0, &["1.6.6", "1.6.13"]).await;
}

#[tokio::test]
async fn a_memcached_whose_deletes_ignore_the_cas_is_not_used() {
    is_never_written_to(Behaviour::Memcached1_6_10, &["1.6.12", "1.6.13"]).await;
}

#[tokio::test]
async fn a_server_that_wants_a_password_is_said_once_and_ejected() {
    is_never_written_to(Behaviour::NeedsPassword, &["unauthenticated"]).await;
}

#[tokio::test]
async fn a_real_memcached_that_wants_a_password_is_said_once_and_ejected() {
    collect_logs();
    let memcached = Memcached::start_with_password();
    let cache = process(&memcached.address()).await;
    let upstream = Upstream::default();
    write_all(&cache, &upstream).await;
    let warnings = warnings(&memcached.address());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("unauthenticated"), "{warnings:?}");
}

/// The probe leaves nothing behind, and the value stays a value.
#[tokio::test]
async fn a_value_that_looks_like_a_command_is_kept_by_a_server_of_today() {
    let memcached = Memcached::start();
    let upstream = Upstream::default();
    let cache = process(&memcached.address()).await;
    write_all(&cache, &upstream).await;
    assert_eq!(memcached.command("mg canary"), "EN");
    assert_eq!(memcached.command("mg cached-core.probe"), "EN");
    let other = process(&memcached.address()).await;
    let fetched = upstream.fetches();
    write_all(&other, &upstream).await;
    assert_eq!(upstream.fetches(), fetched);
    assert_eq!(
        other.scope(async { note_entry(10).get().await.into_option() }).await.as_deref(),
        Some(TEXT)
    );
}
