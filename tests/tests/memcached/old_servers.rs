//! Servers that the library must not use: old versions of memcached, and servers that require a
//! password. Some old versions do not know the command `ms`. They read the value after an
//! unknown command as further commands, and would execute them.

use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use cached_tests::{
    FakeMemcached, Memcached, ServerKind, Upstream, UpstreamDown, collect_logs, logged,
};

/// A value whose second line is a memcached command.
const COMMAND_TEXT: &str = "hi\r\nset canary 0 0 4\r\ndead\r\n";

#[coordinator_cached(name = "written_note", version = number, local = false, skip(upstream), entry = note_entry)]
async fn note(upstream: &Upstream, number: u32) -> Result<String, UpstreamDown> {
    let _ = number;
    upstream.fetch().await?;
    Ok(COMMAND_TEXT.to_owned())
}

#[coordinator_cached(
    name = "written_board",
    overwrite(reason = "a board has no version of its own"),
    local = false,
    skip(upstream),
    entry = board_entry
)]
async fn board(upstream: &Upstream, number: u32) -> Result<String, UpstreamDown> {
    let _ = number;
    upstream.fetch().await?;
    Ok(COMMAND_TEXT.to_owned())
}

/// Returns a cache that shares nothing but memcached with other caches, like a new process.
async fn new_process_cache(address: &str) -> Cache {
    let builder = Cache::builder().memcached([address]);
    builder
        .remote_timeout(Duration::from_millis(500))
        .build()
        .await
        .expect("the settings are valid")
}

/// Returns the warnings that name a server.
fn warnings(server: &str) -> Vec<String> {
    logged(log::Level::Warn, server)
}

/// Stores [`COMMAND_TEXT`] in each way: with cached calls, with `add` and with `overwrite`.
async fn write_all(cache: &Cache, upstream: &Upstream) {
    for number in 0..6 {
        cache.scope(note(upstream, number)).await.expect("the call succeeds");
        cache.scope(board(upstream, number)).await.expect("the call succeeds");
        cache.flush().await;
    }
    cache
        .scope(async {
            note_entry(10).add(COMMAND_TEXT.to_owned()).await;
            let _ = board_entry(10).overwrite(COMMAND_TEXT.to_owned()).await;
        })
        .await;
    cache.flush().await;
}

/// Checks that the library writes no value to a server of this kind, and that it logs one warning,
/// which contains all of the words.
async fn assert_never_written(kind: ServerKind, words: &[&str]) {
    collect_logs();
    let server = FakeMemcached::start(kind);
    let cache = new_process_cache(&server.address()).await;
    let upstream = Upstream::default();
    write_all(&cache, &upstream).await;
    assert!(!server.holds("canary"), "no value was executed: {:?}", server.lines());
    // The library tests a server with these commands before it uses the server.
    let is_probe = |line: &String| {
        matches!(line.as_str(), "version" | "stats" | "mn")
            || line.starts_with("ms cached-core.probe 2 ")
    };
    assert!(server.lines().iter().all(is_probe), "only tests arrive: {:?}", server.lines());
    let warnings = warnings(&server.address());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let has_words = words.iter().all(|word| warnings[0].contains(word));
    assert!(has_words, "the warning contains {words:?}: {warnings:?}");
    // The library has stopped using the server, so calls do not wait for it. The library tries the
    // server again after growing pauses.
    let (began, connections_before) = (Instant::now(), server.connections());
    for number in 0..1000 {
        cache.scope(note(&upstream, number)).await.expect("the call succeeds");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_millis(500), "no call waits for the server: {took:?}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let connections = server.connections() - connections_before;
    assert!((1..=5).contains(&connections), "1 to 5 connections are opened: {connections}");
}

#[tokio::test]
async fn memcached_1_4_never_executes_a_value() {
    assert_never_written(ServerKind::Memcached1_4, &["1.4.34", "1.6.13"]).await;
}

#[tokio::test]
async fn memcached_1_6_0_never_executes_a_value() {
    assert_never_written(ServerKind::Memcached1_6_0, &["1.6.6", "1.6.13"]).await;
}

#[tokio::test]
async fn memcached_without_cas_deletes_is_not_used() {
    assert_never_written(ServerKind::Memcached1_6_10, &["1.6.12", "1.6.13"]).await;
}

#[tokio::test]
async fn a_server_asking_for_passwords_is_ejected() {
    assert_never_written(ServerKind::NeedsPassword, &["unauthenticated"]).await;
}

#[tokio::test]
async fn a_real_memcached_with_passwords_is_ejected() {
    collect_logs();
    let memcached = Memcached::start_with_password();
    let cache = new_process_cache(&memcached.address()).await;
    let upstream = Upstream::default();
    write_all(&cache, &upstream).await;
    let warnings = warnings(&memcached.address());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("unauthenticated"), "{warnings:?}");
}

/// A current memcached stores values that look like commands, and does not execute them. The
/// library's test of the server leaves nothing in memcached under the key `cached-core.probe`.
#[tokio::test]
async fn a_current_memcached_stores_values_like_commands() {
    let memcached = Memcached::start();
    let upstream = Upstream::default();
    let cache = new_process_cache(&memcached.address()).await;
    write_all(&cache, &upstream).await;
    assert_eq!(memcached.command("mg canary"), "EN");
    assert_eq!(memcached.command("mg cached-core.probe"), "EN");
    let other = new_process_cache(&memcached.address()).await;
    let fetched = upstream.fetches();
    write_all(&other, &upstream).await;
    assert_eq!(upstream.fetches(), fetched);
    assert_eq!(
        other.scope(async { note_entry(10).get().await.into_option() }).await.as_deref(),
        Some(COMMAND_TEXT)
    );
}
