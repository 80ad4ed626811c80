//! Fetches that fail: which callers share the error, and for how long `error_ttl` pauses the
//! fetches of the key. During a pause, calls get the error of the failed fetch.

use std::cell::Cell;
use std::error::Error;
use std::fmt::Display;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cached_core::testing::TestCache;
use cached_core::{Cache, Finding, RequestScope, coordinator_cached};
use cached_tests::{Upstream, UpstreamDown};

use crate::functions::local_cache;
use crate::single_flight::unshared;

const SECOND: Duration = Duration::from_secs(1);
/// How long each fetch of [`call_fifty_times`] takes.
const FETCH_TIME: Duration = Duration::from_millis(300);

/// An error that is not `Clone`.
#[derive(Debug, PartialEq)]
struct FetchFailed {
    text: String,
}

impl FetchFailed {
    fn copy(&self) -> FetchFailed {
        FetchFailed { text: self.text.clone() }
    }
}

impl Display for FetchFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for FetchFailed {}

async fn fetch(upstream: &Upstream, number: u32) -> Result<usize, FetchFailed> {
    upstream.fetch().await.map_err(|_| FetchFailed { text: format!("order {number} is not there") })
}

#[coordinator_cached(
    name = "fails_anyhow",
    version = number,
    skip(upstream),
    share_error = |error| anyhow::anyhow!("{error:#}")
)]
async fn fails_anyhow(upstream: &Upstream, number: u32) -> anyhow::Result<usize> {
    use anyhow::Context;
    fetch(upstream, number).await.context("the shop is closed")
}

type BoxedError = Box<dyn Error + Send + Sync>;

#[coordinator_cached(
    name = "fails_boxed",
    version = number,
    skip(upstream),
    share_error = |error| error.to_string().into()
)]
async fn fails_boxed(upstream: &Upstream, number: u32) -> Result<usize, BoxedError> {
    Ok(fetch(upstream, number).await?)
}

#[coordinator_cached(
    name = "fails_own",
    version = number,
    skip(upstream),
    share_error = FetchFailed::copy
)]
async fn fails_own(upstream: &Upstream, number: u32) -> Result<usize, FetchFailed> {
    fetch(upstream, number).await
}

/// An error that is `Send`, but not `Sync`.
#[derive(Debug)]
struct UnsyncError {
    text: String,
    reads: Cell<u32>,
}

impl UnsyncError {
    fn new(text: &str) -> UnsyncError {
        UnsyncError { text: text.to_owned(), reads: Cell::new(0) }
    }
}

impl Display for UnsyncError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.reads.set(self.reads.get() + 1);
        f.write_str(&self.text)
    }
}

#[coordinator_cached(
    name = "fails_unsync",
    version = number,
    skip(upstream),
    share_error = |error| UnsyncError::new(&error.to_string())
)]
async fn fails_unsync(upstream: &Upstream, number: u32) -> Result<usize, UnsyncError> {
    fetch(upstream, number).await.map_err(|error| UnsyncError::new(&error.text))
}

type IoResult = io::Result<usize>;

#[coordinator_cached(name = "fails_io", version = number, skip(upstream))]
async fn fails_io(upstream: &Upstream, number: u32) -> IoResult {
    fetch(upstream, number).await.map_err(|e| io::Error::new(io::ErrorKind::NotConnected, e))
}

#[coordinator_cached(
    name = "fails_generic",
    version = number,
    skip(upstream),
    share_error = |error| E::from(error.to_string())
)]
async fn fails_generic<E: Display + From<String> + Send + 'static>(
    upstream: &Upstream,
    number: u32,
) -> Result<usize, E> {
    fetch(upstream, number).await.map_err(|error| E::from(error.text))
}

/// Calls the function 50 times at once while the upstream fails. Returns the time until the last
/// call ends.
macro_rules! call_fifty_times {
    ($cache:expr, $upstream:expr, $call:expr) => {{
        let began = Instant::now();
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let upstream = $upstream.clone();
                let call = async move {
                    let error = $call(&upstream, 7).await.expect_err("the upstream is down");
                    let text = format!("{error:#}");
                    assert!(text.contains("order 7 is not there"), "the text is kept: {text}");
                };
                tokio::spawn($cache.scope(call))
            })
            .collect();
        for call in calls {
            call.await.expect("no task panics");
        }
        began.elapsed()
    }};
}

/// Returns an upstream that is down. Each fetch takes [`FETCH_TIME`].
fn slow_failing_upstream() -> Upstream {
    let upstream = Upstream::default()
        .taking_millis(FETCH_TIME.as_millis().try_into().expect("the number fits"));
    upstream.fail();
    upstream
}

/// Defines one test for each function. In the test, fifty callers share the error of one fetch.
macro_rules! shares_its_error {
    ($($test:ident: $call:expr;)*) => {$(
        #[tokio::test]
        async fn $test() {
            let (cache, upstream) = (local_cache().await, slow_failing_upstream());
            let took = call_fifty_times!(cache, upstream, $call);
            assert_eq!(upstream.fetches(), 1);
            assert!(took < 2 * FETCH_TIME, "one fetch answers all callers: {took:?}");
            assert_eq!(cache.stats().total().waits, 49);
            upstream.recover();
            assert_eq!(cache.scope($call(&upstream, 7)).await.ok(), Some(2));
        }
    )*};
}

shares_its_error! {
    an_anyhow_error_is_shared: fails_anyhow;
    a_boxed_error_is_shared: fails_boxed;
    an_error_of_the_program_is_shared: fails_own;
    an_error_that_is_not_sync_is_shared: fails_unsync;
    an_io_error_is_shared: fails_io;
    an_error_of_a_type_parameter_is_shared: fails_generic::<BoxedError>;
}

#[tokio::test]
async fn waiting_callers_get_an_equal_io_error() {
    let (cache, upstream) = (local_cache().await, slow_failing_upstream());
    let call = || cache.scope(fails_io(&upstream, 7));
    let (first, second) = tokio::join!(call(), call());
    for error in [first, second].map(|result| result.expect_err("the upstream is down")) {
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        assert_eq!(error.to_string(), "order 7 is not there");
    }
    assert_eq!(upstream.fetches(), 1);
}

async fn unshared_with_text(upstream: &Upstream, number: u32) -> Result<u32, FetchFailed> {
    let failed = |_| FetchFailed { text: format!("order {number} is not there") };
    unshared(upstream, number).await.map_err(failed)
}

/// Without `share_error`, each caller waits for at most one fetch of another caller, and then for
/// its own fetch.
#[tokio::test]
async fn an_unshared_error_costs_at_most_two_waits() {
    let (cache, upstream) = (local_cache().await, slow_failing_upstream());
    let took = call_fifty_times!(cache, upstream, unshared_with_text);
    assert_eq!(upstream.fetches(), 50);
    assert!(took < 3 * FETCH_TIME, "no caller waits for a third fetch: {took:?}");
}

#[tokio::test]
async fn the_audit_names_functions_with_unshared_errors() {
    let cache = local_cache().await;
    let upstream = Upstream::default();
    assert_eq!(cache.scope(unshared(&upstream, 7)).await.ok(), Some(7));
    assert_eq!(cache.scope(fails_own(&upstream, 7)).await, Ok(2));
    assert_eq!(cache.scope(fails_io(&upstream, 7)).await.ok(), Some(3));
    assert_eq!(cache.scope(never_fails(7)).await, Some(7));
    let findings = cached_core::ledger().audit();
    let mut unshared = findings.iter().filter(|f| matches!(f, Finding::UnsharedErrors { .. }));
    let finding = unshared
        .find(|f| f.to_string().contains("`unshared`"))
        .expect("the audit names the function");
    for part in ["single_flight.rs:", "UnshareableError`", "`share_error = ", "`Clone`"] {
        assert!(finding.to_string().contains(part), "the finding contains {part}: {finding}");
    }
    for name in ["fails_own", "fails_io", "never_fails"] {
        let is_found = findings.iter().any(|f| f.to_string().contains(&format!("`{name}`")));
        assert!(!is_found, "`{name}` has no finding: {findings:?}");
    }
}

#[coordinator_cached(name = "never_fails", version = number)]
async fn never_fails(number: u32) -> Option<u32> {
    Some(number)
}

/// An error that knows whether it is a copy: 0 for the error of a fetch, and 1 for its copy.
#[derive(Debug, PartialEq)]
struct CopyTrackingError(usize);

#[coordinator_cached(
    name = "copied_once",
    version = number,
    skip(upstream),
    share_error = |error| match error {
        CopyTrackingError(0) => CopyTrackingError(1),
        CopyTrackingError(_) => panic!("one copy is enough"),
    }
)]
async fn copied_once(upstream: &Upstream, number: u32) -> Result<usize, CopyTrackingError> {
    let _ = number;
    upstream.fetch().await.map_err(|UpstreamDown| CopyTrackingError(0))
}

#[coordinator_cached(
    name = "never_copied",
    version = number,
    skip(upstream),
    error_ttl = "1h",
    share_error = |error| panic!("{error:?} has no copy")
)]
async fn never_copied(upstream: &Upstream, number: u32) -> Result<usize, CopyTrackingError> {
    let _ = number;
    upstream.fetch().await.map_err(|UpstreamDown| CopyTrackingError(0))
}

#[tokio::test]
async fn callers_fetch_themselves_if_share_error_panics() {
    let (cache, upstream) = (local_cache().await, Upstream::default().taking_millis(20));
    upstream.fail();
    let calls = |number| {
        let call = |_| {
            let upstream = upstream.clone();
            tokio::spawn(cache.scope(async move {
                match number {
                    1 => copied_once(&upstream, number).await,
                    _ => never_copied(&upstream, number).await,
                }
            }))
        };
        (0..5).map(call).collect::<Vec<_>>()
    };
    for call in calls(1).into_iter().chain(calls(2)) {
        assert_eq!(call.await.expect("no task panics"), Err(CopyTrackingError(0)));
    }
    assert_eq!(upstream.fetches(), 10);
    let total = cache.stats().total();
    assert_eq!((total.fetches, total.bypassed, total.paused_answers), (10, 0, 0));
}

#[coordinator_cached(
    name = "paused",
    overwrite(reason = "users edit their profile and expect to see the edit"),
    skip(upstream),
    error_ttl = "10s",
    entry = paused_entry
)]
async fn paused(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    let _ = number;
    upstream.fetch().await
}

/// Calls `paused` with key 7 while the upstream is down. Returns the cache and the upstream.
async fn after_a_failed_fetch(cache: TestCache) -> (TestCache, Upstream) {
    let upstream = Upstream::default();
    upstream.fail();
    assert_eq!(cache.run(paused(&upstream, 7)).await, Err(UpstreamDown));
    assert_eq!(upstream.fetches(), 1);
    (cache, upstream)
}

#[tokio::test]
async fn a_failed_fetch_pauses_its_key() {
    for cache in [TestCache::local(), TestCache::new()] {
        let (cache, upstream) = after_a_failed_fetch(cache).await;
        upstream.recover();
        cache.advance(9 * SECOND);
        for _ in 0..3 {
            assert_eq!(cache.run(paused(&upstream, 7)).await, Err(UpstreamDown));
        }
        assert_eq!(cache.run(paused(&upstream, 8)).await, Ok(2), "another key is not paused");
        cache.advance(2 * SECOND);
        assert_eq!(cache.run(paused(&upstream, 7)).await, Ok(3));
        let stats = cache.stats("paused");
        assert_eq!((stats.paused_answers, stats.fetches, stats.fetch_errors), (3, 3, 1));
    }
}

#[tokio::test]
async fn answers_during_a_pause_do_not_extend_it() {
    let (cache, upstream) = after_a_failed_fetch(TestCache::local()).await;
    for _ in 0..5 {
        cache.advance(3 * SECOND);
        assert_eq!(cache.run(paused(&upstream, 7)).await, Err(UpstreamDown));
    }
    assert_eq!(upstream.fetches(), 2, "the second fetch comes after 12 of 15 seconds");
}

#[tokio::test]
async fn changing_the_entry_ends_its_pause() {
    for cache in [TestCache::local(), TestCache::new()] {
        let (cache, upstream) = after_a_failed_fetch(cache).await;
        let entry = || paused_entry(7);
        cache.run(async { entry().invalidate().await }).await.expect("memcached answers");
        assert_eq!(cache.run(paused(&upstream, 7)).await, Err(UpstreamDown));
        assert_eq!(upstream.fetches(), 2, "`invalidate` ends the pause");

        assert!(cache.run(async { entry().add(70).await }).await);
        assert_eq!(cache.run(paused(&upstream, 7)).await, Ok(70));

        cache.run(async { entry().invalidate().await }).await.expect("memcached answers");
        assert_eq!(cache.run(paused(&upstream, 7)).await, Err(UpstreamDown));
        cache.run(async { entry().overwrite(71).await }).await.expect("memcached answers");
        assert_eq!(cache.run(paused(&upstream, 7)).await, Ok(71));
        assert_eq!(upstream.fetches(), 3);
    }
}

#[tokio::test]
async fn clearing_the_cache_ends_its_pauses() {
    let (cache, upstream) = after_a_failed_fetch(TestCache::local()).await;
    let other = cache.cache().invalidate_all("paused_stale").await;
    assert_eq!(other.ok(), Some(0), "the other function has no entries");
    assert_eq!(cache.run(paused(&upstream, 7)).await, Err(UpstreamDown));
    assert_eq!(upstream.fetches(), 1);
    cache.cache().invalidate_all("paused").await.expect("the function is declared");
    assert_eq!(cache.run(paused(&upstream, 7)).await, Err(UpstreamDown));
    assert_eq!(upstream.fetches(), 2);
    cache.cache().clear().await;
    assert_eq!(cache.run(paused(&upstream, 7)).await, Err(UpstreamDown));
    assert_eq!(upstream.fetches(), 3);
}

#[tokio::test]
async fn a_fetch_before_an_invalidation_pauses_nothing() {
    let (cache, upstream) = (TestCache::new(), slow_failing_upstream());
    let call = tokio::spawn(cache.cache().scope({
        let upstream = upstream.clone();
        async move { paused(&upstream, 7).await }
    }));
    while upstream.fetches() == 0 {
        tokio::task::yield_now().await;
    }
    cache.run(async { paused_entry(7).invalidate().await }).await.expect("memcached answers");
    assert_eq!(call.await.expect("no task panics"), Err(UpstreamDown));
    upstream.recover();
    assert_eq!(cache.run(paused(&upstream, 7)).await, Ok(2));
}

#[tokio::test]
async fn force_miss_ignores_a_pause() {
    let (cache, upstream) = after_a_failed_fetch(TestCache::local()).await;
    let forced = || RequestScope::new().force_miss(true).run(paused(&upstream, 7));
    assert_eq!(cache.run(forced()).await, Err(UpstreamDown));
    assert_eq!(upstream.fetches(), 2);
    upstream.recover();
    assert_eq!(cache.run(forced()).await, Ok(3));
    assert_eq!(cache.run(paused(&upstream, 7)).await, Ok(3));
}

#[tokio::test]
async fn the_request_tier_keeps_no_error() {
    let (cache, upstream) = after_a_failed_fetch(TestCache::local()).await;
    upstream.recover();
    let request = async {
        assert_eq!(paused(&upstream, 7).await, Err(UpstreamDown));
        cache.advance(11 * SECOND);
        assert_eq!(paused(&upstream, 7).await, Ok(2));
    };
    cache.run(RequestScope::new().run(request)).await;
}

#[tokio::test]
async fn a_paused_process_serves_what_another_has_fetched() {
    let (cache, upstream) = after_a_failed_fetch(TestCache::new()).await;
    let other = cache.another_process();
    // A paused call takes no *lease* (the right to fetch), so the other process does not wait for a
    // fetch.
    assert_eq!(cache.run(paused(&upstream, 7)).await, Err(UpstreamDown));
    upstream.recover();
    assert_eq!(other.run(paused(&upstream, 7)).await, Ok(2), "the other process is not paused");
    assert_eq!(other.stats("paused").lease_timeouts, 0);
    assert_eq!(cache.run(paused(&upstream, 7)).await, Ok(2));
    assert_eq!(cache.stats("paused").remote_hits, 1);
}

#[tokio::test]
async fn a_pause_answers_many_callers_at_once() {
    let (cache, upstream) = after_a_failed_fetch(TestCache::new()).await;
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(cache.cache().scope(async move { paused(&upstream, 7).await }))
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no task panics"), Err(UpstreamDown));
    }
    assert_eq!(upstream.fetches(), 1);
    let stats = cache.stats("paused");
    assert_eq!((stats.paused_answers, stats.waits), (50, 0), "nobody fetches: {stats:?}");
}

#[coordinator_cached(
    name = "paused_io",
    version = number,
    skip(upstream),
    local = false,
    error_ttl = "10s"
)]
async fn paused_io(upstream: &Upstream, number: u32) -> io::Result<usize> {
    let _ = number;
    upstream.fetch().await.map_err(|UpstreamDown| io::ErrorKind::TimedOut.into())
}

#[coordinator_cached(
    name = "paused_anyhow",
    version = number,
    skip(upstream),
    error_ttl = "10s",
    share_error = |error| anyhow::anyhow!("{error:#}")
)]
async fn paused_anyhow(upstream: &Upstream, number: u32) -> anyhow::Result<usize> {
    Ok(fetch(upstream, number).await?)
}

#[tokio::test]
async fn errors_that_are_not_clone_pause_too() {
    let (cache, upstream) = (TestCache::new(), Upstream::default());
    upstream.fail();
    for _ in 0..3 {
        let error = cache.run(paused_io(&upstream, 7)).await.expect_err("the upstream is down");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let error = cache.run(paused_anyhow(&upstream, 7)).await.expect_err("the upstream is down");
        assert_eq!(error.to_string(), "order 7 is not there");
    }
    assert_eq!(upstream.fetches(), 2);
}

#[coordinator_cached(
    name = "paused_stale",
    version = number,
    skip(upstream),
    ttl = "1m",
    stale_if_error = "1h",
    error_ttl = "10s",
    entry = paused_stale_entry
)]
async fn paused_stale(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    let _ = number;
    upstream.fetch().await
}

#[tokio::test]
async fn a_paused_call_gets_the_stale_value() {
    for (cache, is_shared) in [(TestCache::local(), false), (TestCache::new(), true)] {
        let upstream = Upstream::default();
        assert_eq!(cache.run(paused_stale(&upstream, 7)).await, Ok(1));
        upstream.fail();
        cache.advance(61 * SECOND);
        for _ in 0..4 {
            assert_eq!(cache.run(paused_stale(&upstream, 7)).await, Ok(1));
        }
        assert_eq!(upstream.fetches(), 2, "one fetch fails, and then the key is paused");
        let stats = cache.stats("paused_stale");
        assert_eq!((stats.stale_answers, stats.paused_answers), (4, 0));
        cache.advance(11 * SECOND);
        assert_eq!(cache.run(paused_stale(&upstream, 7)).await, Ok(1));
        assert_eq!(upstream.fetches(), 3);
        // An invalidated value is not served, even if another process has invalidated it.
        let other = if is_shared { cache.another_process() } else { cache.clone() };
        let invalidation = other.run(async { paused_stale_entry(7).invalidate().await }).await;
        invalidation.expect("memcached answers");
        assert_eq!(cache.run(paused_stale(&upstream, 7)).await, Err(UpstreamDown));
    }
}

#[coordinator_cached(
    name = "paused_refresh",
    overwrite(reason = "the upstream has no versions of a price"),
    skip(upstream),
    ttl = "10m",
    refresh_ahead = "5m",
    error_ttl = "1m"
)]
async fn paused_refresh(upstream: Upstream, number: u32) -> Result<usize, UpstreamDown> {
    let _ = number;
    upstream.fetch().await
}

#[tokio::test]
async fn a_refresh_that_failed_pauses_the_next_one() {
    let (cache, upstream) = (TestCache::local(), Upstream::default());
    let call = async || {
        let answer = cache.run(paused_refresh(upstream.clone(), 7)).await;
        // Gives the refresh time to end. It runs in a task of its own.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        answer
    };
    assert_eq!(call().await, Ok(1));
    upstream.fail();
    cache.advance(360 * SECOND);
    for _ in 0..5 {
        assert_eq!(call().await, Ok(1));
        cache.advance(SECOND);
    }
    assert_eq!(upstream.fetches(), 2, "one refresh fails, and then the key is paused");
    upstream.recover();
    cache.advance(60 * SECOND);
    assert_eq!(call().await, Ok(1));
    assert_eq!(call().await, Ok(3), "the refresh after the pause has succeeded");
}

#[tokio::test]
async fn a_disabled_cache_pauses_no_fetch() {
    let upstream = Upstream::default();
    upstream.fail();
    for fetches in 1..=3 {
        let answer = Cache::disabled().scope(paused(&upstream, 7)).await;
        assert_eq!((answer, upstream.fetches()), (Err(UpstreamDown), fetches));
    }
}

#[tokio::test]
async fn the_number_of_kept_errors_is_bounded() {
    static LIVE: AtomicUsize = AtomicUsize::new(0);

    #[derive(Debug)]
    struct CountedError;

    impl CountedError {
        fn new() -> CountedError {
            LIVE.fetch_add(1, Ordering::SeqCst);
            CountedError
        }
    }

    impl Drop for CountedError {
        fn drop(&mut self) {
            LIVE.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[coordinator_cached(
        name = "failing_mass",
        version = number,
        error_ttl = "1h",
        share_error = |_| CountedError::new()
    )]
    async fn failing_mass(number: u32) -> Result<u32, CountedError> {
        let _ = number;
        Err(CountedError::new())
    }

    let cache = TestCache::local();
    for number in 0..10_000 {
        assert!(cache.run(failing_mass(number)).await.is_err());
    }
    let live = LIVE.load(Ordering::SeqCst);
    assert!((1..=5_000).contains(&live), "at most 5,000 errors are kept: {live}");
    drop(cache);
    assert_eq!(LIVE.load(Ordering::SeqCst), 0);
}
