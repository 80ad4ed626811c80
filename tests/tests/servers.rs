//! Tests memcached servers that fail and return, and servers that are added and removed.
//!
//! Each key has a *home server*. While the home server is lost, another server, the *gutter
//! server*, keeps the key's values for a few seconds. A process *ejects* a server that fails: it
//! stops using the server until the server has recovered.
//!
//! These tests run in a process of their own because they measure time.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use cached_core::{Cache, CacheError, coordinator_cached, first_found};
use cached_tests::{Memcached, Upstream, UpstreamDown, collect_logs, free_port, logged};

/// Returns the number of the fetch, so a lower number is an older value.
#[coordinator_cached(
    name = "profile",
    overwrite(reason = "a profile has no version of its own"),
    local = false,
    skip(upstream),
    entry = profile_entry
)]
async fn profile(upstream: &Upstream, user: u32) -> Result<usize, UpstreamDown> {
    let _ = user;
    upstream.fetch().await
}

const TIMEOUT: Duration = Duration::from_millis(100);

/// Returns a cache like that of a new process: it shares only memcached with other caches.
async fn new_process_cache<'s>(servers: impl IntoIterator<Item = &'s Memcached>) -> Cache {
    let builder = Cache::builder().memcached(servers.into_iter().map(Memcached::address));
    builder.remote_timeout(TIMEOUT).build().await.expect("the settings are valid")
}

/// Calls `profile` for each user and returns the answers.
async fn call_all(cache: &Cache, upstream: &Upstream, users: std::ops::Range<u32>) -> Vec<usize> {
    let mut answers = Vec::new();
    for user in users {
        answers.push(cache.scope(profile(upstream, user)).await.expect("the call succeeds"));
    }
    answers
}

/// Invalidates the user's key again and again, until its home server answers.
async fn wait_until_reached(cache: &Cache, user: u32) {
    let give_up = Instant::now() + Duration::from_secs(30);
    while cache.scope(async { profile_entry(user).invalidate().await }).await.is_err() {
        assert!(Instant::now() < give_up, "the server is used again in time");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Returns the users whose keys have this server as their home.
async fn users_at_home(server: &Memcached, cache: &Cache, users: std::ops::Range<u32>) -> Vec<u32> {
    let mut found = Vec::new();
    for user in users {
        let key = cache.scope(async { profile_entry(user).key().to_string() }).await;
        if server.remaining_ttl(&key).is_some() {
            found.push(user);
        }
    }
    found
}

/// Suspends a server that has items, and invalidates or overwrites all of them. Checks that this
/// process never sees an old value after the server has resumed with its old items.
async fn assert_no_old_values(servers: usize, overwrites: bool) {
    let servers: Vec<Memcached> = (0..servers).map(|_| Memcached::start()).collect();
    let cache = new_process_cache(&servers).await;
    let upstream = Upstream::default();
    call_all(&cache, &upstream, 0..40).await;
    cache.flush().await;
    let suspended = &servers[0];
    let at_home = users_at_home(suspended, &cache, 0..40).await;
    assert!(at_home.len() > 5, "the server has several keys: {at_home:?}");
    suspended.suspend();
    // The first changes wait for the timeout. Then the server is ejected.
    let mut least = Vec::new();
    for &user in &at_home {
        let new = upstream.fetch().await.expect("the upstream works");
        let changed = cache.scope(async {
            match overwrites {
                false => profile_entry(user).invalidate().await,
                true => profile_entry(user).overwrite(new).await,
            }
        });
        let error = changed.await.expect_err("the home server is suspended");
        assert!(matches!(error, CacheError::Remote(_)), "{error}");
        // Every lower number is an old value.
        least.push((user, new));
    }
    let assert_new = async |when: &str| {
        for (user, least) in &mut *least.clone() {
            let answer = call_all(&cache, &upstream, *user..*user + 1).await[0];
            assert!(
                answer >= *least,
                "{when}: the value of user {user} is {least} or later: {answer}"
            );
            let found = cache.scope(async { profile_entry(*user).get().await.into_option() });
            assert!(found.await.is_none_or(|found| found >= *least), "{when}: user {user}");
            let found = cache.scope(async { first_found([profile_entry(*user)]).await });
            assert!(found.await.is_none_or(|found| found >= *least), "{when}: user {user}");
        }
    };
    assert_new("suspended").await;
    suspended.resume();
    for _ in 0..20 {
        assert_new("resumed").await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    wait_until_reached(&cache, at_home[0]).await;
    assert_new("in use again").await;
    // The server has removed the old items by now, so another process finds only new values there.
    let other = new_process_cache(&servers).await;
    for &(user, least) in &least {
        let found = other.scope(async { profile_entry(user).get().await.into_option() });
        assert!(found.await.is_none_or(|found| found >= least), "another process, user {user}");
    }
}

#[tokio::test]
async fn a_single_resumed_server_revives_no_value() {
    assert_no_old_values(1, false).await;
}

#[tokio::test]
async fn a_resumed_server_revives_no_invalidated_value() {
    assert_no_old_values(3, false).await;
}

#[tokio::test]
async fn a_resumed_server_revives_no_overwritten_value() {
    assert_no_old_values(3, true).await;
}

/// A *hint* is a key that a server must remove once it answers again. If there are too many hints,
/// the process *fences* the server: it trusts none of the server's present items.
#[tokio::test]
async fn too_many_hints_fence_the_whole_server() {
    let server = Memcached::start();
    let cache = new_process_cache([&server]).await;
    let upstream = Upstream::default();
    call_all(&cache, &upstream, 0..10).await;
    cache.flush().await;
    server.suspend();
    let invalidate = async |user| {
        cache
            .scope(async { profile_entry(user).invalidate().await })
            .await
            .expect_err("the server is suspended");
    };
    for user in 0..10 {
        invalidate(user).await;
    }
    // These calls are quick, because the server is ejected by now.
    let began = Instant::now();
    for user in 1000..18_000 {
        invalidate(user).await;
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "no call waits for the server: {took:?}");
    server.resume();
    wait_until_reached(&cache, 500).await;
    for (user, answer) in (0..10).zip(call_all(&cache, &upstream, 0..10).await) {
        assert!(answer > 10, "the value of user {user} is new: {answer}");
    }
    cache.flush().await;
    // The values are cached again.
    let fetched = upstream.fetches();
    call_all(&cache, &upstream, 0..10).await;
    assert_eq!(upstream.fetches(), fetched);
}

#[tokio::test]
async fn keys_of_a_lost_server_use_the_gutter() {
    let mut servers = vec![Memcached::start(), Memcached::start()];
    let (a, b) = (new_process_cache(&servers).await, new_process_cache(&servers).await);
    let upstream = Upstream::default();
    call_all(&a, &upstream, 0..30).await;
    a.flush().await;
    let at_home = users_at_home(&servers[0], &a, 0..30).await;
    let mut gone = servers.remove(0);
    gone.kill();
    // Each process detects the loss for itself.
    for cache in [&a, &b] {
        for &user in &at_home[..4] {
            call_all(cache, &upstream, user..user + 1).await;
        }
        cache.flush().await;
    }
    let fetched = upstream.fetches();
    let users = &at_home[4..];
    assert!(users.len() > 3, "the lost server had several keys: {users:?}");
    for &user in users {
        let first = call_all(&a, &upstream, user..user + 1).await;
        a.flush().await;
        assert_eq!(
            call_all(&b, &upstream, user..user + 1).await,
            first,
            "both processes share a fetch"
        );
        let key = a.scope(async { profile_entry(user).key().to_string() }).await;
        let remaining =
            servers[0].remaining_ttl(&format!("{key}:gutter")).expect("the gutter has the value");
        assert!(remaining <= 10, "the gutter server keeps a value for 10 s: {remaining} s");
        assert_eq!(servers[0].remaining_ttl(&key), None, "the value is only under `:gutter`");
    }
    assert_eq!(upstream.fetches(), fetched + users.len());
    // An invalidation also reaches the gutter server, and holds after the home server has returned.
    let user = users[0];
    a.scope(async { profile_entry(user).invalidate().await.expect_err("the home server is lost") })
        .await;
    assert!(call_all(&a, &upstream, user..user + 1).await[0] > fetched + users.len());
    let back = Memcached::start_on(gone.port()).expect("the port is free");
    wait_until_reached(&a, at_home[0]).await;
    let new = call_all(&a, &upstream, user..user + 1).await[0];
    assert!(new > fetched + users.len());
    a.scope(async { profile_entry(user).invalidate().await.expect("the home server is reached") })
        .await;
    drop(back);
    // The home server is ejected again before items on the gutter server have expired.
    for _ in 0..10 {
        let answer = call_all(&a, &upstream, user..user + 1).await[0];
        assert!(answer > new, "the gutter server has no old value: {answer}");
    }
}

/// This process reaches a key's home server. Another process might have lost that server, and read
/// the key from the gutter server. So a change must also remove the key there.
#[tokio::test]
async fn changes_clear_the_gutter_of_other_processes() {
    let servers = [Memcached::start(), Memcached::start()];
    let cache = new_process_cache(&servers).await;
    let upstream = Upstream::default();
    call_all(&cache, &upstream, 0..10).await;
    cache.flush().await;
    for overwrites in [false, true] {
        for user in 0..10 {
            let entry = cache.scope(async { profile_entry(user) }).await;
            let key = format!("{}:gutter", entry.key());
            servers.iter().for_each(|server| server.store(&key, "a value"));
            match overwrites {
                false => entry.invalidate().await.expect("memcached is reached"),
                true => entry.overwrite(1000).await.expect("memcached is reached"),
            }
            let present =
                servers.iter().filter(|server| server.remaining_ttl(&key).is_some()).count();
            // The home server keeps its item with the suffix `:gutter`. No process reads that item
            // there.
            assert_eq!(present, 1, "user {user}");
        }
    }
}

/// Returns the lines that were logged about a server.
fn lines_of(server: &str) -> Vec<String> {
    logged(log::Level::Info, server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_changes_are_logged_and_calls_are_not() {
    let mut server = Memcached::start();
    let address = server.address();
    collect_logs();
    assert!(lines_of(&address).is_empty());
    let cache = new_process_cache([&server]).await;
    let upstream = Upstream::default();
    let call_many = async || {
        let tasks: Vec<_> = (0..100)
            .map(|user| {
                let (cache, upstream) = (cache.clone(), upstream.clone());
                tokio::spawn(async move { call_all(&cache, &upstream, user..user + 3).await })
            })
            .collect();
        for task in tasks {
            task.await.expect("the call succeeds");
        }
    };
    call_many().await;
    assert!(lines_of(&address).is_empty(), "{:?}", lines_of(&address));
    server.kill();
    for _ in 0..5 {
        call_many().await;
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    call_many().await;
    let lines = lines_of(&address);
    assert!(lines.len() == 1 && lines[0].contains("is ejected after"), "{lines:?}");
    let _again = Memcached::start_on(server.port()).expect("the port is free");
    wait_until_reached(&cache, 1).await;
    call_many().await;
    let lines = lines_of(&address);
    assert!(lines.len() == 2 && lines[1].contains("is back in rotation"), "{lines:?}");
}

#[tokio::test]
async fn an_ejected_server_delays_no_call() {
    let server = Memcached::start();
    let cache = new_process_cache([&server]).await;
    let upstream = Upstream::default();
    server.suspend();
    // These calls eject the server. Later attempts to reach the server fail in the background.
    call_all(&cache, &upstream, 0..10).await;
    let mut times: Vec<_> = Vec::new();
    for user in 0..2000 {
        let began = Instant::now();
        call_all(&cache, &upstream, user..user + 1).await;
        times.push(began.elapsed());
        if user % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    times.sort_unstable();
    let (median, slowest) = (times[1000], times[1999]);
    assert!(median < TIMEOUT / 100, "most calls do not wait at all: {median:?}");
    // The attempts take the whole timeout, but no call does.
    assert!(slowest < TIMEOUT, "no call waits for the timeout: {slowest:?}");
    server.resume();
}

#[tokio::test]
async fn only_keys_of_changed_servers_move() {
    const USERS: std::ops::Range<u32> = 0..300;
    let servers: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let addresses: Vec<String> = servers.iter().map(Memcached::address).collect();
    let cache = new_process_cache(&servers[..2]).await;
    let upstream = Upstream::default();
    let moved = async |what: &str| {
        let before = upstream.fetches();
        call_all(&cache, &upstream, USERS).await;
        cache.flush().await;
        let moved = upstream.fetches() - before;
        let again = upstream.fetches();
        call_all(&cache, &upstream, USERS).await;
        assert_eq!(upstream.fetches(), again, "{what}: each key is cached again");
        moved
    };
    assert_eq!(moved("first servers").await, 300);
    cache.set_memcached(&addresses).expect("the settings are valid");
    let to_the_third = moved("one server more").await;
    assert!((60..=140).contains(&to_the_third), "a third of the keys move: {to_the_third} of 300");
    assert_eq!(users_at_home(&servers[2], &cache, USERS).await.len(), to_the_third);
    // One of the first servers is removed.
    let at_home = users_at_home(&servers[0], &cache, USERS).await.len();
    cache.set_memcached(&addresses[1..]).expect("the settings are valid");
    let moved_away = moved("one server less").await;
    assert!(
        (40..=at_home).contains(&moved_away),
        "only keys of the removed server move: {moved_away} of {at_home}"
    );

    for (wrong, why) in [
        (vec![], "no server is given"),
        (vec!["nowhere"], "has no port"),
        (vec!["a:1", "a:1"], "given twice"),
    ] {
        let error = cache.set_memcached(wrong).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
    let without = Cache::builder().build().await.expect("the settings are valid");
    let error =
        without.set_memcached(&addresses).expect_err("the cache has no remote tier").to_string();
    assert!(error.contains("built without memcached"), "{error}");
}

/// Keys move to an added server and back. In between they are invalidated. The old values on the
/// first server must not be served again.
#[tokio::test]
async fn keys_that_move_back_revive_no_value() {
    let servers: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let addresses: Vec<String> = servers.iter().map(Memcached::address).collect();
    let cache = new_process_cache(&servers[..2]).await;
    let upstream = Upstream::default();
    call_all(&cache, &upstream, 0..60).await;
    cache.flush().await;
    cache.set_memcached(&addresses).expect("the settings are valid");
    for user in 0..60 {
        cache
            .scope(async { profile_entry(user).invalidate().await.expect("memcached is reached") })
            .await;
    }
    call_all(&cache, &upstream, 0..60).await;
    cache.flush().await;
    for round in [&addresses[..2], &addresses[1..], &addresses[..]] {
        cache.set_memcached(round).expect("the settings are valid");
        let before = upstream.fetches();
        for answers in
            [call_all(&cache, &upstream, 0..60).await, call_all(&cache, &upstream, 0..60).await]
        {
            assert!(answers.iter().all(|&answer| answer > 60), "all values are new: {answers:?}");
        }
        for user in 0..20 {
            wait_until_reached(&cache, user).await;
        }
        let answers = call_all(&cache, &upstream, 0..60).await;
        assert!(answers.iter().all(|&answer| answer > 60), "all values are new: {answers:?}");
        assert!(upstream.fetches() > before, "some keys have moved");
        for user in 0..60 {
            // The process might not reach a server that has just returned.
            let _ = cache.scope(async { profile_entry(user).invalidate().await }).await;
        }
        let new = upstream.fetches();
        let answers = call_all(&cache, &upstream, 0..60).await;
        assert!(answers.iter().all(|&answer| answer > new), "all values are newer: {answers:?}");
        cache.flush().await;
    }
}

/// A fetch begins before its server is removed, and ends after the server was added again. In
/// between the key is invalidated. The invalidation does not reach this server, so the *lease* (the
/// right to store the fetched value) is still valid there.
#[tokio::test]
async fn a_fetch_across_a_removal_stores_nothing() {
    let servers: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let addresses: Vec<String> = servers.iter().map(Memcached::address).collect();
    let cache = new_process_cache(&servers).await;
    let upstream = Upstream::default().taking_millis(600);
    let first = tokio::spawn({
        let (cache, upstream) = (cache.clone(), upstream.clone());
        async move {
            let calls = (0..30).map(|user| {
                let upstream = upstream.clone();
                tokio::spawn(cache.scope(async move { profile(&upstream, user).await }))
            });
            for call in calls.collect::<Vec<_>>() {
                call.await.expect("no task panics").expect("the call succeeds");
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(upstream.fetches(), 30, "each call holds a lease");
    cache.set_memcached(&addresses[1..]).expect("the settings are valid");
    for user in 0..30 {
        cache
            .scope(async { profile_entry(user).invalidate().await.expect("memcached is reached") })
            .await;
    }
    cache.set_memcached(&addresses).expect("the settings are valid");
    // These calls use other keys, so that the leases stay.
    for user in 1_000..1_020 {
        wait_until_reached(&cache, user).await;
    }
    first.await.expect("no task panics");
    cache.flush().await;
    for user in 0..30 {
        let found = cache.scope(async { profile_entry(user).get().await.into_option() }).await;
        assert_eq!(found, None, "user {user}");
    }
}

/// memcached numbers its writes; such a number is called a CAS. When a server is added again, the
/// library trusts only items with CAS numbers that the server assigns from then on. If the server
/// restarts later, it counts from the start, and the library must trust its items all the same.
#[tokio::test]
async fn a_restarted_server_is_trusted_again() {
    let mut servers = [Memcached::start(), Memcached::start()];
    let addresses: Vec<String> = servers.iter().map(Memcached::address).collect();
    let cache = new_process_cache(&servers).await;
    let upstream = Upstream::default();
    // After so many items, the restarted server would need long to reach the old CAS numbers.
    call_all(&cache, &upstream, 0..3_000).await;
    cache.flush().await;
    cache.set_memcached(&addresses[1..]).expect("the settings are valid");
    cache.set_memcached(&addresses).expect("the settings are valid");
    for user in 0..20 {
        wait_until_reached(&cache, user).await;
    }
    servers[0].kill();
    let port = servers[0].port();
    servers[0] = Memcached::start_on(port).expect("the port is free");
    let give_up = Instant::now() + Duration::from_secs(3);
    for users in (5_000..).step_by(20).map(|first| first..first + 20) {
        let fetched = upstream.fetches();
        call_all(&cache, &upstream, users.clone()).await;
        cache.flush().await;
        call_all(&cache, &upstream, users).await;
        if upstream.fetches() - fetched == 20 {
            return;
        }
        assert!(Instant::now() < give_up, "the items of the server are used again in time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn an_unresolvable_name_fails_no_call() {
    let server = Memcached::start();
    let builder = Cache::builder()
        .memcached([format!("no-such-host.invalid:{}", free_port()), server.address()])
        .remote_timeout(TIMEOUT);
    let cache = builder.build().await.expect("the settings are valid");
    let upstream = Upstream::default();
    for _ in 0..4 {
        call_all(&cache, &upstream, 0..20).await;
        cache.flush().await;
    }
    // The keys of the missing server are cached on the other server.
    let fetched = upstream.fetches();
    call_all(&cache, &upstream, 0..20).await;
    assert_eq!(upstream.fetches(), fetched);
}

/// In a process that was suspended or is overloaded, deadlines pass although the server has not
/// failed.
#[tokio::test]
async fn a_suspended_process_ejects_no_server() {
    let server = Memcached::start();
    let cache = new_process_cache([&server]).await;
    let upstream = Upstream::default();
    call_all(&cache, &upstream, 0..1).await;
    cache.flush().await;
    for user in 1..6 {
        server.suspend();
        let mut call = std::pin::pin!(cache.scope(profile(&upstream, user)));
        assert!(cached_tests::poll_once(call.as_mut()).await.is_none(), "the call is not ready");
        // The sleep blocks the only thread of the runtime.
        std::thread::sleep(TIMEOUT * 3);
        call.await.expect("the call succeeds");
        server.resume();
    }
    let fetched = upstream.fetches();
    call_all(&cache, &upstream, 0..1).await;
    assert_eq!(upstream.fetches(), fetched, "the values come from the server");
}
