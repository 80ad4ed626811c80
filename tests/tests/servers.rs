//! Servers that fail, come back, come and go.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use cached_core::{Cache, CacheError, coordinator_cached, first_found};
use cached_tests::{Down, Memcached, Upstream, collect_logs, free_port, logged};

/// Counts up with each fetch: a lower count than was seen is an old value.
#[coordinator_cached(
    name = "profile",
    overwrite(reason = "a profile has no version of its own"),
    local = false,
    skip(upstream),
    entry = profile_entry
)]
async fn profile(upstream: &Upstream, user: u32) -> Result<usize, Down> {
    let _ = user;
    upstream.answer().await
}

const TIMEOUT: Duration = Duration::from_millis(100);

async fn process<'s>(servers: impl IntoIterator<Item = &'s Memcached>) -> Cache {
    let builder = Cache::builder().memcached(servers.into_iter().map(Memcached::address));
    builder.remote_timeout(TIMEOUT).build().await.expect("fits")
}

async fn calls(cache: &Cache, upstream: &Upstream, users: std::ops::Range<u32>) -> Vec<usize> {
    let mut answers = Vec::new();
    for user in users {
        answers.push(cache.scope(profile(upstream, user)).await.expect("no call fails"));
    }
    answers
}

/// Waits until the key's own server is in use again: until it can be told something.
async fn until_it_is_told(cache: &Cache, user: u32) {
    let give_up = Instant::now() + Duration::from_secs(30);
    while cache.scope(async { profile_entry(user).invalidate().await }).await.is_err() {
        assert!(Instant::now() < give_up, "it is not used again");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Which of the keys stand on this server as their own.
async fn at_home(server: &Memcached, cache: &Cache, users: std::ops::Range<u32>) -> Vec<u32> {
    let mut found = Vec::new();
    for user in users {
        let key = cache.scope(async { profile_entry(user).key().to_string() }).await;
        if server.remaining(&key).is_some() {
            found.push(user);
        }
    }
    found
}

/// A server is stopped, with its items; meanwhile this process invalidates or overwrites all of
/// them. When it goes on, and still has them, this process never sees an old value.
async fn stopped_and_resumed(servers: usize, overwrites: bool) {
    let servers: Vec<Memcached> = (0..servers).map(|_| Memcached::start()).collect();
    let cache = process(&servers).await;
    let upstream = Upstream::default();
    calls(&cache, &upstream, 0..40).await;
    cache.flush().await;
    let stopped = &servers[0];
    let its_own = at_home(stopped, &cache, 0..40).await;
    assert!(its_own.len() > 5, "{its_own:?}");
    stopped.stop();
    // The first few find out; one that is told while nobody knows yet takes its time.
    let mut least = Vec::new();
    for &user in &its_own {
        let new = upstream.answer().await.expect("it works");
        let changed = cache.scope(async {
            match overwrites {
                false => profile_entry(user).invalidate().await,
                true => profile_entry(user).overwrite(new).await,
            }
        });
        let error = changed.await.expect_err("its server could not be told");
        assert!(matches!(error, CacheError::Remote(_)), "{error}");
        // What was before this is old.
        least.push((user, new));
    }
    let is_new = async |when: &str| {
        for (user, least) in &mut *least.clone() {
            let answer = calls(&cache, &upstream, *user..*user + 1).await[0];
            assert!(answer >= *least, "{when}: user {user} has {answer}, not {least} or later");
            let found = cache.scope(async { profile_entry(*user).get().await.into_option() });
            assert!(found.await.is_none_or(|found| found >= *least), "{when}: user {user}");
            let found = cache.scope(async { first_found([profile_entry(*user)]).await });
            assert!(found.await.is_none_or(|found| found >= *least), "{when}: user {user}");
        }
    };
    is_new("stopped").await;
    stopped.resume();
    for _ in 0..20 {
        is_new("resumed").await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    until_it_is_told(&cache, its_own[0]).await;
    is_new("in use again").await;
    // The server was told: what it has is what was fetched after that.
    let other = process(&servers).await;
    for &(user, least) in &least {
        let found = other.scope(async { profile_entry(user).get().await.into_option() });
        assert!(found.await.is_none_or(|found| found >= least), "another process, user {user}");
    }
}

#[tokio::test]
async fn a_single_server_that_was_stopped_gives_no_invalidated_value_back() {
    stopped_and_resumed(1, false).await;
}

#[tokio::test]
async fn one_of_three_servers_that_was_stopped_gives_no_invalidated_value_back() {
    stopped_and_resumed(3, false).await;
}

#[tokio::test]
async fn one_of_three_servers_that_was_stopped_gives_no_overwritten_value_back() {
    stopped_and_resumed(3, true).await;
}

#[tokio::test]
async fn more_invalidations_than_are_remembered_make_all_that_is_older_disbelieved() {
    let server = Memcached::start();
    let cache = process([&server]).await;
    let upstream = Upstream::default();
    calls(&cache, &upstream, 0..10).await;
    cache.flush().await;
    server.stop();
    let invalidate = async |user| {
        cache.scope(async { profile_entry(user).invalidate().await }).await.expect_err("not told");
    };
    for user in 0..10 {
        invalidate(user).await;
    }
    // Nanoseconds each, since the server is ejected by now.
    let began = Instant::now();
    for user in 1000..18_000 {
        invalidate(user).await;
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    server.resume();
    until_it_is_told(&cache, 500).await;
    for (user, answer) in (0..10).zip(calls(&cache, &upstream, 0..10).await) {
        assert!(answer > 10, "user {user} has {answer}, from before");
    }
    cache.flush().await;
    // And they are cached again.
    let fetched = upstream.fetches();
    calls(&cache, &upstream, 0..10).await;
    assert_eq!(upstream.fetches(), fetched);
}

#[tokio::test]
async fn the_keys_of_a_server_that_is_gone_are_cached_for_seconds_on_the_next() {
    let mut servers = vec![Memcached::start(), Memcached::start()];
    let (a, b) = (process(&servers).await, process(&servers).await);
    let upstream = Upstream::default();
    calls(&a, &upstream, 0..30).await;
    a.flush().await;
    let its_own = at_home(&servers[0], &a, 0..30).await;
    let mut gone = servers.remove(0);
    gone.kill();
    // Each process finds out for itself.
    for cache in [&a, &b] {
        for &user in &its_own[..4] {
            calls(cache, &upstream, user..user + 1).await;
        }
        cache.flush().await;
    }
    let fetched = upstream.fetches();
    let users = &its_own[4..];
    assert!(users.len() > 3, "{users:?}");
    for &user in users {
        let first = calls(&a, &upstream, user..user + 1).await;
        a.flush().await;
        assert_eq!(calls(&b, &upstream, user..user + 1).await, first, "once for both");
        let key = a.scope(async { profile_entry(user).key().to_string() }).await;
        let remaining = servers[0].remaining(&format!("{key}:gutter")).expect("it stands in");
        assert!(remaining <= 10, "{remaining} s");
        assert_eq!(servers[0].remaining(&key), None, "and not as its own");
    }
    assert_eq!(upstream.fetches(), fetched + users.len());
    // What is invalidated meanwhile is not found there either, also not after its server is back.
    let user = users[0];
    a.scope(async { profile_entry(user).invalidate().await.expect_err("its own is gone") }).await;
    assert!(calls(&a, &upstream, user..user + 1).await[0] > fetched + users.len());
    let _back = Memcached::start_on(gone.port()).expect("the port is free again");
    until_it_is_told(&a, its_own[0]).await;
    let new = calls(&a, &upstream, user..user + 1).await[0];
    assert!(new > fetched + users.len());
    a.scope(async { profile_entry(user).invalidate().await.expect("its own is told") }).await;
    let _gone = _back;
    drop(_gone);
    // Ejected again within the time that what stood in is kept.
    for _ in 0..10 {
        let answer = calls(&a, &upstream, user..user + 1).await[0];
        assert!(answer > new, "{answer} stood in before it was invalidated");
    }
}

/// Another process may have found a key's own server out of reach when this one has not.
#[tokio::test]
async fn an_invalidation_reaches_what_stands_in_for_another_process() {
    let servers = [Memcached::start(), Memcached::start()];
    let cache = process(&servers).await;
    let upstream = Upstream::default();
    calls(&cache, &upstream, 0..10).await;
    cache.flush().await;
    for overwrites in [false, true] {
        for user in 0..10 {
            let entry = cache.scope(async { profile_entry(user) }).await;
            let key = format!("{}:gutter", entry.key());
            servers.iter().for_each(|server| server.store(&key, "stands in"));
            match overwrites {
                false => entry.invalidate().await.expect("told"),
                true => entry.overwrite(1000).await.expect("told"),
            }
            let left = servers.iter().filter(|server| server.remaining(&key).is_some()).count();
            // At home it stands in for nobody, and nobody looks.
            assert_eq!(left, 1, "user {user}");
        }
    }
}

/// Returns the lines that were logged about a server.
fn lines_of(server: &str) -> Vec<String> {
    logged(log::Level::Info, server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_a_servers_state_is_said_in_one_line_and_a_call_in_none() {
    let mut server = Memcached::start();
    let address = server.address();
    collect_logs();
    assert!(lines_of(&address).is_empty());
    let cache = process([&server]).await;
    let upstream = Upstream::default();
    let many = async || {
        let tasks: Vec<_> = (0..100)
            .map(|user| {
                let (cache, upstream) = (cache.clone(), upstream.clone());
                tokio::spawn(async move { calls(&cache, &upstream, user..user + 3).await })
            })
            .collect();
        for task in tasks {
            task.await.expect("no call fails");
        }
    };
    many().await;
    assert!(lines_of(&address).is_empty(), "{:?}", lines_of(&address));
    server.kill();
    for _ in 0..5 {
        many().await;
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    many().await;
    let lines = lines_of(&address);
    assert!(lines.len() == 1 && lines[0].contains("is ejected after"), "{lines:?}");
    let _again = Memcached::start_on(server.port()).expect("the port is free again");
    until_it_is_told(&cache, 1).await;
    many().await;
    let lines = lines_of(&address);
    assert!(lines.len() == 2 && lines[1].contains("is back in rotation"), "{lines:?}");
}

#[tokio::test]
async fn an_ejected_server_costs_a_call_next_to_nothing() {
    let server = Memcached::start();
    let cache = process([&server]).await;
    let upstream = Upstream::default();
    server.stop();
    // Found out once and for all, with attempts that come to nothing in the background.
    calls(&cache, &upstream, 0..10).await;
    let mut times: Vec<_> = Vec::new();
    for user in 0..2000 {
        let began = Instant::now();
        calls(&cache, &upstream, user..user + 1).await;
        times.push(began.elapsed());
        if user % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    times.sort_unstable();
    let (median, slowest) = (times[1000], times[1999]);
    assert!(median < TIMEOUT / 100, "{median:?}");
    // The attempts took the timeout; no call did.
    assert!(slowest < TIMEOUT, "{slowest:?}");
    server.resume();
}

#[tokio::test]
async fn servers_come_and_go_without_a_restart_and_only_their_keys_move() {
    const USERS: std::ops::Range<u32> = 0..300;
    let servers: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let addresses: Vec<String> = servers.iter().map(Memcached::address).collect();
    let cache = process(&servers[..2]).await;
    let upstream = Upstream::default();
    let moved = async |what: &str| {
        let before = upstream.fetches();
        calls(&cache, &upstream, USERS).await;
        cache.flush().await;
        let moved = upstream.fetches() - before;
        let again = upstream.fetches();
        calls(&cache, &upstream, USERS).await;
        assert_eq!(upstream.fetches(), again, "{what}: all is cached again");
        moved
    };
    assert_eq!(moved("at first").await, 300);
    cache.set_memcached(&addresses).expect("they fit");
    let to_the_third = moved("one more").await;
    assert!((60..=140).contains(&to_the_third), "{to_the_third} of 300");
    assert_eq!(at_home(&servers[2], &cache, USERS).await.len(), to_the_third);
    // One that was there from the start goes.
    let its_own = at_home(&servers[0], &cache, USERS).await.len();
    cache.set_memcached(&addresses[1..]).expect("they fit");
    let its_own_now = moved("one less").await;
    assert!((40..=its_own).contains(&its_own_now), "{its_own_now} of {its_own}");

    for (wrong, why) in [
        (vec![], "no server is given"),
        (vec!["nowhere"], "has no port"),
        (vec!["a:1", "a:1"], "given twice"),
    ] {
        let error = cache.set_memcached(wrong).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
    let without = Cache::builder().build().await.expect("fits");
    let error = without.set_memcached(&addresses).expect_err("no remote tier").to_string();
    assert!(error.contains("without a remote tier"), "{error}");
}

/// Keys go to an added server and back; what was invalidated while they were there is not found
/// where they lived before.
#[tokio::test]
async fn keys_that_come_back_from_a_server_bring_no_old_value_back() {
    let servers: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let addresses: Vec<String> = servers.iter().map(Memcached::address).collect();
    let cache = process(&servers[..2]).await;
    let upstream = Upstream::default();
    calls(&cache, &upstream, 0..60).await;
    cache.flush().await;
    cache.set_memcached(&addresses).expect("they fit");
    for user in 0..60 {
        cache.scope(async { profile_entry(user).invalidate().await.expect("told") }).await;
    }
    calls(&cache, &upstream, 0..60).await;
    cache.flush().await;
    for round in [&addresses[..2], &addresses[1..], &addresses[..]] {
        cache.set_memcached(round).expect("they fit");
        let before = upstream.fetches();
        for answers in
            [calls(&cache, &upstream, 0..60).await, calls(&cache, &upstream, 0..60).await]
        {
            assert!(answers.iter().all(|&answer| answer > 60), "{answers:?}");
        }
        for user in 0..20 {
            until_it_is_told(&cache, user).await;
        }
        let answers = calls(&cache, &upstream, 0..60).await;
        assert!(answers.iter().all(|&answer| answer > 60), "{answers:?}");
        assert!(upstream.fetches() > before, "some moved");
        for user in 0..60 {
            // With servers that only just came back, all of them may have to be told.
            let _ = cache.scope(async { profile_entry(user).invalidate().await }).await;
        }
        let new = upstream.fetches();
        let answers = calls(&cache, &upstream, 0..60).await;
        assert!(answers.iter().all(|&answer| answer > new), "{answers:?}");
        cache.flush().await;
    }
}

/// A fetch that began before a server was taken out, and ends when it is used again, has a lease of it
/// that nobody has revoked meanwhile.
#[tokio::test]
async fn a_fetch_from_before_a_server_was_taken_out_leaves_nothing_old_in_it() {
    let servers: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let addresses: Vec<String> = servers.iter().map(Memcached::address).collect();
    let cache = process(&servers).await;
    let upstream = Upstream::default().taking(600);
    let first = tokio::spawn({
        let (cache, upstream) = (cache.clone(), upstream.clone());
        async move {
            let calls = (0..30).map(|user| {
                let upstream = upstream.clone();
                tokio::spawn(cache.scope(async move { profile(&upstream, user).await }))
            });
            for call in calls.collect::<Vec<_>>() {
                call.await.expect("it ends").expect("it is fetched");
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(upstream.fetches(), 30, "each has its lease");
    cache.set_memcached(&addresses[1..]).expect("they fit");
    for user in 0..30 {
        cache.scope(async { profile_entry(user).invalidate().await.expect("told") }).await;
    }
    cache.set_memcached(&addresses).expect("they fit");
    // Of other keys, so that the leases stay.
    for user in 1_000..1_020 {
        until_it_is_told(&cache, user).await;
    }
    first.await.expect("they end");
    cache.flush().await;
    for user in 0..30 {
        let found = cache.scope(async { profile_entry(user).get().await.into_option() }).await;
        assert_eq!(found, None, "user {user}");
    }
}

/// What a server has from before it came back is not believed. It may be started anew after that, with
/// nothing from before, while nobody asks it.
#[tokio::test]
async fn a_server_that_came_back_and_was_started_anew_is_believed() {
    let mut servers = [Memcached::start(), Memcached::start()];
    let addresses: Vec<String> = servers.iter().map(Memcached::address).collect();
    let cache = process(&servers).await;
    let upstream = Upstream::default();
    // So many that it takes the new one longer to count as far.
    calls(&cache, &upstream, 0..3_000).await;
    cache.flush().await;
    cache.set_memcached(&addresses[1..]).expect("they fit");
    cache.set_memcached(&addresses).expect("they fit");
    for user in 0..20 {
        until_it_is_told(&cache, user).await;
    }
    servers[0].kill();
    let port = servers[0].port();
    servers[0] = Memcached::start_on(port).expect("the port is free");
    let give_up = Instant::now() + Duration::from_secs(3);
    for users in (5_000..).step_by(20).map(|first| first..first + 20) {
        let fetched = upstream.fetches();
        calls(&cache, &upstream, users.clone()).await;
        cache.flush().await;
        calls(&cache, &upstream, users).await;
        if upstream.fetches() - fetched == 20 {
            return;
        }
        assert!(Instant::now() < give_up, "what it has is fetched again and again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_at_first_neither_fails_the_build_nor_a_call() {
    let server = Memcached::start();
    let builder = Cache::builder()
        .memcached([format!("no-such-host.invalid:{}", free_port()), server.address()])
        .remote_timeout(TIMEOUT);
    let cache = builder.build().await.expect("fits");
    let upstream = Upstream::default();
    for _ in 0..4 {
        calls(&cache, &upstream, 0..20).await;
        cache.flush().await;
    }
    // Its keys too are cached, on the server that is there.
    let fetched = upstream.fetches();
    calls(&cache, &upstream, 0..20).await;
    assert_eq!(upstream.fetches(), fetched);
}

/// A process that is suspended, or that has far more to do than it can, finds every deadline past. That
/// says nothing of the server.
#[tokio::test]
async fn a_process_that_was_held_up_ejects_no_server() {
    let server = Memcached::start();
    let cache = process([&server]).await;
    let upstream = Upstream::default();
    calls(&cache, &upstream, 0..1).await;
    cache.flush().await;
    for user in 1..6 {
        server.stop();
        let mut call = std::pin::pin!(cache.scope(profile(&upstream, user)));
        assert!(cached_tests::poll_once(call.as_mut()).await.is_none(), "it is under way");
        // This holds up the runtime's only thread.
        std::thread::sleep(TIMEOUT * 3);
        call.await.expect("no call fails");
        server.resume();
    }
    let fetched = upstream.fetches();
    calls(&cache, &upstream, 0..1).await;
    assert_eq!(upstream.fetches(), fetched, "the server is asked");
}
