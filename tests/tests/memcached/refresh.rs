//! Fetches that replace an entry before it expires, because of `refresh_ahead` or `force_miss`. In
//! some tests, two such fetches run at the same time.
//!
//! A *refresh* is a fetch in the background that `refresh_ahead` starts. A *refresh claim* is the
//! right to refresh an item of memcached. memcached grants it to one caller.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cached_core::testing::TestCache;
use cached_core::{Cache, CacheBuilder, RequestScope, coordinator_cached, first_found};
use cached_tests::UpstreamDown;
use tokio::sync::oneshot::{Receiver, Sender, channel};

/// An upstream with a changing value. The test can *hold* a fetch, so that the fetch does not end.
#[derive(Clone, Default)]
struct HoldableUpstream(Arc<HoldableUpstreamState>);

#[derive(Default)]
struct HoldableUpstreamState {
    current: AtomicU64,
    fetches: AtomicU64,
    is_failing: AtomicBool,
    /// The next fetch waits until the sender of this receiver is dropped.
    held: Mutex<Option<Receiver<()>>>,
}

impl HoldableUpstream {
    fn new() -> HoldableUpstream {
        let source = HoldableUpstream::default();
        source.set(1);
        source
    }

    fn set(&self, current: u64) {
        self.0.current.store(current, Ordering::SeqCst);
    }

    fn fetches(&self) -> u64 {
        self.0.fetches.load(Ordering::SeqCst)
    }

    /// Holds the next fetch until the returned sender is dropped. The fetch then returns the value
    /// that was current when the fetch began.
    fn hold_next(&self) -> Sender<()> {
        let (end, held) = channel();
        *self.0.held.lock().expect("no thread panics while it holds the lock") = Some(held);
        end
    }

    async fn fetch(&self) -> Result<u64, UpstreamDown> {
        self.0.fetches.fetch_add(1, Ordering::SeqCst);
        let current = self.0.current.load(Ordering::SeqCst);
        let held = self.0.held.lock().expect("no thread panics while it holds the lock").take();
        if let Some(held) = held {
            held.await.ok();
        }
        if self.0.is_failing.load(Ordering::SeqCst) { Err(UpstreamDown) } else { Ok(current) }
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
async fn rate(source: HoldableUpstream, key: u32) -> Result<u64, UpstreamDown> {
    source.fetch().await
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Lets spawned tasks run for a moment.
async fn let_tasks_run() {
    tokio::time::sleep(Duration::from_millis(30)).await;
}

/// Calls `rate` in a request that forces a miss.
async fn call_forced(cache: &TestCache, source: &HoldableUpstream) -> Result<u64, UpstreamDown> {
    cache.run(RequestScope::new().force_miss(true).run(rate(source.clone(), 1))).await
}

/// Calls `rate`. If the call starts a refresh, waits until the refresh has ended or is held.
async fn call(cache: &TestCache, source: &HoldableUpstream) -> Result<u64, UpstreamDown> {
    let answer = cache.run(rate(source.clone(), 1)).await;
    let_tasks_run().await;
    answer
}

/// Starts a fetch by a forced miss or by a due refresh. The fetch is held until the returned sender
/// is dropped.
async fn start_held_fetch(
    cache: &TestCache,
    source: &HoldableUpstream,
    is_forced: bool,
) -> Sender<()> {
    let (end, fetches) = (source.hold_next(), source.fetches());
    if is_forced {
        let (cache, source) = (cache.clone(), source.clone());
        tokio::spawn(async move { call_forced(&cache, &source).await });
        let_tasks_run().await;
    } else {
        call(cache, source).await.expect("the entry is there");
    }
    assert_eq!(source.fetches(), fetches + 1, "the fetch has begun");
    end
}

/// Lets a held fetch end.
async fn end(held: Sender<()>) {
    drop(held);
    let_tasks_run().await;
}

#[tokio::test]
async fn a_slow_fetch_never_replaces_a_later_one() {
    for (cache, is_forced) in [
        (TestCache::local(), false),
        (TestCache::local(), true),
        (TestCache::new(), false),
        (TestCache::new(), true),
    ] {
        let source = HoldableUpstream::new();
        assert_eq!(call(&cache, &source).await, Ok(1));
        cache.advance(secs(540));
        let slow = start_held_fetch(&cache, &source, is_forced).await;
        source.set(2);
        cache.advance(secs(120));
        let newer = match is_forced {
            true => call_forced(&cache, &source).await,
            false => call(&cache, &source).await,
        };
        assert_eq!(newer, Ok(2));
        end(slow).await;
        for passed in [0, 4, 400] {
            cache.advance(secs(passed));
            assert_eq!(call(&cache, &source).await, Ok(2), "forced: {is_forced}, {passed} s");
        }
        assert_eq!(source.fetches(), 3);
    }
}

#[tokio::test]
async fn a_fetch_replaces_an_earlier_one() {
    for cache in [TestCache::local(), TestCache::new()] {
        let source = HoldableUpstream::new();
        assert_eq!(call(&cache, &source).await, Ok(1));
        cache.advance(secs(540));
        let older = start_held_fetch(&cache, &source, false).await;
        cache.advance(secs(120));
        source.set(2);
        let newer = source.hold_next();
        let running = {
            let (cache, source) = (cache.clone(), source.clone());
            tokio::spawn(async move { call(&cache, &source).await })
        };
        let_tasks_run().await;
        end(older).await;
        end(newer).await;
        assert_eq!(running.await.expect("no task panics"), Ok(2));
        assert_eq!(call(&cache, &source).await, Ok(2));
        cache.advance(secs(6));
        assert_eq!(call(&cache, &source).await, Ok(2));
        assert_eq!(source.fetches(), 3);
    }
}

#[tokio::test]
async fn a_slow_fetch_never_replaces_a_later_read() {
    for is_forced in [false, true] {
        let (cache, source) = (TestCache::new(), HoldableUpstream::new());
        let other = cache.another_process();
        assert_eq!(call(&cache, &source).await, Ok(1));
        cache.advance(secs(540));
        let slow = start_held_fetch(&cache, &source, is_forced).await;
        source.set(2);
        assert_eq!(call_forced(&other, &source).await, Ok(2));
        cache.advance(secs(6));
        assert_eq!(call(&cache, &source).await, Ok(2));
        end(slow).await;
        assert_eq!(call(&cache, &source).await, Ok(2), "forced: {is_forced}");
    }
}

#[tokio::test]
async fn a_forced_fetch_replaces_an_earlier_read() {
    let (cache, source) = (TestCache::new(), HoldableUpstream::new());
    assert_eq!(call(&cache.another_process(), &source).await, Ok(1));
    source.set(2);
    let slow = start_held_fetch(&cache, &source, true).await;
    assert_eq!(call(&cache, &source).await, Ok(1), "memcached has the earlier value");
    end(slow).await;
    assert_eq!(call(&cache, &source).await, Ok(2));
    assert_eq!(source.fetches(), 2);
}

#[tokio::test]
async fn an_overwrite_outlives_earlier_fetches() {
    for cache in [TestCache::local(), TestCache::new()] {
        let source = HoldableUpstream::new();
        assert_eq!(call(&cache, &source).await, Ok(1));
        let slow = start_held_fetch(&cache, &source, true).await;
        cache.run(async { rate_entry(1).overwrite(7).await }).await.expect("memcached is reached");
        end(slow).await;
        assert_eq!(call(&cache, &source).await, Ok(7));
        // A fetch that begins after the overwrite replaces the overwritten value.
        source.set(2);
        assert_eq!(call_forced(&cache, &source).await, Ok(2));
        assert_eq!(call(&cache, &source).await, Ok(2));
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
async fn briefly_local(source: HoldableUpstream) -> Result<u64, UpstreamDown> {
    source.fetch().await
}

#[coordinator_cached(
    name = "with_default_ttl",
    overwrite(reason = "a rate has no version of its own"),
    refresh_ahead = "2m",
    skip(source)
)]
async fn with_default_ttl(source: HoldableUpstream) -> Result<u64, UpstreamDown> {
    source.fetch().await
}

#[coordinator_cached(
    name = "local_with_default_ttl",
    overwrite(reason = "a rate has no version of its own"),
    remote = false,
    refresh_ahead = "2m",
    skip(source)
)]
async fn local_with_default_ttl(source: HoldableUpstream) -> Result<u64, UpstreamDown> {
    source.fetch().await
}

#[coordinator_cached(
    name = "with_value_ttl",
    overwrite(reason = "a rate has no version of its own"),
    ttl_with = |_| Duration::from_secs(60),
    local = false,
    refresh_ahead = "2m",
    skip(source)
)]
async fn with_value_ttl(source: HoldableUpstream) -> Result<u64, UpstreamDown> {
    source.fetch().await
}

#[coordinator_cached(
    name = "optional",
    overwrite(reason = "a rate has no version of its own"),
    none_ttl = "60s",
    local_ttl = "1s",
    refresh_ahead = "2m",
    skip(source)
)]
async fn optional(source: HoldableUpstream) -> Result<Option<u64>, UpstreamDown> {
    source.fetch().await.map(|_| None)
}

#[coordinator_cached(
    name = "local_with_value_ttl",
    overwrite(reason = "a rate has no version of its own"),
    ttl_with = |_| Duration::from_secs(60),
    refresh_ahead = "2m",
    skip(source)
)]
async fn local_with_value_ttl(source: HoldableUpstream) -> Result<u64, UpstreamDown> {
    source.fetch().await
}

/// Checks that an entry with a ttl of `$ttl` seconds is refreshed once after nine tenths of the
/// ttl, and not before.
macro_rules! assert_refreshed_once {
    ($cache:expr, $function:ident, $ttl:expr) => {{
        let (cache, source): (TestCache, _) = ($cache, HoldableUpstream::new());
        let call = async || {
            cache.run($function(source.clone())).await.expect("the call succeeds");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        for _ in 0..60 {
            call().await;
        }
        assert_eq!(source.fetches(), 1, "{}: no refresh is due", stringify!($function));
        cache.advance(secs($ttl * 9 / 10));
        // An earlier call might have won the refresh claim before the refresh was due. The process
        // gives this claim back once the refresh is due.
        for _ in 0..60 {
            call().await;
            if source.fetches() == 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let_tasks_run().await;
        for _ in 0..60 {
            call().await;
        }
        assert_eq!(source.fetches(), 2, "{}: one refresh is due", stringify!($function));
        assert_eq!(cache.stats(stringify!($function)).refreshes, 1);
    }};
}

fn builder_with_short_ttl() -> CacheBuilder {
    Cache::builder().default_ttl(secs(60))
}

#[tokio::test]
async fn a_brief_local_entry_refreshes_once() {
    assert_refreshed_once!(TestCache::local(), briefly_local, 30);
    assert_refreshed_once!(TestCache::local(), local_with_value_ttl, 60);
    assert_refreshed_once!(
        TestCache::with(builder_with_short_ttl()).expect("the settings are valid"),
        local_with_default_ttl,
        60
    );
    assert_refreshed_once!(
        TestCache::with(builder_with_short_ttl()).expect("the settings are valid"),
        local_optional,
        60
    );
}

#[tokio::test]
async fn a_brief_memcached_item_refreshes_once() {
    assert_refreshed_once!(TestCache::new(), with_value_ttl, 60);
    assert_refreshed_once!(TestCache::new(), optional, 60);
    assert_refreshed_once!(
        TestCache::with(builder_with_short_ttl()).expect("the settings are valid"),
        with_default_ttl,
        60
    );
}

#[coordinator_cached(
    name = "local_optional",
    overwrite(reason = "a rate has no version of its own"),
    none_ttl = "60s",
    remote = false,
    refresh_ahead = "2m",
    skip(source)
)]
async fn local_optional(source: HoldableUpstream) -> Result<Option<u64>, UpstreamDown> {
    source.fetch().await.map(|_| None)
}

#[tokio::test]
async fn failed_refreshes_are_retried_with_pauses() {
    for cache in [TestCache::local(), TestCache::new()] {
        let source = HoldableUpstream::new();
        assert_eq!(call(&cache, &source).await, Ok(1));
        cache.advance(secs(500));
        source.0.is_failing.store(true, Ordering::SeqCst);
        let began = std::time::Instant::now();
        let mut calls = 0;
        while calls < 100 || began.elapsed() < Duration::from_millis(250) {
            assert_eq!(cache.run(rate(source.clone(), 1)).await, Ok(1));
            tokio::time::sleep(Duration::from_millis(1)).await;
            calls += 1;
        }
        let (tries, most) = (source.fetches() - 1, 1 + began.elapsed().as_millis() as u64 / 100);
        assert!((1..=most).contains(&tries), "1 to {most} of {calls} calls fetch: {tries}");
        source.0.is_failing.store(false, Ordering::SeqCst);
        source.set(2);
        cache.advance(secs(6));
        call(&cache, &source).await.expect("the entry is there");
        assert_eq!(call(&cache, &source).await, Ok(2), "a later refresh succeeds");
    }
}

#[tokio::test]
async fn an_endless_refresh_is_replaced() {
    let (cache, source) = (TestCache::local(), HoldableUpstream::new());
    assert_eq!(call(&cache, &source).await, Ok(1));
    cache.advance(secs(500));
    let _endless = start_held_fetch(&cache, &source, false).await;
    source.set(2);
    cache.advance(secs(10));
    assert_eq!(call(&cache, &source).await, Ok(1));
    assert_eq!(source.fetches(), 2, "the first refresh still has time");
    cache.advance(secs(11));
    assert_eq!(call(&cache, &source).await, Ok(1));
    assert_eq!(source.fetches(), 3);
    assert_eq!(call(&cache, &source).await, Ok(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_due_entry_is_refreshed_once() {
    const KEYS: u32 = 200;
    for round in 0..40 {
        let (cache, source) = (TestCache::local(), HoldableUpstream::new());
        for key in 0..KEYS {
            cache.run(rate(source.clone(), key)).await.expect("the call succeeds");
        }
        cache.advance(secs(500));
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let (cache, source) = (cache.clone(), source.clone());
                tokio::spawn(async move {
                    for key in 0..KEYS {
                        cache.run(rate(source.clone(), key)).await.expect("the entry is there");
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.expect("no task panics");
        }
        let_tasks_run().await;
        assert_eq!(source.fetches(), 2 * u64::from(KEYS), "each entry is refreshed, {round}");
    }
}

/// The test clock's time, in seconds.
static NOW: AtomicU64 = AtomicU64::new(0);

/// Returns the time at which the token expires.
#[coordinator_cached(
    name = "refreshed_token",
    overwrite(reason = "a token is renewed before it expires"),
    ttl_with = |expires| secs(expires - NOW.load(Ordering::SeqCst)),
    refresh_ahead = "2m",
    skip(source),
    local = false
)]
async fn token(source: HoldableUpstream) -> Result<u64, UpstreamDown> {
    source.fetch().await?;
    Ok(NOW.load(Ordering::SeqCst) + 3600)
}

/// No refresh starts in the first third of a ttl. In this test, `ttl_with` returns the time that
/// the token has left. Only its first result is the whole ttl. If the cache took a later result for
/// the whole ttl, the token would always seem new, and no refresh would start.
#[tokio::test]
async fn a_value_with_its_own_expiry_is_refreshed() {
    let (source, cache) = (HoldableUpstream::new(), TestCache::new());
    let after = |seconds| {
        NOW.fetch_add(seconds, Ordering::SeqCst);
        cache.advance(secs(seconds));
    };
    assert_eq!(cache.run(token(source.clone())).await, Ok(3600));
    after(3600 - 110);
    assert_eq!(cache.run(token(source.clone())).await, Ok(3600));
    after(40);
    for _ in 0..100 {
        let_tasks_run().await;
        cache.run(token(source.clone())).await.expect("the entry is there");
        if source.fetches() == 2 {
            return;
        }
    }
    panic!("the token is not refreshed");
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
async fn remote_rate(source: HoldableUpstream, key: u32) -> Result<u64, UpstreamDown> {
    source.fetch().await
}

/// Reads the entry in one of three ways, none of which fetches.
async fn read_only(way: usize) {
    match way {
        0 => assert_eq!(remote_rate_entry(1).get().await.into_option(), Some(1)),
        1 => assert!(!remote_rate_entry(1).add(5).await),
        // Both entries are read, and the first one is returned.
        _ => assert_eq!(first_found([2, 1].map(remote_rate_entry)).await, Some(1)),
    }
}

#[tokio::test]
async fn reading_an_entry_starts_no_refresh() {
    for way in 0..3 {
        let (source, cache) = (HoldableUpstream::new(), TestCache::new());
        let call = |key| cache.run(remote_rate(source.clone(), key));
        assert_eq!(call(1).await, Ok(1));
        cache.advance(secs(360));
        assert_eq!(call(2).await, Ok(1));
        source.0.is_failing.store(true, Ordering::SeqCst);
        assert_eq!(call(1).await, Ok(1));
        let_tasks_run().await;
        assert_eq!(source.fetches(), 3, "the refresh has begun, and fails");
        source.0.is_failing.store(false, Ordering::SeqCst);
        cache.run(read_only(way)).await;
        let_tasks_run().await;
        assert_eq!(call(1).await, Ok(1));
        let_tasks_run().await;
        assert_eq!(source.fetches(), 4, "only the call starts a refresh, way {way}");
    }
}

static PANICS: AtomicBool = AtomicBool::new(false);

#[coordinator_cached(
    name = "panicking",
    overwrite(reason = "a rate has no version of its own"),
    ttl_with = |_| {
        assert!(!PANICS.load(Ordering::SeqCst), "the test asks for a panic");
        secs(600)
    },
    refresh_ahead = "2m",
    skip(source),
    local = false
)]
async fn panicking(source: HoldableUpstream) -> Result<u64, UpstreamDown> {
    source.fetch().await
}

#[tokio::test]
async fn a_panicking_ttl_with_loses_no_answer() {
    let (source, cache) = (HoldableUpstream::new(), TestCache::new());
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
async fn one_second(source: HoldableUpstream) -> Result<u64, UpstreamDown> {
    source.fetch().await
}

#[tokio::test]
async fn unconfirmed_fills_respect_local_ttl() {
    let (source, cache) = (HoldableUpstream::new(), TestCache::new());
    cache.memcached().fail();
    for fetches in 1..=3 {
        for _ in 0..3 {
            assert_eq!(cache.run(one_second(source.clone())).await, Ok(1));
            assert_eq!(source.fetches(), fetches);
        }
        cache.advance(Duration::from_millis(1100));
    }
}
