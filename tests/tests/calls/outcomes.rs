//! Tests of `with_outcome` and `with_outcomes`, which record how calls were answered.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cached_core::testing::TestCache;
use cached_core::{
    Cache, CallResult, DeclarationStats, Outcome, Outcomes, RequestScope, Tier, coordinator_cached,
    in_scope, outcomes, with_outcome, with_outcomes,
};
use cached_tests::{Upstream, UpstreamDown, poll_once};
use tokio::task::{JoinSet, yield_now};

use crate::functions::local_cache;

const SECOND: Duration = Duration::from_secs(1);

#[coordinator_cached(
    name = "outcome_course",
    version = edition,
    ttl = "10m",
    skip(upstream),
    entry = course_entry
)]
async fn course(upstream: &Upstream, id: u32, edition: u32) -> Result<usize, UpstreamDown> {
    let _ = id;
    yield_now().await;
    upstream.fetch().await
}

/// Calls another annotated function in its body.
#[coordinator_cached(name = "outcome_page", version = edition, skip(upstream))]
async fn page(upstream: &Upstream, edition: u32) -> Result<usize, UpstreamDown> {
    course(upstream, 1, edition).await
}

#[coordinator_cached(
    name = "outcome_rate",
    version = day,
    ttl = "10s",
    stale_if_error = "1h",
    skip(upstream)
)]
async fn rate(upstream: &Upstream, day: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[coordinator_cached(name = "outcome_paused", version = day, error_ttl = "10s", skip(upstream))]
async fn paused(upstream: &Upstream, day: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[coordinator_cached(name = "outcome_endless", version = day)]
async fn endless(day: u32) -> Result<u32, UpstreamDown> {
    match day {
        1 => std::future::pending().await,
        _ => Ok(day),
    }
}

#[coordinator_cached(
    name = "outcome_refreshed",
    overwrite(reason = "a quote changes with the market"),
    ttl = "10m",
    refresh_ahead = "1m",
    skip(upstream)
)]
async fn refreshed(upstream: Upstream) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

#[coordinator_cached(
    name = "outcome_even",
    version = day,
    skip(upstream),
    cache_if = |value| value % 2 == 0
)]
async fn even(upstream: &Upstream, day: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

/// Returns `millis`, which is also the ttl of the value. If `day` is 2, the fetch invalidates its
/// own entry.
#[coordinator_cached(
    name = "outcome_brief",
    version = day,
    ttl_with = |millis| Duration::from_millis(*millis),
    entry = brief_entry
)]
async fn brief(millis: u64, day: u32) -> Result<u64, UpstreamDown> {
    if day == 2 {
        brief_entry(millis, day).invalidate().await.expect("no server can fail");
    }
    Ok(millis)
}

/// Returns the outcome of a call whose value does not matter.
async fn outcome_of<R>(call: impl Future<Output = R>) -> Outcome {
    with_outcome(call).await.1.expect("the future makes a call")
}

#[track_caller]
fn assert_outcome(outcome: &Outcome, result: CallResult, tier: Option<Tier>) {
    assert_eq!((outcome.result(), outcome.tier()), (result, tier), "{outcome:?}");
}

#[tokio::test]
async fn misses_and_hits_of_each_tier_differ() {
    let upstream = Upstream::default().taking_millis(20);
    let first = TestCache::new();
    let miss = first.run(outcome_of(course(&upstream, 1, 2))).await;
    assert_outcome(&miss, CallResult::Miss, None);
    assert_eq!(miss.name(), "outcome_course");
    assert!(miss.fetch_time().is_some_and(|took| took >= Duration::from_millis(20)), "{miss:?}");
    assert_eq!((miss.age(), miss.time_left()), (Some(Duration::ZERO), Some(600 * SECOND)));
    assert!(miss.is_stored());
    assert_eq!(miss.waited(), None);
    let entry = first.cache().scope(async { course_entry(1, 2).key().digest() }).await;
    assert_eq!(miss.digest(), Some(entry));
    assert_eq!(format!("{miss:?}").matches("key").count(), 0, "{miss:?}");

    first.advance(60 * SECOND);
    let local = first.run(outcome_of(course(&upstream, 1, 2))).await;
    assert_outcome(&local, CallResult::Hit, Some(Tier::Local));
    let (age, left) = (
        local.age().expect("the age is known"),
        local.time_left().expect("the time left is known"),
    );
    assert!((60 * SECOND..70 * SECOND).contains(&age), "{age:?}");
    assert!((530 * SECOND..540 * SECOND).contains(&left), "{left:?}");
    assert_eq!((local.fetch_time(), local.is_stored()), (None, false));
    assert_eq!(local.digest(), Some(entry));

    let second = first.another_process();
    let remote = second.run(outcome_of(course(&upstream, 1, 2))).await;
    assert_outcome(&remote, CallResult::Hit, Some(Tier::Remote));
    let left = remote.time_left().expect("memcached reports the time left");
    assert!((530 * SECOND..=540 * SECOND).contains(&left), "{left:?}");
    assert_eq!((remote.age(), remote.fetch_time()), (None, None));

    let request = RequestScope::new().run(async {
        course(&upstream, 1, 2).await.expect("the call succeeds");
        outcome_of(course(&upstream, 1, 2)).await
    });
    let again = second.run(request).await;
    assert_outcome(&again, CallResult::Hit, Some(Tier::Request));
    assert_eq!((again.age(), again.time_left()), (None, None));
    assert_eq!(again.digest(), Some(entry));
    assert_eq!(upstream.fetches(), 1);
}

#[tokio::test]
async fn answers_without_a_fresh_value_say_so() {
    let (upstream, test) = (Upstream::default(), TestCache::local());
    // `join!` polls the first call first, so the first call fetches.
    let ((_, leader), (_, follower)) = test
        .run(async {
            tokio::join!(
                with_outcome(course(&upstream, 3, 1)),
                with_outcome(course(&upstream, 3, 1))
            )
        })
        .await;
    assert_outcome(&leader.expect("the call ended"), CallResult::Miss, None);
    let follower = follower.expect("the call ended");
    assert_outcome(&follower, CallResult::Waited, None);
    assert!(follower.waited().is_some() && follower.fetch_time().is_none(), "{follower:?}");
    assert!(follower.time_left().is_some_and(|left| left > 590 * SECOND), "{follower:?}");

    test.run(rate(&upstream, 1)).await.expect("the call succeeds");
    upstream.fail();
    test.advance(11 * SECOND);
    let stale = test.run(outcome_of(rate(&upstream, 1))).await;
    assert_outcome(&stale, CallResult::Stale, Some(Tier::Local));
    assert_eq!(stale.time_left(), Some(Duration::ZERO));
    assert!(stale.fetch_time().is_some() && !stale.is_stored(), "{stale:?}");

    let failed = test.run(outcome_of(paused(&upstream, 1))).await;
    assert_outcome(&failed, CallResult::Miss, None);
    assert_eq!((failed.time_left(), failed.is_stored()), (None, false));
    let pause = test.run(outcome_of(paused(&upstream, 1))).await;
    assert_outcome(&pause, CallResult::Paused, None);
    assert_eq!((pause.time_left(), pause.fetch_time()), (None, None));

    upstream.recover();
    let fetches = upstream.fetches();
    let unstored = test.run(outcome_of(even(&upstream, 1))).await;
    assert_outcome(&unstored, CallResult::Miss, None);
    assert_eq!(unstored.is_stored(), (fetches + 1) % 2 == 0, "{unstored:?}");
    let other = test.run(outcome_of(even(&upstream, 2))).await;
    assert_ne!(unstored.is_stored(), other.is_stored(), "one of two numbers is even");

    let off = Cache::disabled().scope(outcome_of(course(&upstream, 1, 1))).await;
    assert_outcome(&off, CallResult::Bypassed, None);
    assert!(off.digest().is_none() && off.fetch_time().is_some(), "{off:?}");
    let none = test.run(with_outcome(async { 7 })).await;
    assert!(matches!(none, (7, None)), "{none:?}");
}

#[tokio::test]
async fn callers_that_share_a_failed_fetch_all_report_the_expired_value() {
    let (upstream, test) = (Upstream::default().taking_millis(50), TestCache::local());
    test.run(rate(&upstream, 9)).await.expect("the call succeeds");
    upstream.fail();
    test.advance(11 * SECOND);
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let upstream = upstream.clone();
        let call = async move {
            let request = RequestScope::new().run(async {
                let first = outcome_of(rate(&upstream, 9)).await;
                // The request has not kept the expired value, so the next call fetches again.
                (first, outcome_of(rate(&upstream, 9)).await)
            });
            request.await
        };
        calls.spawn(test.cache().clone().scope(call));
    }
    let outcomes = calls.join_all().await;
    for (first, second) in &outcomes {
        assert_outcome(first, CallResult::Stale, Some(Tier::Local));
        assert_outcome(second, CallResult::Stale, Some(Tier::Local));
        assert_eq!((first.time_left(), first.is_stored()), (Some(Duration::ZERO), false));
    }
    let fetched = outcomes.iter().filter(|(first, _)| first.fetch_time().is_some()).count();
    let waited = outcomes.iter().filter(|(first, _)| first.waited().is_some()).count();
    assert_eq!((fetched, waited), (1, 19), "the calls share one fetch");
    let stats = test.stats("outcome_rate");
    assert_eq!((stats.stale_answers, stats.waits, stats.misses), (40, 0, 1), "{stats:?}");
    assert_eq!(stats.calls(), 41, "{stats:?}");
}

#[tokio::test]
async fn an_expired_value_of_memcached_names_its_tier() {
    let (upstream, first) = (Upstream::default(), TestCache::new());
    first.run(rate(&upstream, 5)).await.expect("the call succeeds");
    upstream.fail();
    let second = first.another_process();
    first.advance(20 * SECOND);
    let stale = second.run(outcome_of(rate(&upstream, 5))).await;
    assert_outcome(&stale, CallResult::Stale, Some(Tier::Remote));
}

/// No tier takes a value with a ttl of zero, or a value whose entry was invalidated during the
/// fetch.
#[tokio::test]
async fn a_value_that_no_tier_takes_is_not_stored() {
    for (millis, day, is_stored) in
        [(0, 1, false), (500, 1, true), (9000, 1, true), (9000, 2, false)]
    {
        let test = TestCache::new();
        let outcome = test.run(outcome_of(brief(millis, day))).await;
        assert_outcome(&outcome, CallResult::Miss, None);
        let left = is_stored.then_some(Duration::from_millis(millis));
        assert_eq!((outcome.is_stored(), outcome.time_left()), (is_stored, left), "{outcome:?}");
        let found = test.run(async { brief_entry(millis, day).get().await.is_found() }).await;
        assert_eq!(found, is_stored, "{outcome:?}");
    }
}

#[tokio::test]
async fn an_inner_call_has_its_own_outcome() {
    let (upstream, test) = (Upstream::default(), TestCache::local());
    let ((_, outer), all) = test.run(with_outcomes(with_outcome(page(&upstream, 1)))).await;
    assert_eq!(outer.expect("the call ended").name(), "outcome_page");
    let names: Vec<_> = all.iter().map(Outcome::name).collect();
    assert_eq!(
        names,
        ["outcome_page", "outcome_course"],
        "the outcomes are in the order in which the calls began"
    );

    // While the cache is off, too, the outcome describes the outer call, and not the call in its
    // body.
    let off = Cache::disabled();
    let outer = off.scope(outcome_of(page(&upstream, 1))).await;
    assert_eq!((outer.name(), outer.result()), ("outcome_page", CallResult::Bypassed));

    let ((_, second), all) = test
        .run(with_outcomes(async {
            course(&upstream, 2, 1).await.expect("the call succeeds");
            with_outcome(course(&upstream, 2, 1)).await
        }))
        .await;
    assert_outcome(&second.expect("the call ended"), CallResult::Hit, Some(Tier::Local));
    assert_eq!(all.calls(), 2, "an outer recorder also records the inner calls");
}

#[tokio::test]
async fn outcomes_leave_out_background_refreshes() {
    let (upstream, test) = (Upstream::default(), TestCache::local());
    test.run(refreshed(upstream.clone())).await.expect("the call succeeds");
    test.advance(570 * SECOND);
    let (_, all) = test.run(with_outcomes(refreshed(upstream.clone()))).await;
    while test.stats("outcome_refreshed").refreshes == 0 || upstream.fetches() < 2 {
        yield_now().await;
    }
    assert_eq!(all.to_string(), "1 call: 1 local hit");
    let hit = test.run(outcome_of(refreshed(upstream.clone()))).await;
    assert_outcome(&hit, CallResult::Hit, Some(Tier::Local));
}

/// Makes each kind of call that a request makes, and returns the values.
async fn scenario(upstream: &Upstream) -> Vec<Result<usize, UpstreamDown>> {
    let mut values = Vec::new();
    for id in [1, 2, 1, 3, 1] {
        values.push(course(upstream, id, 9).await);
    }
    course_entry(1, 9).invalidate().await.expect("no server can fail");
    values.push(course(upstream, 1, 9).await);
    let (a, b) = tokio::join!(course(upstream, 4, 9), course(upstream, 4, 9));
    values.extend([a, b, page(upstream, 9).await, page(upstream, 9).await]);
    let cache = Cache::current();
    let (task, spawned) = (upstream.clone(), upstream.clone());
    let task = tokio::spawn(in_scope(async move { course(&task, 5, 9).await }));
    values.push(task.await.expect("no task panics"));
    values.push(course(upstream, 5, 9).await);
    let task = cache.spawn(async move { course(&spawned, 1, 9).await });
    values.push(task.await.expect("no task panics"));
    values
}

/// The answers and the counters are the same with and without a recorder (`with_outcome` or
/// `with_outcomes`). This holds inside and outside of a request.
#[tokio::test]
async fn a_recorder_changes_no_answer() {
    for in_request in [false, true] {
        let mut runs = Vec::new();
        for levels in 0..3 {
            let (upstream, cache) = (Upstream::default(), local_cache().await);
            let recorded = async {
                match levels {
                    0 => scenario(&upstream).await,
                    1 => with_outcomes(scenario(&upstream)).await.0,
                    _ => with_outcomes(with_outcome(scenario(&upstream))).await.0.0,
                }
            };
            let values = match in_request {
                true => cache.scope(RequestScope::new().run(recorded)).await,
                false => cache.scope(recorded).await,
            };
            let stats = cache.stats();
            runs.push((values, stats.get("outcome_course"), stats.get("outcome_page")));
        }
        assert_eq!(runs[0], runs[1], "in a request: {in_request}");
        assert_eq!(runs[0], runs[2], "in a request: {in_request}");
        let hits = runs[0].1.expect("the function was called").request_hits;
        assert_eq!(hits > 0, in_request, "the request tier has {hits} hits");
    }
}

#[tokio::test]
async fn a_recording_changes_no_answer_of_a_request() {
    let (upstream, cache) = (Upstream::default(), local_cache().await);
    let other = || {
        let (upstream, cache) = (upstream.clone(), cache.clone());
        async move {
            cache
                .scope(async { course_entry(1, 1).invalidate().await })
                .await
                .expect("no server can fail");
            cache.scope(course(&upstream, 1, 1)).await.expect("the call succeeds")
        }
    };
    let request = RequestScope::new().run(async {
        let mut seen = vec![course(&upstream, 1, 1).await.expect("the call succeeds")];
        tokio::spawn(other()).await.expect("no task panics");
        let (value, outcome) = with_outcome(course(&upstream, 1, 1)).await;
        seen.push(value.expect("the call succeeds"));
        assert_outcome(&outcome.expect("the call ended"), CallResult::Hit, Some(Tier::Request));
        seen.push(course(&upstream, 1, 1).await.expect("the call succeeds"));
        // The request makes its first call for this key inside `with_outcome`.
        let recorded = with_outcome(course(&upstream, 2, 1)).await.0.expect("the call succeeds");
        course_entry(3, 1).invalidate().await.expect("no server can fail");
        let (again, outcome) = with_outcome(course(&upstream, 2, 1)).await;
        assert_eq!(again, Ok(recorded));
        assert_outcome(&outcome.expect("the call ended"), CallResult::Hit, Some(Tier::Request));
        assert_eq!(course(&upstream, 2, 1).await, Ok(recorded));
        seen
    });
    let seen = cache.scope(request).await;
    assert_eq!(seen, [1, 1, 1]);
    let stats = cache.stats().get("outcome_course").expect("the function was called");
    assert_eq!(stats.request_hits, 4);
}

#[tokio::test]
async fn a_carried_future_joins_its_pollers_request() {
    let (upstream, cache) = (Upstream::default(), local_cache().await);
    let (_, all) = cache
        .scope(with_outcomes(async {
            let carried = in_scope(course(&upstream, 1, 1));
            RequestScope::new()
                .run(async {
                    carried.await.expect("the call succeeds");
                    course(&upstream, 1, 1).await
                })
                .await
        }))
        .await;
    assert_eq!(all.to_string(), "2 calls: 1 request hit, 1 miss", "each call is recorded once");
}

#[tokio::test]
async fn tasks_are_recorded_where_they_are_carried() {
    let (upstream, cache) = (Upstream::default(), local_cache().await);
    let calls = |id: u32| {
        let upstream = upstream.clone();
        async move { course(&upstream, id, 1).await }
    };
    let current = cache.clone();
    let recorded = with_outcomes(async move {
        let outside = current.scope(calls(3));
        tokio::spawn(in_scope(calls(1))).await.expect("no task panics").expect("up");
        current.spawn(calls(2)).await.expect("no task panics").expect("up");
        tokio::spawn(async { tokio::spawn(outside).await }).await.expect("no task panics")
    });
    let (_, all) = cache.scope(recorded).await;
    assert_eq!(all.to_string(), "2 calls: 2 misses");
    assert!(outcomes().is_none());
}

#[tokio::test]
async fn a_cancelled_call_has_no_outcome() {
    let test = TestCache::local();
    let (_, all) = test
        .run(with_outcomes(async {
            tokio::select! {
                biased;
                _ = endless(1) => unreachable!("the call never ends"),
                () = yield_now() => {}
            }
            let (_, outcome) = with_outcome(async {
                tokio::select! {
                    biased;
                    _ = endless(1) => unreachable!("the call never ends"),
                    value = endless(2) => value,
                }
            })
            .await;
            let outcome = outcome.expect("the second call ended");
            assert_outcome(&outcome, CallResult::Miss, None);
        }))
        .await;
    assert_eq!(all.calls(), 1);
    {
        let mut dropped = pin!(test.cache().scope(with_outcome(endless(1))));
        assert!(poll_once(dropped.as_mut()).await.is_none());
    }
    assert!(outcomes().is_none());
    let after = test.run(outcome_of(endless(3))).await;
    assert_outcome(&after, CallResult::Miss, None);
}

#[tokio::test]
async fn many_calls_keep_few_outcomes_and_all_sums() {
    let (upstream, cache) = (Upstream::default(), local_cache().await);
    let request = with_outcomes(RequestScope::new().run(async {
        for number in 0..10_000 {
            course(&upstream, number % 100, 1).await.expect("the call succeeds");
        }
        outcomes().expect("the request is recorded")
    }));
    let (inside, all) = cache.scope(request).await;
    for outcomes in [inside, all] {
        assert_eq!(outcomes.to_string(), "10000 calls: 9900 request hits, 100 misses");
        assert_eq!(outcomes.iter().count(), 64);
        assert_eq!(outcomes.stored(), 100);
        assert_eq!(outcomes.least_time_left(), Some(600 * SECOND));
    }
}

#[tokio::test]
async fn forced_misses_are_marked() {
    let (upstream, cache) = (Upstream::default(), local_cache().await);
    cache.scope(course(&upstream, 1, 1)).await.expect("the call succeeds");
    let request = RequestScope::new().force_miss(true).run(with_outcomes(async {
        course(&upstream, 1, 1).await?;
        course(&upstream, 1, 1).await
    }));
    let (_, all) = cache.scope(request).await;
    assert_eq!(all.to_string(), "2 calls: 1 request hit, 1 miss");
    assert_eq!(all.forced(), 1);
    assert_eq!(all.stored(), 0, "a write-once entry stays as it is");
}

/// Asserts that the recorded outcomes and the counters agree.
#[track_caller]
fn assert_agree(all: &Outcomes, stats: DeclarationStats) {
    let recorded = [
        all.hits(Tier::Request),
        all.hits(Tier::Local),
        all.hits(Tier::Remote),
        all.count(CallResult::Miss),
        all.count(CallResult::Waited),
        all.count(CallResult::Stale),
        all.count(CallResult::Paused),
        all.count(CallResult::Bypassed),
    ];
    let counted = [
        stats.request_hits,
        stats.local_hits,
        stats.remote_hits,
        stats.misses,
        stats.waits,
        stats.stale_answers,
        stats.paused_answers,
        stats.bypassed,
    ];
    assert_eq!(recorded, counted, "{all}; {stats:?}");
}

/// A price that rises with each fetch.
#[coordinator_cached(
    name = "outcome_price",
    overwrite(reason = "a price rises all the time"),
    skip(price),
    entry = price_entry
)]
async fn price(price: &Arc<AtomicU64>, item: u64) -> Result<u64, std::io::Error> {
    let _ = item;
    yield_now().await;
    Ok(price.fetch_add(1, Ordering::SeqCst))
}

/// Many tasks of many requests call a function at the same time, and entries change meanwhile.
/// Every call is recorded once, and the outcomes agree with the counters.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn outcomes_and_counters_agree_under_load() {
    const ITEMS: u64 = 8;
    let (source, cache) = (Arc::new(AtomicU64::new(0)), local_cache().await);
    let fan_out = |source: Arc<AtomicU64>| async move {
        let mut tasks = JoinSet::new();
        for task in 0..8 {
            let source = Arc::clone(&source);
            tasks.spawn(in_scope(async move {
                let mut seen = Vec::new();
                for step in 0..ITEMS * 2 {
                    let item = (step + task) % ITEMS;
                    seen.push((item, price(&source, item).await.expect("the call succeeds")));
                }
                seen
            }));
        }
        if source.load(Ordering::SeqCst).is_multiple_of(2) {
            price_entry(source.load(Ordering::SeqCst) % ITEMS).invalidate().await.expect("local");
        }
        tasks.join_all().await.concat()
    };
    let mut requests = JoinSet::new();
    for _ in 0..40 {
        let (work, cache) = (fan_out(Arc::clone(&source)), cache.clone());
        requests.spawn(async move {
            let request = RequestScope::new().run(with_outcomes(work));
            cache.scope(with_outcomes(request)).await
        });
    }
    let mut calls = 0;
    let mut totals = [0; 4];
    for ((seen, inner), outer) in requests.join_all().await {
        assert_eq!(inner.to_string(), outer.to_string());
        assert_eq!(inner.calls(), seen.len() as u64);
        calls += inner.calls();
        let counts = [
            inner.hits(Tier::Request),
            inner.hits(Tier::Local),
            inner.count(CallResult::Miss),
            inner.count(CallResult::Waited),
        ];
        totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
    }
    let stats = cache.stats().get("outcome_price").expect("the function was called");
    assert_eq!(totals, [stats.request_hits, stats.local_hits, stats.misses, stats.waits]);
    assert_eq!(totals.iter().sum::<u64>(), calls, "{stats:?}");
    assert_eq!(stats.fetches, source.load(Ordering::SeqCst));
    assert!(totals.iter().all(|total| *total > 0), "each result was played: {totals:?}");
}

#[tokio::test]
async fn outcomes_and_counters_agree_for_each_result() {
    let (upstream, test) = (Upstream::default(), TestCache::local());
    let (_, all) = test
        .run(with_outcomes(async {
            let _ = rate(&upstream, 7).await;
            let _ = rate(&upstream, 7).await;
            test.advance(11 * SECOND);
            upstream.fail();
            let _ = rate(&upstream, 7).await;
            let _ = RequestScope::new().run(rate(&upstream, 8)).await;
        }))
        .await;
    assert_eq!(all.to_string(), "4 calls: 1 local hit, 2 misses, 1 stale");
    assert_agree(&all, test.stats("outcome_rate"));
    let (_, all) = test
        .run(with_outcomes(async {
            let _ = paused(&upstream, 7).await;
            let _ = paused(&upstream, 7).await;
        }))
        .await;
    assert_eq!(all.to_string(), "2 calls: 1 miss, 1 paused");
    assert_agree(&all, test.stats("outcome_paused"));
}

/// An entry that was added during the fetch stays, so no tier has the fetched value.
#[tokio::test]
async fn a_fetch_beside_an_add_is_not_stored() {
    for test in [TestCache::local(), TestCache::new()] {
        let upstream = Upstream::default().taking_millis(20);
        let both = async {
            let add = async {
                yield_now().await;
                course_entry(5, 1).add(77).await
            };
            tokio::join!(with_outcome(course(&upstream, 5, 1)), add)
        };
        let ((answer, outcome), added) = test.run(both).await;
        assert_eq!((answer, added), (Ok(1), true));
        let outcome = outcome.expect("the call has an answer");
        assert_outcome(&outcome, CallResult::Miss, None);
        assert!(!outcome.is_stored() && outcome.time_left().is_none(), "{outcome:?}");
        assert_eq!(test.run(course(&upstream, 5, 1)).await, Ok(77));
    }
}
