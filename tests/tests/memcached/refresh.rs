//! Fetches that replace an entry which is alive: `refresh_ahead`, `force_miss`, and what is fetched
//! beside them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cached_core::testing::TestCache;
use cached_core::{Cache, CacheBuilder, RequestScope, coordinator_cached, first_found};
use cached_tests::Down;
use tokio::sync::oneshot::{Receiver, Sender, channel};

/// A value that changes, and fetches of it that end when the test says so.
#[derive(Clone, Default)]
struct Source(Arc<State>);

#[derive(Default)]
struct State {
    truth: AtomicU64,
    fetches: AtomicU64,
    fails: AtomicBool,
    held: Mutex<Option<Receiver<()>>>,
}

impl Source {
    fn new() -> Source {
        let source = Source::default();
        source.becomes(1);
        source
    }

    fn becomes(&self, truth: u64) {
        self.0.truth.store(truth, Ordering::SeqCst);
    }

    fn fetches(&self) -> u64 {
        self.0.fetches.load(Ordering::SeqCst)
    }

    /// The next fetch takes the truth of its beginning, and ends when what is returned is dropped.
    fn hold_next(&self) -> Sender<()> {
        let (end, held) = channel();
        *self.0.held.lock().expect("nothing panics with it") = Some(held);
        end
    }

    async fn fetch(&self) -> Result<u64, Down> {
        self.0.fetches.fetch_add(1, Ordering::SeqCst);
        let truth = self.0.truth.load(Ordering::SeqCst);
        let held = self.0.held.lock().expect("nothing panics with it").take();
        if let Some(held) = held {
            held.await.ok();
        }
        if self.0.fails.load(Ordering::SeqCst) { Err(Down) } else { Ok(truth) }
    }
}

#[coordinator_cached(
    name = "rate",
    overwrite(reason = "a rate has no version of its own"),
    ttl = "10m",
    refresh_ahead = "2m",
    skip(source),
    entry = rate_entry
)]
async fn rate(source: Source, key: u32) -> Result<u64, Down> {
    source.fetch().await
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So long that what was spawned gets on.
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(30)).await;
}

async fn forced(cache: &TestCache, source: &Source) -> Result<u64, Down> {
    cache.run(RequestScope::new().force_miss(true).run(rate(source.clone(), 1))).await
}

async fn called(cache: &TestCache, source: &Source) -> Result<u64, Down> {
    let answer = cache.run(rate(source.clone(), 1)).await;
    a_moment().await;
    answer
}

/// Begins a fetch, by a refresh that is due or by a forced one, which takes the truth as it is and
/// goes on until what is returned is dropped.
async fn begin_slow(cache: &TestCache, source: &Source, is_forced: bool) -> Sender<()> {
    let (end, fetches) = (source.hold_next(), source.fetches());
    if is_forced {
        let (cache, source) = (cache.clone(), source.clone());
        tokio::spawn(async move { forced(&cache, &source).await });
        a_moment().await;
    } else {
        called(cache, source).await.expect("it is there");
    }
    assert_eq!(source.fetches(), fetches + 1, "the slow fetch has begun");
    end
}

async fn end(slow: Sender<()>) {
    drop(slow);
    a_moment().await;
}

#[tokio::test]
async fn a_slow_fetch_does_not_replace_what_a_later_one_fetched() {
    for (cache, is_forced) in [
        (TestCache::local(), false),
        (TestCache::local(), true),
        (TestCache::new(), false),
        (TestCache::new(), true),
    ] {
        let source = Source::new();
        assert_eq!(called(&cache, &source).await, Ok(1));
        cache.advance(secs(540));
        let slow = begin_slow(&cache, &source, is_forced).await;
        source.becomes(2);
        cache.advance(secs(120));
        let newer = match is_forced {
            true => forced(&cache, &source).await,
            false => called(&cache, &source).await,
        };
        assert_eq!(newer, Ok(2));
        end(slow).await;
        for passed in [0, 4, 400] {
            cache.advance(secs(passed));
            assert_eq!(called(&cache, &source).await, Ok(2), "forced: {is_forced}, {passed} s");
        }
        assert_eq!(source.fetches(), 3);
    }
}

#[tokio::test]
async fn a_fetch_replaces_what_one_that_began_before_it_has_stored_meanwhile() {
    for cache in [TestCache::local(), TestCache::new()] {
        let source = Source::new();
        assert_eq!(called(&cache, &source).await, Ok(1));
        cache.advance(secs(540));
        let older = begin_slow(&cache, &source, false).await;
        cache.advance(secs(120));
        source.becomes(2);
        let newer = source.hold_next();
        let call = {
            let (cache, source) = (cache.clone(), source.clone());
            tokio::spawn(async move { called(&cache, &source).await })
        };
        a_moment().await;
        end(older).await;
        end(newer).await;
        assert_eq!(call.await.expect("it answers"), Ok(2));
        assert_eq!(called(&cache, &source).await, Ok(2));
        cache.advance(secs(6));
        assert_eq!(called(&cache, &source).await, Ok(2));
        assert_eq!(source.fetches(), 3);
    }
}

#[tokio::test]
async fn a_slow_fetch_does_not_replace_what_was_read_of_another_process_meanwhile() {
    for is_forced in [false, true] {
        let (cache, source) = (TestCache::new(), Source::new());
        let other = cache.another_process();
        assert_eq!(called(&cache, &source).await, Ok(1));
        cache.advance(secs(540));
        let slow = begin_slow(&cache, &source, is_forced).await;
        source.becomes(2);
        assert_eq!(forced(&other, &source).await, Ok(2));
        cache.advance(secs(6));
        assert_eq!(called(&cache, &source).await, Ok(2));
        end(slow).await;
        assert_eq!(called(&cache, &source).await, Ok(2), "forced: {is_forced}");
    }
}

#[tokio::test]
async fn a_forced_fetch_replaces_what_was_read_before_memcached_had_it() {
    let (cache, source) = (TestCache::new(), Source::new());
    assert_eq!(called(&cache.another_process(), &source).await, Ok(1));
    source.becomes(2);
    let slow = begin_slow(&cache, &source, true).await;
    assert_eq!(called(&cache, &source).await, Ok(1), "that is what memcached has");
    end(slow).await;
    assert_eq!(called(&cache, &source).await, Ok(2));
    assert_eq!(source.fetches(), 2);
}

#[tokio::test]
async fn what_is_overwritten_stays_also_where_a_fetch_ends_that_began_before() {
    for cache in [TestCache::local(), TestCache::new()] {
        let source = Source::new();
        assert_eq!(called(&cache, &source).await, Ok(1));
        let slow = begin_slow(&cache, &source, true).await;
        cache.run(async { rate_entry(1).overwrite(7).await }).await.expect("memcached is told");
        end(slow).await;
        assert_eq!(called(&cache, &source).await, Ok(7));
        // One that begins after it replaces it.
        source.becomes(2);
        assert_eq!(forced(&cache, &source).await, Ok(2));
        assert_eq!(called(&cache, &source).await, Ok(2));
    }
}

#[coordinator_cached(
    name = "briefly_local",
    overwrite(reason = "a rate has no version of its own"),
    ttl = "10m",
    local_ttl = "30s",
    refresh_ahead = "2m",
    skip(source)
)]
async fn briefly_local(source: Source) -> Result<u64, Down> {
    source.fetch().await
}

#[coordinator_cached(
    name = "by_default",
    overwrite(reason = "a rate has no version of its own"),
    refresh_ahead = "2m",
    skip(source)
)]
async fn by_default(source: Source) -> Result<u64, Down> {
    source.fetch().await
}

#[coordinator_cached(
    name = "by_default_here",
    overwrite(reason = "a rate has no version of its own"),
    remote = false,
    refresh_ahead = "2m",
    skip(source)
)]
async fn by_default_here(source: Source) -> Result<u64, Down> {
    source.fetch().await
}

#[coordinator_cached(
    name = "as_it_says",
    overwrite(reason = "a rate has no version of its own"),
    ttl_with = |_| Duration::from_secs(60),
    local = false,
    refresh_ahead = "2m",
    skip(source)
)]
async fn as_it_says(source: Source) -> Result<u64, Down> {
    source.fetch().await
}

#[coordinator_cached(
    name = "perhaps",
    overwrite(reason = "a rate has no version of its own"),
    none_ttl = "60s",
    local_ttl = "1s",
    refresh_ahead = "2m",
    skip(source)
)]
async fn perhaps(source: Source) -> Result<Option<u64>, Down> {
    source.fetch().await.map(|_| None)
}

#[coordinator_cached(
    name = "as_it_says_here",
    overwrite(reason = "a rate has no version of its own"),
    ttl_with = |_| Duration::from_secs(60),
    refresh_ahead = "2m",
    skip(source)
)]
async fn as_it_says_here(source: Source) -> Result<u64, Down> {
    source.fetch().await
}

/// Calls the function often while its entry, which lives for so long, is young, and once late in its
/// life.
macro_rules! is_refreshed_once {
    ($cache:expr, $function:ident, $life:expr) => {{
        let (cache, source): (TestCache, _) = ($cache, Source::new());
        let call = async || {
            cache.run($function(source.clone())).await.expect("it answers");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        for _ in 0..60 {
            call().await;
        }
        assert_eq!(source.fetches(), 1, "{}: it is not due", stringify!($function));
        cache.advance(secs($life * 9 / 10));
        // Whoever has won the right to refresh it too early gives it back when it is due.
        for _ in 0..60 {
            call().await;
            if source.fetches() == 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        a_moment().await;
        for _ in 0..60 {
            call().await;
        }
        assert_eq!(source.fetches(), 2, "{}: it was due once", stringify!($function));
        assert_eq!(cache.stats(stringify!($function)).refreshes, 1);
    }};
}

fn short_lived() -> CacheBuilder {
    Cache::builder().default_ttl(secs(60))
}

#[tokio::test]
async fn an_entry_that_lives_shorter_than_refresh_ahead_is_not_refreshed_all_its_life() {
    is_refreshed_once!(TestCache::local(), briefly_local, 30);
    is_refreshed_once!(TestCache::local(), as_it_says_here, 60);
    is_refreshed_once!(TestCache::with(short_lived()).expect("fits"), by_default_here, 60);
    is_refreshed_once!(TestCache::with(short_lived()).expect("fits"), perhaps_here, 60);
}

#[tokio::test]
async fn an_item_that_lives_shorter_than_refresh_ahead_is_not_refreshed_all_its_life() {
    is_refreshed_once!(TestCache::new(), as_it_says, 60);
    is_refreshed_once!(TestCache::new(), perhaps, 60);
    is_refreshed_once!(TestCache::with(short_lived()).expect("fits"), by_default, 60);
}

#[coordinator_cached(
    name = "perhaps_here",
    overwrite(reason = "a rate has no version of its own"),
    none_ttl = "60s",
    remote = false,
    refresh_ahead = "2m",
    skip(source)
)]
async fn perhaps_here(source: Source) -> Result<Option<u64>, Down> {
    source.fetch().await.map(|_| None)
}

#[tokio::test]
async fn refreshes_that_fail_pause() {
    for cache in [TestCache::local(), TestCache::new()] {
        let source = Source::new();
        assert_eq!(called(&cache, &source).await, Ok(1));
        cache.advance(secs(500));
        source.0.fails.store(true, Ordering::SeqCst);
        let began = std::time::Instant::now();
        let mut calls = 0;
        while calls < 100 || began.elapsed() < Duration::from_millis(250) {
            assert_eq!(cache.run(rate(source.clone(), 1)).await, Ok(1));
            tokio::time::sleep(Duration::from_millis(1)).await;
            calls += 1;
        }
        let (tried, most) = (source.fetches() - 1, 1 + began.elapsed().as_millis() as u64 / 100);
        assert!((1..=most).contains(&tried), "{tried} of {calls} calls tried, at most {most} may");
        source.0.fails.store(false, Ordering::SeqCst);
        source.becomes(2);
        cache.advance(secs(6));
        called(&cache, &source).await.expect("it is there");
        assert_eq!(called(&cache, &source).await, Ok(2), "in the end it is refreshed");
    }
}

#[tokio::test]
async fn a_refresh_that_does_not_end_gives_way_to_another() {
    let (cache, source) = (TestCache::local(), Source::new());
    assert_eq!(called(&cache, &source).await, Ok(1));
    cache.advance(secs(500));
    let _for_good = begin_slow(&cache, &source, false).await;
    source.becomes(2);
    cache.advance(secs(10));
    assert_eq!(called(&cache, &source).await, Ok(1));
    assert_eq!(source.fetches(), 2, "it may end yet");
    cache.advance(secs(11));
    assert_eq!(called(&cache, &source).await, Ok(1));
    assert_eq!(source.fetches(), 3);
    assert_eq!(called(&cache, &source).await, Ok(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_entry_that_is_due_is_refreshed_once() {
    const KEYS: u32 = 200;
    for round in 0..40 {
        let (cache, source) = (TestCache::local(), Source::new());
        for key in 0..KEYS {
            cache.run(rate(source.clone(), key)).await.expect("fetched");
        }
        cache.advance(secs(500));
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let (cache, source) = (cache.clone(), source.clone());
                tokio::spawn(async move {
                    for key in 0..KEYS {
                        cache.run(rate(source.clone(), key)).await.expect("it is there");
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.expect("it ends");
        }
        a_moment().await;
        assert_eq!(source.fetches(), 2 * u64::from(KEYS), "round {round}");
    }
}

/// In seconds, as the test's clock.
static NOW: AtomicU64 = AtomicU64::new(0);

/// A token, by when it expires, which says how long it lives yet.
#[coordinator_cached(
    name = "refreshed_token",
    overwrite(reason = "a token is renewed before it expires"),
    ttl_with = |expires| secs(expires - NOW.load(Ordering::SeqCst)),
    refresh_ahead = "2m",
    skip(source),
    local = false
)]
async fn token(source: Source) -> Result<u64, Down> {
    source.fetch().await?;
    Ok(NOW.load(Ordering::SeqCst) + 3600)
}

/// The time that is left is not the whole life, of which there is a third without a refresh.
#[tokio::test]
async fn a_value_that_says_how_long_it_lives_yet_is_refreshed() {
    let (source, cache) = (Source::new(), TestCache::new());
    let after = |seconds| {
        NOW.fetch_add(seconds, Ordering::SeqCst);
        cache.advance(secs(seconds));
    };
    assert_eq!(cache.run(token(source.clone())).await, Ok(3600));
    after(3600 - 110);
    assert_eq!(cache.run(token(source.clone())).await, Ok(3600));
    after(40);
    for _ in 0..100 {
        a_moment().await;
        cache.run(token(source.clone())).await.expect("it is there");
        if source.fetches() == 2 {
            return;
        }
    }
    panic!("it is not refreshed");
}

#[coordinator_cached(
    name = "remote_rate",
    overwrite(reason = "a rate has no version of its own"),
    ttl = "10m",
    refresh_ahead = "5m",
    skip(source),
    entry = remote_rate_entry,
    local = false
)]
async fn remote_rate(source: Source, key: u32) -> Result<u64, Down> {
    source.fetch().await
}

/// Looks in one of the ways that fetch nothing.
async fn look(way: usize) {
    match way {
        0 => assert_eq!(remote_rate_entry(1).get().await.into_option(), Some(1)),
        1 => assert!(!remote_rate_entry(1).add(5).await),
        // Another one is the answer.
        _ => assert_eq!(first_found([2, 1].map(remote_rate_entry)).await, Some(1)),
    }
}

#[tokio::test]
async fn who_only_looks_leaves_the_refresh_to_a_call() {
    for way in 0..3 {
        let (source, cache) = (Source::new(), TestCache::new());
        let called = |key| cache.run(remote_rate(source.clone(), key));
        assert_eq!(called(1).await, Ok(1));
        cache.advance(secs(360));
        assert_eq!(called(2).await, Ok(1));
        source.0.fails.store(true, Ordering::SeqCst);
        assert_eq!(called(1).await, Ok(1));
        a_moment().await;
        assert_eq!(source.fetches(), 3, "a refresh that failed");
        source.0.fails.store(false, Ordering::SeqCst);
        cache.run(look(way)).await;
        a_moment().await;
        assert_eq!(called(1).await, Ok(1));
        a_moment().await;
        assert_eq!(source.fetches(), 4, "way {way}");
    }
}

static PANICS: AtomicBool = AtomicBool::new(false);

#[coordinator_cached(
    name = "panicking",
    overwrite(reason = "a rate has no version of its own"),
    ttl_with = |_| {
        assert!(!PANICS.load(Ordering::SeqCst), "as the test wants it");
        secs(600)
    },
    refresh_ahead = "2m",
    skip(source),
    local = false
)]
async fn panicking(source: Source) -> Result<u64, Down> {
    source.fetch().await
}

#[tokio::test]
async fn an_answer_is_served_also_where_a_ttl_with_panics() {
    let (source, cache) = (Source::new(), TestCache::new());
    assert_eq!(cache.run(panicking(source.clone())).await, Ok(1));
    cache.advance(secs(500));
    PANICS.store(true, Ordering::SeqCst);
    assert_eq!(cache.run(panicking(source.clone())).await, Ok(1));
}

#[coordinator_cached(
    name = "second",
    overwrite(reason = "a rate has no version of its own"),
    local_ttl = "1s",
    skip(source)
)]
async fn second(source: Source) -> Result<u64, Down> {
    source.fetch().await
}

#[tokio::test]
async fn what_memcached_has_not_confirmed_has_its_local_ttl_too() {
    let (source, cache) = (Source::new(), TestCache::new());
    cache.memcached().fail();
    for fetches in 1..=3 {
        for _ in 0..3 {
            assert_eq!(cache.run(second(source.clone())).await, Ok(1));
            assert_eq!(source.fetches(), fetches);
        }
        cache.advance(Duration::from_millis(1100));
    }
}
