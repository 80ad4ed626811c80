//! Tests that the library's counters agree with its events, with the outcomes of the calls, and
//! with the number of fetches that the upstream has counted.
//!
//! The functions use options under which the result of a fetch is not always the answer of a call:
//! `stale_if_error`, `refresh_ahead`, `error_ttl` and `cache_if`. During the test, fetches fail and
//! panic, callers give up, entries are invalidated, and a memcached is killed and started again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cached_core::event::{Event, EventSubject, FetchOutcome, Observer};
use cached_core::{
    Cache, CallResult, DeclarationStats, Outcome, RequestScope, coordinator_cached, with_outcome,
};
use cached_tests::{Memcached, UpstreamDown};

const NAMES: [&str; 4] = ["agreed_stale", "agreed_cache_if", "agreed_local", "agreed_remote"];
const KEYS: u64 = 40;

/// An upstream that counts its fetches by function. Some fetches fail, and some panic.
#[derive(Default)]
struct UnreliableUpstream {
    fetches: [AtomicU64; 4],
    is_down: AtomicBool,
}

static UPSTREAM: UnreliableUpstream = UnreliableUpstream {
    fetches: [const { AtomicU64::new(0) }; 4],
    is_down: AtomicBool::new(false),
};

impl UnreliableUpstream {
    async fn fetch(&self, function: usize, key: u64) -> Result<(u64, u64), UpstreamDown> {
        let number = self.fetches[function].fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1 + number % 4)).await;
        assert_ne!(number % 97, 3, "this fetch panics");
        match self.is_down.load(Ordering::Relaxed) || number % 13 == 5 {
            true => Err(UpstreamDown),
            false => Ok((key, number)),
        }
    }
}

#[coordinator_cached(
    name = "agreed_stale",
    overwrite(reason = "a rate changes each day under the same name"),
    ttl = "2s",
    local_ttl = "300ms",
    stale_if_error = "10s",
    error_ttl = "40ms",
    refresh_ahead = "1s",
    entry = stale_entry
)]
async fn stale(key: u64) -> Result<(u64, u64), UpstreamDown> {
    UPSTREAM.fetch(0, key).await
}

#[coordinator_cached(
    name = "agreed_cache_if",
    overwrite(reason = "a rate changes each day under the same name"),
    ttl = "2s",
    local_ttl = "200ms",
    refresh_ahead = "1s",
    cache_if = |value| value.1 % 5 != 0,
    entry = cache_if_entry
)]
async fn cache_if(key: u64) -> Result<(u64, u64), UpstreamDown> {
    UPSTREAM.fetch(1, key).await
}

#[coordinator_cached(
    name = "agreed_local",
    overwrite(reason = "a rate changes each day under the same name"),
    ttl = "400ms",
    remote = false,
    stale_if_error = "3s",
    refresh_ahead = "100ms",
    entry = local_entry
)]
async fn local(key: u64) -> Result<(u64, u64), UpstreamDown> {
    UPSTREAM.fetch(2, key).await
}

#[coordinator_cached(
    name = "agreed_remote",
    overwrite(reason = "a rate changes each day under the same name"),
    ttl = "1s",
    local = false,
    stale_if_error = "5s"
)]
async fn remote(key: u64) -> Result<(u64, u64), UpstreamDown> {
    UPSTREAM.fetch(3, key).await
}

/// Counts of events or outcomes. Each event or outcome is counted under the function's name and
/// the name of the library's counter that must agree.
#[derive(Default)]
struct Tally(Mutex<BTreeMap<(String, &'static str), u64>>);

impl Tally {
    fn count(&self, name: &str, counter: &'static str) {
        let mut counts = self.0.lock().expect("no thread panics while it holds the lock");
        *counts.entry((name.to_owned(), counter)).or_default() += 1;
    }

    fn get(&self, name: &str, counter: &'static str) -> u64 {
        let counts = self.0.lock().expect("no thread panics while it holds the lock");
        counts.get(&(name.to_owned(), counter)).copied().unwrap_or(0)
    }
}

impl Observer for Tally {
    fn event(&self, event: &Event<'_>) {
        let count = |entry: &EventSubject<'_>, counter| self.count(entry.name(), counter);
        match event {
            Event::Waited { entry, .. } => count(entry, "waits"),
            Event::StaleServed { entry, .. } => count(entry, "stale_answers"),
            Event::FetchPaused { entry, .. } => count(entry, "paused_answers"),
            Event::Cancelled { entry, .. } => count(entry, "cancelled"),
            Event::FetchStarted { entry, .. } => count(entry, "fetches"),
            Event::FetchCancelled { entry, .. } => count(entry, "fetches_cancelled"),
            Event::FetchEnded { entry, outcome, is_answer, .. } => {
                count(entry, "fetches_ended");
                if *is_answer {
                    count(entry, "misses");
                }
                if let FetchOutcome::Error = outcome {
                    count(entry, "fetch_errors");
                }
            }
            Event::RefreshStarted { entry, .. } => count(entry, "refreshes"),
            Event::NotCached { entry, .. } => count(entry, "not_cached"),
            Event::LeaseWon { entry, .. } => count(entry, "leases_won"),
            Event::LeaseBusy { entry, .. } => count(entry, "leases_busy"),
            Event::Filled { entry, .. } => count(entry, "fills"),
            Event::FillRefused { entry, .. } => count(entry, "fills_dropped"),
            Event::Invalidated { entry, .. } => count(entry, "invalidations"),
            _ => {}
        }
    }
}

/// Returns the name of the cache's counter for calls with this outcome.
fn counter_of(outcome: &Outcome) -> &'static str {
    match outcome.result() {
        CallResult::Hit => "hits",
        CallResult::Miss => "misses",
        CallResult::Waited => "waits",
        CallResult::Stale => "stale_answers",
        CallResult::Paused => "paused_answers",
        result => panic!("no call has this result: {result:?}"),
    }
}

/// A cache that stands for one process, with the counts of its events, outcomes and calls.
struct Process {
    cache: Cache,
    events: Arc<Tally>,
    outcomes: Tally,
    calls: [AtomicU64; 4],
}

impl Process {
    async fn new(servers: &[Memcached]) -> Arc<Process> {
        let events = Arc::new(Tally::default());
        let cache = Cache::builder()
            .memcached(servers.iter().map(Memcached::address))
            .remote_timeout(Duration::from_millis(150))
            .observer(Arc::clone(&events) as Arc<dyn Observer>)
            .build()
            .await
            .expect("the settings are valid");
        Arc::new(Process { cache, events, outcomes: Tally::default(), calls: Default::default() })
    }

    /// Makes one call, and records its outcome. The number `choice` determines the function, the
    /// key, and how the call is made. The call runs in a task of its own, because its fetch may
    /// panic.
    async fn call(&self, choice: u64) {
        let (key, function, way) = (choice % KEYS, choice / KEYS % 4, choice / KEYS / 4 % 16);
        let name = NAMES[function as usize];
        self.calls[function as usize].fetch_add(1, Ordering::Relaxed);
        let call = async move {
            match function {
                0 => with_outcome(stale(key)).await,
                1 => with_outcome(cache_if(key)).await,
                2 => with_outcome(local(key)).await,
                _ => with_outcome(remote(key)).await,
            }
        };
        let limit = match way {
            0 => Duration::from_micros(choice % 3_000),
            _ => Duration::from_secs(60),
        };
        let call = tokio::time::timeout(limit, call);
        let answer = match way {
            1 => {
                let request = RequestScope::new().force_miss(choice.is_multiple_of(7));
                tokio::spawn(self.cache.scope(request.run(call))).await
            }
            _ => tokio::spawn(self.cache.scope(call)).await,
        };
        match answer {
            Ok(Ok((answer, outcome))) => {
                if let Ok((fetched, _)) = answer {
                    assert_eq!(fetched, key, "the value belongs to the key");
                }
                let outcome = outcome.expect("a call with an answer has an outcome");
                self.outcomes.count(name, counter_of(&outcome));
            }
            // The caller gave up, or the fetch panicked.
            Ok(Err(_)) | Err(_) => self.outcomes.count(name, "cancelled"),
        }
        // Some of these invalidations fail because a server is unreachable. They are counted too.
        match choice % 400 {
            0 => drop(self.cache.scope(async { stale_entry(key).invalidate().await }).await),
            1 => drop(self.cache.scope(async { cache_if_entry(key).invalidate().await }).await),
            2 => drop(self.cache.scope(async { local_entry(key).invalidate().await }).await),
            _ => {}
        }
    }

    /// Compares the counters with the events, the outcomes and the number of calls.
    fn check(&self) {
        let all = self.cache.stats();
        let observer = &all.observers()[0];
        assert_eq!(observer.panics, 0, "{observer:?}");
        for (name, calls) in NAMES.into_iter().zip(&self.calls) {
            let stats = all.get(name).expect("the function is declared");
            assert_eq!(stats.calls(), calls.load(Ordering::Relaxed), "`{name}`: {stats:?}");
            for (counter, value) in [
                ("hits", stats.hits()),
                ("misses", stats.misses),
                ("waits", stats.waits),
                ("stale_answers", stats.stale_answers),
                ("paused_answers", stats.paused_answers),
                ("cancelled", stats.cancelled),
            ] {
                let outcomes = self.outcomes.get(name, counter);
                assert_eq!(value, outcomes, "`{name}`: {counter} and outcomes: {stats:?}");
            }
            let durations = all.fetch_durations(name).expect("the function is declared");
            for (counter, value) in [
                ("misses", stats.misses),
                ("waits", stats.waits),
                ("stale_answers", stats.stale_answers),
                ("paused_answers", stats.paused_answers),
                ("cancelled", stats.cancelled),
                ("fetches", stats.fetches),
                ("fetches_cancelled", stats.fetches_cancelled),
                ("fetches_ended", stats.fetches - stats.fetches_cancelled),
                ("fetches_ended", durations.count()),
                ("fetch_errors", stats.fetch_errors),
                ("refreshes", stats.refreshes),
                ("not_cached", stats.not_cached),
                ("leases_won", stats.leases_won),
                ("leases_busy", stats.leases_busy),
                ("fills", stats.fills),
                ("fills_dropped", stats.fills_dropped),
                ("invalidations", stats.invalidations),
            ] {
                // On a busy machine the library may pause the observer for a moment. The observer
                // then misses some events.
                let events = self.events.get(name, counter);
                let agree = (value.saturating_sub(observer.missed)..=value).contains(&events);
                assert!(agree, "`{name}`: {events} events are {counter}: {stats:?}, {observer:?}");
            }
            assert_eq!(stats.bypassed, 0, "`{name}`: {stats:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_events_outcomes_and_upstream_agree() {
    const PERIOD: Duration = Duration::from_secs(5);
    let mut servers = [Memcached::start(), Memcached::start()];
    let processes = [Process::new(&servers).await, Process::new(&servers).await];
    let began = Instant::now();
    let tasks = (0..16_u64).map(|task| {
        let process = Arc::clone(&processes[task as usize % 2]);
        tokio::spawn(async move {
            // A linear congruential generator with Knuth's MMIX constants.
            let mut state = task;
            while began.elapsed() < PERIOD {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                process.call(state >> 33).await;
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    tokio::time::sleep(PERIOD / 4).await;
    let port = servers[0].port();
    servers[0].kill();
    tokio::time::sleep(PERIOD / 4).await;
    servers[0] = Memcached::start_on(port).expect("the port is free");
    UPSTREAM.is_down.store(true, Ordering::Relaxed);
    tokio::time::sleep(PERIOD / 4).await;
    UPSTREAM.is_down.store(false, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("the task itself does not panic");
    }
    // Refreshes run in tasks of their own. They have half a second to end.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut total = DeclarationStats::default();
    for process in &processes {
        process.cache.flush().await;
        process.check();
        total += process.cache.stats().total();
    }
    for (function, name) in NAMES.into_iter().enumerate() {
        let counted = |process: &Arc<Process>| {
            process.cache.stats().get(name).expect("the function is declared").fetches
        };
        let fetches: u64 = processes.iter().map(counted).sum();
        let upstream = UPSTREAM.fetches[function].load(Ordering::Relaxed);
        assert_eq!(fetches, upstream, "`{name}`: fetches and the upstream");
    }
    for (counter, value) in [
        ("hits", total.hits()),
        ("waits", total.waits),
        ("stale_answers", total.stale_answers),
        ("paused_answers", total.paused_answers),
        ("cancelled", total.cancelled),
        ("refreshes", total.refreshes),
        ("not_cached", total.not_cached),
        ("remote_errors", total.remote_errors),
        ("invalidations", total.invalidations),
    ] {
        assert!(value > 0, "the load has {counter}: {total:?}");
    }
}
