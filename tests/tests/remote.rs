//! The remote tier, on a memcached of the test's own.
#![allow(missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cached_core::{Cache, RequestScope, Tier, coordinator_cached, first_found};
use cached_tests::{Down, Memcached, Upstream, free_port, poll_once};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Payment {
    number: String,
    fetched: usize,
}

#[coordinator_cached(name = "payment", version = state, skip(upstream), entry = payment_entry)]
async fn payment(upstream: &Upstream, number: &str, state: &str) -> Result<Payment, Down> {
    Ok(Payment { number: number.to_owned(), fetched: upstream.answer().await? })
}

#[coordinator_cached(name = "failing", version = number, skip(upstream))]
async fn failing(upstream: &Upstream, number: u32) -> Result<u32, Down> {
    upstream.answer().await?;
    Err(Down)
}

#[coordinator_cached(
    name = "profile",
    overwrite(reason = "a profile has no version of its own"),
    skip(upstream),
    entry = profile_entry
)]
async fn profile(upstream: &Upstream, user: u32) -> Result<String, Down> {
    Ok(format!("user {user}, fetch {}", upstream.answer().await?))
}

/// A cache of its own, as another process would have.
async fn process(memcached: &Memcached) -> Cache {
    let builder = Cache::builder().namespace("test").memcached([memcached.address()]);
    builder.remote_timeout(Duration::from_secs(1)).build().await.expect("fits")
}

#[tokio::test]
async fn what_one_process_fetched_another_finds() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached).await, process(&memcached).await);
    let upstream = Upstream::default();
    let fetched = a.scope(payment(&upstream, "7", "paid")).await;
    a.flush().await;
    assert_eq!(b.scope(payment(&upstream, "7", "paid")).await, fetched);
    assert_eq!(b.scope(payment(&upstream, "7", "paid")).await, fetched);
    assert_eq!(upstream.fetches(), 1);
    let stats = b.stats().get("payment").expect("called");
    assert_eq!((stats.remote_hits, stats.local_hits, stats.fetches), (1, 1, 0));
}

#[tokio::test]
async fn an_entry_lives_for_thirty_minutes_by_default() {
    let memcached = Memcached::start();
    let cache = process(&memcached).await;
    cache.scope(payment(&Upstream::default(), "7", "paid")).await.expect("fetched");
    cache.flush().await;
    let key = cache.scope(async { payment_entry("7", "paid").key().to_string() }).await;
    assert!(key.starts_with("test:payment:"), "{key}");
    let remaining = memcached.remaining(&key).expect("the item is there");
    assert!((1799..=1800).contains(&remaining), "{remaining} s");
}

#[coordinator_cached(name = "brief", version = number, ttl = "3s", skip(upstream), entry = brief_entry)]
async fn brief(upstream: &Upstream, number: u32) -> Result<usize, Down> {
    let _ = number;
    upstream.answer().await
}

/// The server counts seconds on ticks of its own, so entries begin at all places between two ticks.
#[tokio::test]
async fn a_local_entry_does_not_outlive_its_item() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached).await, process(&memcached).await);
    let upstream = Upstream::default();
    for number in 0..8 {
        a.scope(brief(&upstream, number)).await.expect("fetched");
        a.flush().await;
        tokio::time::sleep(Duration::from_millis(125)).await;
        // Read late: what remains counts, not the ttl.
        b.scope(brief(&upstream, number)).await.expect("read");
    }
    assert_eq!(upstream.fetches(), 8);
    let mut alive: Vec<u32> = (0..8).collect();
    let mut seen_locally = 0;
    while !alive.is_empty() {
        for number in std::mem::take(&mut alive) {
            let key = a.scope(async { brief_entry(number).key().to_string() }).await;
            let item = memcached.remaining(&key);
            for process in [&a, &b] {
                let tier = process.scope(async { brief_entry(number).get().await.tier() }).await;
                assert!(item.is_some() || tier.is_none(), "{number} is gone, and in {tier:?}");
                seen_locally += usize::from(tier == Some(Tier::Local));
            }
            if item.is_some() {
                alive.push(number);
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(seen_locally > 0);
}

/// Starts processes of the fleet; each says that it is ready before this returns.
fn fleet(
    url: &str,
    count: usize,
    callers: usize,
    takes: &str,
) -> Vec<(Child, BufReader<std::process::ChildStdout>)> {
    (0..count)
        .map(|_| {
            let mut process = Command::new(env!("CARGO_BIN_EXE_fleet"))
                .args(["7", &callers.to_string(), takes])
                .env("CACHE_URL", url)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("the program starts");
            let mut output = BufReader::new(process.stdout.take().expect("piped"));
            let mut line = String::new();
            output.read_line(&mut line).expect("it says that it is ready");
            assert_eq!(line, "ready\n");
            (process, output)
        })
        .collect()
}

fn go(process: &mut Child) {
    process.stdin.as_mut().expect("piped").write_all(b"go\n").expect("it listens");
}

/// What a process printed at its end: its fetches, and the values it saw.
fn outcome(
    (mut process, mut output): (Child, BufReader<std::process::ChildStdout>),
) -> (usize, String) {
    let mut line = String::new();
    output.read_line(&mut line).expect("it prints its outcome");
    assert!(process.wait().expect("it ends").success());
    let (fetches, values) = line.trim().split_once(' ').expect("fetches and values");
    (fetches.parse().expect("a number"), values.to_owned())
}

#[test]
fn four_processes_of_a_thousand_callers_fetch_a_cold_key_once_in_total() {
    let memcached = Memcached::start();
    let url = format!("memcache://{}?timeout=1s", memcached.address());
    let mut processes = fleet(&url, 4, 1000, "300");
    processes.iter_mut().for_each(|(process, _)| go(process));
    let outcomes: Vec<_> = processes.into_iter().map(outcome).collect();
    assert_eq!(outcomes.iter().map(|(fetches, _)| fetches).sum::<usize>(), 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|(_, values)| *values == outcomes[0].1), "{outcomes:?}");
}

#[test]
fn when_the_process_that_fetches_is_killed_another_takes_over_after_the_lease() {
    let memcached = Memcached::start();
    let url = format!("memcache://{}?timeout=1s&lease=2s", memcached.address());
    let (mut doomed, _output) = fleet(&url, 1, 1, "hang").remove(0);
    go(&mut doomed);
    std::thread::sleep(Duration::from_millis(300));
    doomed.kill().expect("it runs");
    doomed.wait().expect("it ended");
    let began = Instant::now();
    let mut processes = fleet(&url, 3, 100, "50");
    processes.iter_mut().for_each(|(process, _)| go(process));
    let outcomes: Vec<_> = processes.into_iter().map(outcome).collect();
    // The lease and the wait for it are equally long, so each may give up just before it ends.
    let fetches: usize = outcomes.iter().map(|(fetches, _)| fetches).sum();
    assert!((1..=3).contains(&fetches), "{outcomes:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_failed_or_cancelled_fetch_gives_its_lease_back() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached).await, process(&memcached).await);
    let upstream = Upstream::default().taking(20);
    assert_eq!(a.scope(failing(&upstream, 7)).await, Err(Down));
    let hanging = Upstream::default().taking(10_000);
    let cancelled =
        tokio::time::timeout(Duration::from_millis(200), a.scope(payment(&hanging, "7", "paid")));
    assert!(cancelled.await.is_err());
    a.flush().await;
    let began = Instant::now();
    assert_eq!(b.scope(failing(&upstream, 7)).await, Err(Down));
    b.scope(payment(&upstream, "7", "paid")).await.expect("fetched");
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "nobody waits for a lease: {:?}",
        began.elapsed()
    );
}

/// A field that is left out where it is empty; a positional codec would read the next one for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Skipping {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<u8>,
    amount: u8,
    fee: u8,
    tail: Vec<u8>,
}

#[coordinator_cached(name = "skipping", version = amount, skip(upstream), entry = skipping_entry)]
async fn skipping(upstream: &Upstream, amount: u8) -> Result<Skipping, Down> {
    upstream.answer().await?;
    Ok(Skipping { note: None, amount, fee: 1, tail: vec![2, 3] })
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u32),
    Text(String),
}

#[coordinator_cached(name = "untagged", version = number, skip(upstream))]
async fn untagged(upstream: &Upstream, number: u32) -> Result<Untagged, Down> {
    upstream.answer().await?;
    Ok(Untagged::Number(number))
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct NeverWritten {
    #[serde(skip_serializing, default)]
    secret: u8,
    amount: u8,
    rest: Vec<u8>,
}

#[coordinator_cached(name = "never_written", version = number, skip(upstream))]
async fn never_written(upstream: &Upstream, number: u8) -> Result<NeverWritten, Down> {
    upstream.answer().await?;
    Ok(NeverWritten { secret: 9, amount: number, rest: vec![0; 4] })
}

#[tokio::test]
async fn a_value_that_does_not_read_back_never_comes_from_memcached() {
    let memcached = Memcached::start();
    for number in 0..=4u8 {
        let (a, b) = (process(&memcached).await, process(&memcached).await);
        let upstream = Upstream::default();
        for cache in [&a, &b, &a] {
            let value = cache.scope(skipping(&upstream, number)).await.expect("fetched");
            assert_eq!(value, Skipping { note: None, amount: number, fee: 1, tail: vec![2, 3] });
            let value = cache.scope(untagged(&upstream, number.into())).await.expect("fetched");
            assert_eq!(value, Untagged::Number(number.into()));
            let value = cache.scope(never_written(&upstream, number)).await.expect("fetched");
            assert_eq!(value.amount, number);
            assert_eq!(value.secret, 9);
            cache.flush().await;
        }
        assert_eq!(upstream.fetches(), 6, "each process fetches for itself, once");
        assert_eq!(b.stats().total().remote_hits, 0);
    }
    let findings: Vec<String> =
        cached_core::ledger().audit().iter().map(ToString::to_string).collect();
    for name in ["skipping", "untagged", "never_written"] {
        assert!(
            findings.iter().any(|finding| finding.contains(&format!("`{name}`"))),
            "{findings:?}"
        );
    }
}

#[tokio::test]
async fn garbage_in_memcached_is_a_miss_and_is_mended() {
    let memcached = Memcached::start();
    let cache = process(&memcached).await;
    let key = |number: &'static str| {
        cache.scope(async move { payment_entry(number, "paid").key().to_string() })
    };
    let upstream = Upstream::default();
    memcached.store(&key("1").await, "garbage");
    assert_eq!(cache.scope(payment(&upstream, "1", "paid")).await.expect("fetched").fetched, 1);
    cache.flush().await;
    let other = process(&memcached).await;
    assert_eq!(other.scope(payment(&upstream, "1", "paid")).await.expect("read").fetched, 1);
    // Another key's entry under this key.
    let frame = memcached.command(&format!("mg {} s", key("1").await));
    assert!(frame.starts_with("HD s"), "{frame}");
}

#[tokio::test]
async fn memcached_that_was_never_there_changes_no_answer() {
    let builder = Cache::builder().memcached([format!("127.0.0.1:{}", free_port())]);
    answers_in_time(builder.remote_timeout(Duration::from_millis(100)), || {}).await;
}

#[tokio::test]
async fn a_server_name_that_does_not_resolve_changes_no_answer() {
    let builder = Cache::builder().memcached(["no-such-host.invalid:11211"]);
    answers_in_time(builder.remote_timeout(Duration::from_millis(100)), || {}).await;
}

#[tokio::test]
async fn memcached_killed_in_mid_load_changes_no_answer() {
    let mut memcached = Memcached::start();
    let builder = Cache::builder().memcached([memcached.address()]);
    answers_in_time(builder.remote_timeout(Duration::from_millis(100)), || memcached.kill()).await;
}

#[tokio::test]
async fn memcached_stopped_in_mid_load_changes_no_answer() {
    let memcached = Memcached::start();
    let builder = Cache::builder().memcached([memcached.address()]);
    answers_in_time(builder.remote_timeout(Duration::from_millis(100)), || memcached.stop()).await;
    memcached.resume();
}

/// 600 calls of 300 keys from 20 tasks; `happens` a third of the way in. Each call answers within its
/// fetch, the remote timeout of 100 ms, and what this machine needs to get round to it.
async fn answers_in_time(builder: cached_core::CacheBuilder, happens: impl FnOnce()) {
    const FETCH: u64 = 20;
    let cache = builder.build().await.expect("fits");
    let upstream = Upstream::default().taking(FETCH);
    let progress = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..20)
        .map(|task| {
            let (upstream, progress) = (upstream.clone(), Arc::clone(&progress));
            tokio::spawn(cache.scope(async move {
                let mut slowest = Duration::ZERO;
                for call in 0..30 {
                    let number = (task * 15 + call / 2).to_string();
                    let began = Instant::now();
                    let answer = payment(&upstream, &number, "paid").await.expect("it answers");
                    slowest = slowest.max(began.elapsed());
                    assert_eq!(answer.number, number);
                    progress.fetch_add(1, Ordering::SeqCst);
                }
                slowest
            }))
        })
        .collect();
    // How late this machine is, busy as it may be: a timer's delay on the same thread.
    let lateness = Arc::new(std::sync::Mutex::new(Duration::ZERO));
    let watch = tokio::spawn({
        let lateness = Arc::clone(&lateness);
        async move {
            loop {
                let began = Instant::now();
                tokio::time::sleep(Duration::from_millis(5)).await;
                let late = began.elapsed().saturating_sub(Duration::from_millis(5));
                let mut latest = lateness.lock().expect("nobody panics with it");
                *latest = late.max(*latest);
            }
        }
    });
    while progress.load(Ordering::SeqCst) < 200 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    happens();
    let mut slowest = Duration::ZERO;
    for task in tasks {
        slowest = slowest.max(task.await.expect("no call panics"));
    }
    watch.abort();
    // A call waits for a timer twice: for its deadline and for its fetch.
    let late = *lateness.lock().expect("nobody panics with it");
    let limit = Duration::from_millis(FETCH + 100 + 40) + 2 * late;
    assert!(slowest < limit, "{slowest:?}, with timers up to {late:?} late");
    assert!(upstream.fetches() <= 600);
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let mut memcached = Memcached::start();
    let port = memcached.port();
    let cache = process(&memcached).await;
    let upstream = Upstream::default();
    memcached.kill();
    for number in 0..10 {
        cache.scope(payment(&upstream, &number.to_string(), "paid")).await.expect("it answers");
    }
    let _memcached = Memcached::start_on(port).expect("the port is free again");
    let give_up = Instant::now() + Duration::from_secs(20);
    for number in 10.. {
        cache.scope(payment(&upstream, &number.to_string(), "paid")).await.expect("it answers");
        cache.flush().await;
        if cache.stats().get("payment").expect("called").fills > 0 {
            break;
        }
        assert!(Instant::now() < give_up, "it is not used again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn invalidate_reaches_memcached_and_beats_a_fetch_of_another_process() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached).await, process(&memcached).await);
    let upstream = Upstream::default().taking(500);
    let fetch = tokio::spawn({
        let (a, upstream) = (a.clone(), upstream.clone());
        async move { a.scope(payment(&upstream, "7", "paid")).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    b.scope(async { payment_entry("7", "paid").invalidate().await.expect("memcached is told") })
        .await;
    assert_eq!(fetch.await.expect("no panic").expect("fetched").fetched, 1);
    a.flush().await;
    // The overtaken fetch stored nothing where others can see it.
    assert_eq!(b.scope(payment(&upstream, "7", "paid")).await.expect("fetched").fetched, 2);
    b.flush().await;
    b.scope(async { payment_entry("7", "paid").invalidate().await.expect("memcached is told") })
        .await;
    let found = b.scope(async { payment_entry("7", "paid").get().await }).await;
    assert!(!found.is_found());
}

#[tokio::test]
async fn add_and_overwrite_reach_every_process() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached).await, process(&memcached).await);
    let upstream = Upstream::default();
    let cash = Payment { number: "7".into(), fetched: 99 };
    assert!(a.scope(async { payment_entry("7", "paid").add(cash.clone()).await }).await);
    assert!(!b.scope(async { payment_entry("7", "paid").add(cash.clone()).await }).await);
    let found = b.scope(async { payment_entry("7", "paid").get().await }).await;
    assert_eq!((found.tier(), found.into_option()), (Some(Tier::Remote), Some(cash)));

    a.scope(profile(&upstream, 7)).await.expect("fetched");
    a.flush().await;
    a.scope(async { profile_entry(7).overwrite("new".into()).await.expect("memcached is told") })
        .await;
    assert_eq!(a.scope(profile(&upstream, 7)).await.as_deref(), Ok("new"));
    assert_eq!(b.scope(profile(&upstream, 7)).await.as_deref(), Ok("new"));
    assert_eq!(upstream.fetches(), 1);
}

#[tokio::test]
async fn add_fills_another_callers_placeholder() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached).await, process(&memcached).await);
    let upstream = Upstream::default().taking(500);
    let fetch = tokio::spawn({
        let (a, upstream) = (a.clone(), upstream.clone());
        async move { a.scope(payment(&upstream, "7", "paid")).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let cash = Payment { number: "7".into(), fetched: 99 };
    assert!(b.scope(async { payment_entry("7", "paid").add(cash.clone()).await }).await);
    fetch.await.expect("no panic").expect("fetched");
    a.flush().await;
    let c = process(&memcached).await;
    assert_eq!(
        c.scope(payment(&upstream, "7", "paid")).await,
        Ok(cash),
        "write-once: the first stays"
    );
}

#[tokio::test]
async fn first_found_looks_versions_up_in_order() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached).await, process(&memcached).await);
    let upstream = Upstream::default();
    a.scope(payment(&upstream, "7", "processing")).await.expect("fetched");
    a.flush().await;
    let both = || async {
        first_found([payment_entry("7", "paid"), payment_entry("7", "processing")]).await
    };
    assert_eq!(b.scope(both()).await.expect("found").fetched, 1);
    a.scope(payment(&upstream, "7", "paid")).await.expect("fetched");
    a.flush().await;
    // What this process holds of a later entry does not hide an earlier one in memcached.
    assert_eq!(b.scope(both()).await.expect("found").fetched, 2);
    assert!(b.scope(first_found([payment_entry("8", "paid")])).await.is_none());
}

#[tokio::test]
async fn force_miss_replaces_an_overwritable_item_and_leaves_a_write_once_one() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached).await, process(&memcached).await);
    let upstream = Upstream::default();
    let both = || async {
        (
            profile(&upstream, 7).await.expect("fetched"),
            payment(&upstream, "7", "paid").await.expect("fetched").fetched,
        )
    };
    assert_eq!(a.scope(both()).await, ("user 7, fetch 1".into(), 2));
    a.flush().await;
    let forced = a.scope(RequestScope::new().force_miss(true).run(both())).await;
    assert_eq!(forced, ("user 7, fetch 3".into(), 4));
    a.flush().await;
    assert_eq!(b.scope(both()).await, ("user 7, fetch 3".into(), 2));
}

#[test]
fn without_a_runtime_the_remote_tier_is_skipped() {
    let memcached = Memcached::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let cache = runtime.block_on(process(&memcached));
    drop(runtime);
    let upstream = Upstream::default();
    let mut call = std::pin::pin!(cache.scope(payment(&upstream, "7", "paid")));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let fetched = Payment { number: "7".into(), fetched: 1 };
    assert_eq!(call.as_mut().poll(&mut context), std::task::Poll::Ready(Ok(fetched)));
}

#[tokio::test]
async fn the_heir_of_a_held_leader_does_not_wait_for_its_own_processs_lease() {
    let memcached = Memcached::start();
    let cache = process(&memcached).await;
    let upstream = Upstream::default().taking(20);
    let took = cache
        .scope(async {
            let mut held = Box::pin(payment(&upstream, "7", "paid"));
            while upstream.fetches() == 0 {
                assert!(poll_once(held.as_mut()).await.is_none());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let began = Instant::now();
            let answer = payment(&upstream, "7", "paid").await.expect("fetched");
            assert_eq!(answer.fetched, 2);
            began.elapsed()
        })
        .await;
    assert!(took < Duration::from_millis(2500), "{took:?}");
    // It has filled memcached, by the lease of the one that was held.
    cache.flush().await;
    let other = process(&memcached).await;
    assert_eq!(other.scope(payment(&upstream, "7", "paid")).await.expect("read").fetched, 2);
}

#[tokio::test]
async fn an_add_that_is_polled_late_does_not_undo_an_invalidation() {
    let memcached = Memcached::start();
    let cache = process(&memcached).await;
    cache
        .scope(async {
            let value = Payment { number: "7".into(), fetched: 5 };
            assert!(!payment_entry("8", "paid").get().await.is_found(), "and it has connected");
            let entry = payment_entry("7", "paid");
            let mut add = Box::pin(entry.add(value));
            while memcached.remaining(&entry.key().to_string()).is_none() {
                assert!(poll_once(add.as_mut()).await.is_none());
                // It looks before it writes, and what is answered the runtime has to see.
                tokio::task::yield_now().await;
            }
            payment_entry("7", "paid").invalidate().await.expect("memcached is told");
            add.await;
            assert!(!payment_entry("7", "paid").get().await.is_found());
        })
        .await;
}

#[tokio::test]
async fn an_overwrite_that_is_polled_late_does_not_hide_a_later_one() {
    let memcached = Memcached::start();
    let cache = process(&memcached).await;
    cache
        .scope(async {
            assert!(!profile_entry(8).get().await.is_found(), "and it has connected");
            let entry = profile_entry(7);
            let mut late = Box::pin(entry.overwrite("first".into()));
            while memcached.remaining(&entry.key().to_string()).is_none() {
                assert!(poll_once(late.as_mut()).await.is_none());
            }
            profile_entry(7).overwrite("second".into()).await.expect("memcached is told");
            late.await.expect("memcached was told");
            let found = profile_entry(7).get().await;
            assert_eq!(found.into_option().as_deref(), Some("second"));
        })
        .await;
}

#[tokio::test]
async fn force_miss_leaves_a_write_once_entry_of_memcached_as_it_is_here_too() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached).await, process(&memcached).await);
    let upstream = Upstream::default();
    a.scope(payment(&upstream, "7", "paid")).await.expect("fetched");
    a.flush().await;
    let forced = RequestScope::new().force_miss(true).run(payment(&upstream, "7", "paid"));
    assert_eq!(b.scope(forced).await.expect("fetched").fetched, 2);
    assert_eq!(b.scope(payment(&upstream, "7", "paid")).await.expect("read").fetched, 1);
}

#[tokio::test]
async fn an_empty_item_that_is_no_placeholder_is_not_waited_for_and_is_mended() {
    let memcached = Memcached::start();
    let cache = process(&memcached).await;
    let upstream = Upstream::default();
    let key = cache.scope(async { payment_entry("7", "paid").key().to_string() }).await;
    memcached.store(&key, "");
    let began = Instant::now();
    cache.scope(payment(&upstream, "7", "paid")).await.expect("fetched");
    assert!(began.elapsed() < Duration::from_millis(2000), "{:?}", began.elapsed());
    cache.flush().await;
    let other = process(&memcached).await;
    assert_eq!(other.scope(payment(&upstream, "7", "paid")).await.expect("read").fetched, 1);
}

#[test]
fn runtimes_that_are_used_in_turn_each_have_their_connections() {
    let memcached = Memcached::start();
    let runtime = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime")
    };
    let (a, b) = (runtime(), runtime());
    let cache = a.block_on(process(&memcached));
    for number in 0..20 {
        for runtime in [&a, &b] {
            let number = number.to_string();
            let get = cache.scope(async move { payment_entry(&number, "paid").get().await });
            assert!(!runtime.block_on(get).is_found());
        }
    }
    assert_eq!(cache.stats().total().remote_errors, 0);
}

#[test]
fn a_fill_that_its_runtime_did_not_live_to_finish_is_found_out_by_the_next_flush() {
    let memcached = Memcached::start();
    let runtime = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime")
    };
    let cache = runtime().block_on(process(&memcached));
    let upstream = Upstream::default();
    let answer = runtime().block_on(cache.scope(payment(&upstream, "7", "paid")));
    assert_eq!(answer.expect("fetched").fetched, 1);
    runtime().block_on(cache.flush());
}

#[test]
fn outside_of_a_runtime_first_found_finds_nothing_in_memcached_and_does_not_panic() {
    let memcached = Memcached::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let cache = runtime.block_on(process(&memcached));
    drop(runtime);
    let look = cache.scope(async { first_found([payment_entry("7", "paid")]).await.is_none() });
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert_eq!(std::pin::pin!(look).as_mut().poll(&mut context), std::task::Poll::Ready(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_cold_keys_leaves_nobody_waiting_for_its_leases() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached).await, process(&memcached).await);
    let upstream = Upstream::default().taking(5);
    let calls: Vec<_> = (0..10_000)
        .map(|number| {
            let upstream = upstream.clone();
            let call = async move { payment(&upstream, &number.to_string(), "paid").await };
            tokio::spawn(a.scope(call))
        })
        .collect();
    for call in calls {
        call.await.expect("no call panics").expect("fetched");
    }
    a.flush().await;
    let mut slowest = Duration::ZERO;
    for number in 0..300 {
        let began = Instant::now();
        b.scope(payment(&upstream, &(number * 33).to_string(), "paid")).await.expect("answered");
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_millis(1500), "{slowest:?}: somebody held a lease");
}

#[coordinator_cached(
    name = "kept",
    version = number,
    ttl = "2s",
    stale_if_error = "60s",
    skip(upstream),
    entry = kept_entry
)]
async fn kept(upstream: &Upstream, number: u32) -> Result<usize, Down> {
    let _ = number;
    upstream.answer().await
}

#[tokio::test]
async fn while_one_process_replaces_an_expired_value_others_are_served_it() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached).await, process(&memcached).await);
    let upstream = Upstream::default();
    assert_eq!(a.scope(kept(&upstream, 1)).await, Ok(1));
    a.flush().await;
    tokio::time::sleep(Duration::from_millis(2200)).await;
    let slow = upstream.clone().taking(1500);
    let refetch = tokio::spawn({
        let slow = slow.clone();
        a.scope(async move { kept(&slow, 1).await })
    });
    while slow.fetches() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..5 {
        assert_eq!(b.scope(kept(&upstream, 1)).await, Ok(1), "stale, and at once");
    }
    assert!(!refetch.is_finished(), "nobody waited for it");
    let stats = b.stats().get("kept").expect("called");
    assert_eq!((stats.fetches, stats.stale_answers), (0, 5));
    assert_eq!(refetch.await.expect("no panic"), Ok(2));
    a.flush().await;
    assert_eq!(b.scope(kept(&upstream, 1)).await, Ok(2));
}

#[tokio::test]
async fn a_killed_winner_does_not_keep_an_expired_value_from_being_replaced() {
    let memcached = Memcached::start();
    let builder =
        || Cache::builder().memcached([memcached.address()]).lease(Duration::from_secs(1));
    let (a, b) = (builder().build().await.expect("fits"), builder().build().await.expect("fits"));
    let upstream = Upstream::default();
    assert_eq!(a.scope(kept(&upstream, 1)).await, Ok(1));
    a.flush().await;
    tokio::time::sleep(Duration::from_millis(2200)).await;
    // Somebody wins, and is not heard of again.
    let key = a.scope(async { kept_entry(1).key().to_string() }).await;
    let won = memcached.command(&format!("mg {key} R62"));
    assert!(won.split(' ').any(|flag| flag == "W"), "{won}");
    let began = Instant::now();
    while upstream.fetches() == 1 {
        for process in [&a, &b] {
            let answer = process.scope(kept(&upstream, 1)).await.expect("served");
            assert!(answer == 1 || began.elapsed() > Duration::from_secs(1), "{answer}");
        }
        assert!(began.elapsed() < Duration::from_secs(10), "nobody takes over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    a.flush().await;
    b.flush().await;
    for process in [&a, &b] {
        let answer = process.scope(kept(&upstream, 1)).await.expect("answered");
        assert!(answer > 1, "replaced, for everybody");
    }
    assert!(upstream.fetches() <= 3, "once in a process at most");
}

/// memcached is slow in answering the delete; meanwhile another caller of this process reads the
/// old value there, and the invalidation is dropped before it has its answer.
#[tokio::test]
async fn an_invalidation_that_is_dropped_leaves_no_old_value_that_was_read_meanwhile() {
    let memcached = Memcached::start();
    let (a, b) = (process(&memcached).await, process(&memcached).await);
    let upstream = Upstream::default();
    a.scope(payment(&upstream, "7", "paid")).await.expect("fetched");
    a.flush().await;
    b.scope(async {
        assert!(!payment_entry("8", "paid").get().await.is_found(), "and it has connected");
        let entry = payment_entry("7", "paid");
        let mut invalidate = Box::pin(entry.invalidate());
        memcached.stop();
        assert!(poll_once(invalidate.as_mut()).await.is_none());
        // Read before the delete is carried out, published after this process forgot it.
        memcached.resume();
        payment(&upstream, "7", "paid").await.expect("answered");
        drop(invalidate);
        let found = entry.get().await;
        assert_ne!(found.tier(), Some(Tier::Local), "the drop has cleared this process's tiers");
    })
    .await;
}
