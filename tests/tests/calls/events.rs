//! Tests that the statistics count each call exactly once, for example as a hit or as a miss, and
//! that observers receive the events. These tests run without a memcached server;
//! `tests/memcached/counters.rs` has the tests with memcached.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cached_core::event::{
    BypassReason, Event, EvictionReason, FetchOutcome, Observer, StaleServedReason,
};
use cached_core::testing::TestCache;
use cached_core::{Cache, RequestScope, coordinator_cached};
use cached_tests::{Upstream, UpstreamDown, collect_logs, logged, poll_once};

#[coordinator_cached(
    name = "tallied",
    overwrite(reason = "the test replaces entries on purpose"),
    skip(upstream),
    ttl = "1m",
    stale_if_error = "1h",
    error_ttl = "10s",
    entry = tallied_entry
)]
async fn tallied(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    let _ = number;
    upstream.fetch().await
}

#[coordinator_cached(name = "recursive_tally", version = number, skip(upstream, depth))]
async fn recursive_tally(
    upstream: &Upstream,
    number: u32,
    depth: u32,
) -> Result<usize, UpstreamDown> {
    match depth {
        0 => upstream.fetch().await,
        _ => {
            upstream.fetch().await?;
            Box::pin(recursive_tally(upstream, number, depth - 1)).await
        }
    }
}

/// Panics while the upstream fails.
#[coordinator_cached(
    name = "panicking_tally",
    overwrite(reason = "the test refreshes an entry on purpose"),
    skip(upstream),
    ttl = "10m",
    refresh_ahead = "1m"
)]
async fn panicking_tally(upstream: Upstream) -> Result<usize, UpstreamDown> {
    Ok(upstream.fetch().await.expect("the test may let the upstream fail"))
}

/// Records a short text for each event.
#[derive(Default)]
struct EventRecorder(Mutex<Vec<String>>);

impl EventRecorder {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("no thread panics while it holds the lock"))
    }
}

impl Observer for EventRecorder {
    fn event(&self, event: &Event<'_>) {
        let text = match event {
            Event::Hit { tier, .. } => format!("hit {tier}"),
            Event::LocalMiss { .. } => "local miss".to_owned(),
            Event::FetchEnded { outcome: FetchOutcome::Value, .. } => "value".to_owned(),
            Event::FetchEnded { outcome: FetchOutcome::Error, is_answer, .. } => {
                format!("error, {is_answer}")
            }
            Event::StaleServed { reason: StaleServedReason::FetchFailed, .. } => {
                "stale, failed".into()
            }
            Event::StaleServed { reason: StaleServedReason::FetchPaused, .. } => {
                "stale, paused".into()
            }
            Event::FetchPaused { .. } => "paused".to_owned(),
            Event::Waited { .. } => "waited".to_owned(),
            Event::FetchCancelled { .. } => "fetch cancelled".to_owned(),
            Event::Cancelled { took, .. } => format!("cancelled, {}", took.is_some()),
            Event::Bypassed { reason: BypassReason::Recursion, .. } => "recursion".to_owned(),
            Event::Bypassed { reason: BypassReason::InObserver, .. } => "in observer".to_owned(),
            Event::Evicted { reason, .. } => format!("evicted, {reason}"),
            _ => return,
        };
        self.0.lock().expect("no thread panics while it holds the lock").push(text);
    }
}

fn observed() -> (TestCache, Arc<EventRecorder>) {
    let recorder = Arc::new(EventRecorder::default());
    let builder = Cache::builder().observer(Arc::clone(&recorder) as Arc<dyn Observer>);
    (TestCache::with(builder).expect("the settings are valid"), recorder)
}

#[tokio::test]
async fn each_call_is_counted_once_by_its_answer() {
    let (cache, recorder) = observed();
    let upstream = Upstream::default();

    assert_eq!(cache.run(tallied(&upstream, 1)).await, Ok(1));
    assert_eq!(cache.run(tallied(&upstream, 1)).await, Ok(1));
    assert_eq!(recorder.take(), ["local miss", "value"], "an inlined hit is not an event");
    let request = async {
        for _ in 0..3 {
            assert_eq!(tallied(&upstream, 1).await, Ok(1));
        }
    };
    cache.run(RequestScope::new().run(request)).await;
    recorder.take();

    cache.advance(Duration::from_secs(61));
    upstream.fail();
    assert_eq!(cache.run(tallied(&upstream, 1)).await, Ok(1));
    assert_eq!(recorder.take(), ["local miss", "error, false", "stale, failed"]);
    assert_eq!(cache.run(tallied(&upstream, 1)).await, Ok(1));
    assert_eq!(recorder.take(), ["local miss", "stale, paused"]);
    assert_eq!(cache.run(tallied(&upstream, 2)).await, Err(UpstreamDown));
    assert_eq!(recorder.take(), ["local miss", "error, true"]);
    assert_eq!(cache.run(tallied(&upstream, 2)).await, Err(UpstreamDown));
    assert_eq!(recorder.take(), ["local miss", "paused"]);

    let stats = cache.stats("tallied");
    assert_eq!((stats.local_hits, stats.request_hits), (2, 2), "{stats:?}");
    assert_eq!((stats.misses, stats.stale_answers, stats.paused_answers), (2, 2, 1), "{stats:?}");
    assert_eq!(stats.calls(), 9, "{stats:?}");
    assert_eq!((stats.fetches, upstream.fetches()), (3, 3), "{stats:?}");
    let durations =
        cache.cache().stats().fetch_durations("tallied").expect("the function is declared");
    assert_eq!(durations.count(), 3);
}

#[tokio::test]
async fn waits_and_cancelled_calls_are_counted_once() {
    let (cache, recorder) = observed();
    let upstream = Upstream::default().taking_millis(50);
    cache
        .run(async {
            let (one, other) = tokio::join!(tallied(&upstream, 1), tallied(&upstream, 1));
            assert_eq!((one, other), (Ok(1), Ok(1)));
        })
        .await;
    assert!(recorder.take().contains(&"waited".to_owned()));
    cache
        .run(async {
            let mut leads = Box::pin(tallied(&upstream, 2));
            assert!(poll_some(leads.as_mut()).await.is_none());
            let mut follows = Box::pin(tallied(&upstream, 2));
            assert!(poll_some(follows.as_mut()).await.is_none());
            recorder.take();
            drop(follows);
            assert_eq!(recorder.take(), ["cancelled, false"]);
            drop(leads);
            assert_eq!(recorder.take(), ["fetch cancelled", "cancelled, true"]);
        })
        .await;
    let stats = cache.stats("tallied");
    assert_eq!((stats.misses, stats.waits, stats.cancelled), (1, 1, 2), "{stats:?}");
    assert_eq!((stats.calls(), stats.fetches, upstream.fetches()), (4, 2, 2), "{stats:?}");
}

/// Checks that each fetch has ended with a value or an error, or is counted as cancelled.
#[track_caller]
fn assert_fetches_add_up(cache: &TestCache, name: &str) {
    let stats = cache.stats(name);
    let durations = cache.cache().stats().fetch_durations(name);
    let ended = durations.expect("the function is declared").count();
    assert_eq!(stats.fetches, ended + stats.fetches_cancelled, "{stats:?}");
}

#[tokio::test]
async fn an_overtaken_fetch_is_counted_as_cancelled() {
    let (cache, recorder) = observed();
    let upstream = Upstream::default().taking_millis(50);
    cache
        .run(async {
            let mut leads = Box::pin(tallied(&upstream, 1));
            assert!(poll_once(leads.as_mut()).await.is_none());
            // The first call fetches and is woken, but nobody polls it. This second call therefore
            // stops waiting for it and fetches the value itself.
            assert_eq!(tallied(&upstream, 1).await, Ok(2));
            recorder.take();
            assert_eq!(leads.await, Ok(2));
        })
        .await;
    assert_eq!(recorder.take(), ["waited", "fetch cancelled"]);
    let stats = cache.stats("tallied");
    assert_eq!((stats.misses, stats.waits, stats.cancelled), (1, 1, 0), "{stats:?}");
    assert_eq!((stats.fetches, stats.fetches_cancelled), (2, 1), "{stats:?}");
    assert_fetches_add_up(&cache, "tallied");
}

#[tokio::test]
async fn a_refresh_that_panics_is_counted_as_a_cancelled_fetch() {
    let (cache, upstream) = (TestCache::local(), Upstream::default());
    assert_eq!(cache.run(panicking_tally(upstream.clone())).await, Ok(1));
    cache.advance(Duration::from_secs(570));
    upstream.fail();
    assert_eq!(cache.run(panicking_tally(upstream.clone())).await, Ok(1));
    // The refresh is a task on this thread. While the test yields, the task runs and panics.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    let stats = cache.stats("panicking_tally");
    assert_eq!((stats.refreshes, stats.fetches), (1, 2), "{stats:?}");
    assert_eq!((stats.fetches_cancelled, stats.cancelled), (1, 0), "{stats:?}");
    assert_fetches_add_up(&cache, "panicking_tally");
}

/// Polls a future up to 20 times. A future that is still pending then waits for something slow.
async fn poll_some<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    for _ in 0..20 {
        if let Some(output) = poll_once(future.as_mut()).await {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

#[tokio::test]
async fn a_bypassing_call_is_counted_once() {
    let (cache, recorder) = observed();
    let upstream = Upstream::default();
    assert_eq!(cache.run(recursive_tally(&upstream, 1, 2)).await, Ok(3));
    assert_eq!(
        recorder.take().iter().filter(|event| *event == "recursion").count(),
        2,
        "the inner calls have the key of the outer one"
    );
    let stats = cache.stats("recursive_tally");
    assert_eq!((stats.calls(), stats.misses, stats.bypassed), (3, 1, 2), "{stats:?}");
    assert_eq!((stats.fetches, upstream.fetches()), (3, 3), "{stats:?}");

    let (off, upstream) = (Cache::disabled(), Upstream::default());
    for _ in 0..3 {
        assert!(off.scope(tallied(&upstream, 1)).await.is_ok());
    }
    let stats = off.stats().get("tallied").expect("the function is declared");
    assert_eq!((stats.calls(), stats.bypassed, stats.fetches), (3, 3, 3));
}

#[tokio::test]
async fn evictions_are_counted_by_their_cause() {
    let (cache, recorder) = observed();
    let upstream = Upstream::default();
    cache.run(tallied(&upstream, 1)).await.expect("the call succeeds");
    let local = cache.cache().stats().local();
    assert_eq!((local.entries, local.capacity), (1, 64 << 20));
    assert!(local.bytes > 500 && local.bytes < 2_000, "{local:?}");
    recorder.take();
    cache
        .run(async {
            tallied_entry(1).overwrite(9).await.expect("memcached answers");
            tallied_entry(1).invalidate().await.expect("memcached answers");
        })
        .await;
    cache.run(tallied(&upstream, 1)).await.expect("the call succeeds");
    assert_eq!(cache.cache().clear().await, 1);
    let evicted: Vec<_> =
        recorder.take().into_iter().filter(|event| event.starts_with("evicted")).collect();
    let word = |reason: EvictionReason| format!("evicted, {reason}");
    assert_eq!(
        evicted,
        [
            word(EvictionReason::Invalidated),
            word(EvictionReason::Invalidated),
            word(EvictionReason::Cleared)
        ]
    );
    let local = cache.cache().stats().local();
    assert_eq!((local.entries, local.bytes), (0, 0));
    assert_eq!((local.evictions_invalidated, local.evictions_cleared), (2, 1), "{local:?}");
    let stats = cache.stats("tallied");
    assert_eq!((stats.evictions_invalidated, stats.evictions_cleared), (2, 1), "{stats:?}");

    let small =
        Cache::builder().local_capacity(20_000).build().await.expect("the settings are valid");
    for number in 0..200 {
        small.scope(tallied(&upstream, number)).await.expect("the call succeeds");
    }
    let local = small.stats().local();
    assert!(local.evictions_size > 100 && local.entries < 100, "{local:?}");
    assert_eq!(local.entries + local.evictions_size, 200, "{local:?}");
}

#[coordinator_cached(
    name = "confidential",
    overwrite(reason = "the test replaces entries on purpose"),
    skip(upstream),
    ttl = "1m",
    stale_if_error = "1h",
    entry = confidential_entry
)]
async fn confidential(upstream: &Upstream, identifier: &str) -> Result<String, UpstreamDown> {
    upstream.fetch().await?;
    Ok(format!("the-value-of-{identifier}"))
}

/// Records the `Debug` text of each event.
#[derive(Default)]
struct DebugRecorder(Mutex<Vec<String>>);

impl Observer for DebugRecorder {
    fn event(&self, event: &Event<'_>) {
        let mut texts = self.0.lock().expect("no thread panics while it holds the lock");
        texts.push(format!("{event:?} {:?}", event.subject()));
    }
}

#[tokio::test]
async fn no_event_shows_a_value_or_an_identifier() {
    let recorder = Arc::new(DebugRecorder::default());
    let builder = Cache::builder().observer(Arc::clone(&recorder) as Arc<dyn Observer>);
    let cache = TestCache::with(builder).expect("the settings are valid");
    let upstream = Upstream::default();
    let value = cache.run(confidential(&upstream, "4711-ada")).await.expect("the call succeeds");
    let digest = cache
        .run(async {
            confidential_entry("4711-ada").overwrite(value).await.expect("memcached answers");
            confidential_entry("4711-ada").key().digest().to_string()
        })
        .await;
    cache.advance(Duration::from_secs(62));
    upstream.fail();
    cache.memcached().fail();
    for _ in 0..5 {
        cache.run(confidential(&upstream, "4711-ada")).await.expect("an expired value is served");
    }
    cache.run(async { confidential_entry("4711-ada").invalidate().await.is_err() }).await;
    let texts = recorder.0.lock().expect("no thread panics while it holds the lock");
    let all = texts.join("\n");
    for kind in ["FetchEnded", "Filled", "Overwritten", "StaleServed", "RemoteFailed", "Evicted"] {
        assert!(all.contains(kind), "{kind} was played: {all}");
    }
    assert!(all.contains("ServerEjected") && all.contains(&digest), "{all}");
    assert!(!all.contains("4711") && !all.contains("the-value"), "{all}");
}

/// An observer that makes a call when a fetch has ended. The call has the same function and key as
/// the fetch.
struct CallingObserver {
    upstream: Upstream,
    cache: Mutex<Option<Cache>>,
    events: AtomicU64,
}

impl Observer for CallingObserver {
    fn event(&self, event: &Event<'_>) {
        self.events.fetch_add(1, Ordering::Relaxed);
        if let Event::FetchEnded { .. } = event
            && let Some(cache) = self.cache.lock().expect("no thread panics").clone()
        {
            let call = pin!(cache.scope(tallied(&self.upstream, 1)));
            let polled = call.poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(polled, Poll::Ready(Ok(2)), "the call does not wait for its own flight");
        }
    }
}

#[tokio::test]
async fn an_observer_may_call_an_annotated_function() {
    let upstream = Upstream::default();
    let observer = Arc::new(CallingObserver {
        upstream: upstream.clone(),
        cache: Mutex::default(),
        events: AtomicU64::default(),
    });
    let builder = Cache::builder().observer(Arc::clone(&observer) as Arc<dyn Observer>);
    let cache = builder.build().await.expect("the settings are valid");
    *observer.cache.lock().expect("no thread panics") = Some(cache.clone());
    assert_eq!(cache.scope(tallied(&upstream, 1)).await, Ok(1));
    observer.cache.lock().expect("no thread panics").take();
    let stats = cache.stats();
    let tallied = stats.get("tallied").expect("the function is declared");
    assert_eq!((tallied.misses, tallied.bypassed, upstream.fetches()), (1, 1, 2), "{tallied:?}");
    // The three events are the local miss, the start of the fetch and its end. The events that the
    // observer itself causes are not among them.
    assert_eq!(observer.events.load(Ordering::Relaxed), 3);
    let [observed] = stats.observers() else { panic!("there is one observer") };
    assert_eq!((observed.received, observed.missed, observed.panics), (3, 0, 0));
    assert!(observed.name.ends_with("CallingObserver"), "{}", observed.name);
}

struct PanickingObserver;

impl Observer for PanickingObserver {
    fn event(&self, _: &Event<'_>) {
        panic!("the observer is broken");
    }
}

struct SleepingObserver;

impl Observer for SleepingObserver {
    fn event(&self, _: &Event<'_>) {
        std::thread::sleep(Duration::from_millis(110));
    }
}

#[tokio::test]
async fn a_broken_observer_is_logged_once() {
    collect_logs();
    let cache =
        Cache::builder().observer(Arc::new(PanickingObserver)).observer(Arc::new(SleepingObserver));
    let cache = cache.build().await.expect("the settings are valid");
    let upstream = Upstream::default();
    for number in 1..=20 {
        assert_eq!(cache.scope(tallied(&upstream, number)).await, Ok(number as usize));
    }
    let stats = cache.stats();
    let [panics, sleeps] = stats.observers() else { panic!("there are two observers") };
    // This observer may miss events: the cache pauses slow observers, and printing the backtrace of
    // a panic can be slow enough for that.
    assert!(panics.received > 0 && panics.panics == panics.received, "{panics:?}");
    assert_eq!(panics.received + panics.missed, 60);
    // The first event pauses this observer for ten seconds. On a very slow machine the test takes
    // longer than that, and the observer receives a second or third event.
    assert!(sleeps.received <= 3, "{sleeps:?}");
    assert_eq!(sleeps.received + sleeps.missed, 60);
    for name in ["PanickingObserver` has panicked", "SleepingObserver` takes more than"] {
        assert_eq!(logged(log::Level::Warn, name).len(), 1, "{name}");
    }
}

/// Counts the calls that the test makes.
#[derive(Clone, Default)]
struct CallCounter(Arc<AtomicU64>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_add_up_under_load() {
    const TASKS: u32 = 16;
    const CALLS: u32 = 400;
    let cache =
        Cache::builder().local_capacity(30_000).build().await.expect("the settings are valid");
    let (upstream, made) = (Upstream::default().taking_millis(1), CallCounter::default());
    let call = async |upstream: &Upstream, made: &CallCounter, number: u32| {
        made.0.fetch_add(1, Ordering::Relaxed);
        tallied(upstream, number).await
    };
    let tasks = (0..TASKS).map(|task| {
        let (upstream, made) = (upstream.clone(), made.clone());
        tokio::spawn(cache.scope(async move {
            for step in 0..CALLS {
                let number = step * 7 % 80;
                match (step + task) % 10 {
                    0 => {
                        let limit = Duration::from_micros(300);
                        let _ = tokio::time::timeout(limit, call(&upstream, &made, number)).await;
                    }
                    1 => {
                        let request = async {
                            let _ = call(&upstream, &made, number).await;
                            let _ = call(&upstream, &made, number).await;
                        };
                        let scope = RequestScope::new().force_miss(step % 20 < 10);
                        scope.run(request).await;
                    }
                    2 => tallied_entry(number).invalidate().await.expect("there is no memcached"),
                    3 if step % 100 == 3 => upstream.fail(),
                    4 => upstream.recover(),
                    _ => drop(call(&upstream, &made, number).await),
                }
            }
        }))
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("no task panics");
    }
    let stats = cache.stats();
    let tallied = stats.get("tallied").expect("the function is declared");
    assert_eq!(tallied.calls(), made.0.load(Ordering::Relaxed), "{tallied:?}");
    assert_eq!(tallied.fetches, upstream.fetches() as u64, "{tallied:?}");
    let ended = stats.fetch_durations("tallied").expect("the function is declared").count();
    assert!(ended <= tallied.fetches && ended >= tallied.misses, "{ended} {tallied:?}");
    for (name, count) in [
        ("request hits", tallied.request_hits),
        ("local hits", tallied.local_hits),
        ("waits", tallied.waits),
        ("misses", tallied.misses),
        ("cancelled", tallied.cancelled),
        ("evictions", tallied.evictions_size),
    ] {
        assert!(count > 0, "the load has {name}: {tallied:?}");
    }
    let local = stats.local();
    assert!(local.bytes <= 2 * local.capacity, "{local:?}");
}
