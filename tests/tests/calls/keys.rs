//! Tests with unusual keys and values:
//!
//! - keys whose `Serialize` fails
//! - keys and values whose `Serialize`, `Clone` or `Drop` calls a cached function
//! - keys with a `HashSet`, whose elements have no stable order

use std::cell::Cell;
use std::collections::{BTreeSet, HashSet};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};

use cached_core::event::{Event, Observer};
use cached_core::{Cache, Finding, RequestScope, coordinator_cached};
use cached_tests::{Upstream, UpstreamDown, collect_logs, logged};
use log::Level;
use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize};

use crate::functions::local_cache;

type FetchResult<T> = Result<T, UpstreamDown>;

/// A key whose `Serialize` fails the first time and succeeds afterwards.
struct KeyFailingOnce(AtomicBool);

impl Serialize for KeyFailingOnce {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.swap(true, Ordering::Relaxed) {
            false => Err(serde::ser::Error::custom("not now")),
            true => serializer.serialize_u8(1),
        }
    }
}

#[coordinator_cached(name = "secret", version = key)]
async fn secret(key: KeyFailingOnce) -> FetchResult<String> {
    Ok("secret".into())
}

#[coordinator_cached(name = "price_key", version = key)]
async fn price(key: KeyFailingOnce) -> FetchResult<String> {
    Ok("price".into())
}

#[tokio::test]
async fn unserializable_keys_of_two_functions_stay_apart() {
    let key = || KeyFailingOnce(AtomicBool::new(false));
    let calls = async {
        assert_eq!(secret(key()).await, Ok("secret".into()));
        assert_eq!(price(key()).await, Ok("price".into()));
    };
    local_cache().await.scope(RequestScope::new().run(calls)).await;
}

/// A key whose `Serialize` panics if the serializer returns an error.
struct RowsPanickingOnError(Vec<Vec<u8>>);

impl Serialize for RowsPanickingOnError {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(None)?;
        self.0
            .iter()
            .for_each(|row| rows.serialize_element(row).expect("the serializer takes every row"));
        rows.end()
    }
}

#[coordinator_cached(name = "rows", version = rows)]
async fn count_of(rows: RowsPanickingOnError) -> FetchResult<usize> {
    Ok(rows.0.len())
}

#[tokio::test]
async fn comparing_keys_causes_no_serializer_errors() {
    let calls = async {
        for rows in [vec![vec![1, 2], vec![3]], vec![vec![1], vec![2, 3], vec![]], vec![vec![1]]] {
            let count = rows.len();
            assert_eq!(count_of(RowsPanickingOnError(rows)).await, Ok(count));
        }
    };
    local_cache().await.scope(RequestScope::new().run(calls)).await;
}

/// A type for keys and values that calls a cached function whenever it is serialized, cloned or
/// dropped. These calls use a cache and a request scope of their own.
#[derive(PartialEq, Debug, Deserialize)]
struct ReentrantValue;

impl ReentrantValue {
    fn call() {
        static OTHER: OnceLock<Cache> = OnceLock::new();
        let other =
            OTHER.get_or_init(|| ready(Cache::builder().build()).expect("the settings are valid"));
        let call = RequestScope::new().run(count_of(RowsPanickingOnError(vec![])));
        assert_eq!(ready(other.scope(call)), Ok(0));
        REENTERED.set(REENTERED.get() + 1);
    }
}

/// Returns the output of a future that is ready at its first poll.
fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("the future is pending"),
    }
}

thread_local! {
    static REENTERED: Cell<usize> = const { Cell::new(0) };
}

impl Serialize for ReentrantValue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ReentrantValue::call();
        serializer.serialize_unit_struct("ReentrantValue")
    }
}

impl Clone for ReentrantValue {
    fn clone(&self) -> ReentrantValue {
        ReentrantValue::call();
        ReentrantValue
    }
}

impl Drop for ReentrantValue {
    fn drop(&mut self) {
        ReentrantValue::call();
    }
}

#[coordinator_cached(name = "reentrant", version = key, skip(upstream))]
async fn reentrant(
    upstream: &Upstream,
    key: &ReentrantValue,
    number: u32,
) -> FetchResult<(ReentrantValue, u32)> {
    upstream.fetch().await?;
    Ok((ReentrantValue, number))
}

#[tokio::test]
async fn keys_and_values_may_call_the_cache_themselves() {
    let upstream = Upstream::default();
    // The capacity is so small that most values are evicted and dropped.
    let cache =
        Cache::builder().local_capacity(4 << 10).build().await.expect("the settings are valid");
    let call_all = async || {
        for number in [1, 1, 2, 1, 2, 1].into_iter().chain(3..400) {
            let answer =
                reentrant(&upstream, &ReentrantValue, number).await.expect("the call succeeds");
            assert_eq!(answer.1, number);
        }
    };
    cache.scope(call_all()).await;
    cache.scope(RequestScope::new().run(call_all())).await;
    RequestScope::new().run(cache.scope(call_all())).await;
    assert!(upstream.fetches() >= 800, "most values are fetched again: {}", upstream.fetches());
    assert!(REENTERED.get() > 5_000, "many calls come from values: {}", REENTERED.get());
}

#[derive(Serialize)]
struct Filter {
    region: String,
    tags: HashSet<u32>,
}

#[coordinator_cached(name = "hidden_set", version = edition, skip(upstream), entry = hidden_set_entry)]
async fn hidden_set(upstream: &Upstream, filter: Filter, edition: u8) -> FetchResult<usize> {
    upstream.fetch().await
}

#[coordinator_cached(
    name = "sorted_set",
    version = edition,
    identifier = tags.iter().collect::<BTreeSet<_>>(),
    skip(upstream)
)]
async fn sorted_set(upstream: &Upstream, tags: HashSet<u32>, edition: u8) -> FetchResult<usize> {
    upstream.fetch().await
}

/// Returns the audit's findings of one kind: the key of this cache contains a collection without a
/// stable order.
fn unordered_key_findings(cache_name: &str) -> Vec<String> {
    let findings = cached_core::ledger().audit();
    let is_unordered = |finding: &&Finding| matches!(finding, Finding::UnorderedKey { name, .. } if *name == cache_name);
    findings.iter().filter(is_unordered).map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_hash_set_inside_another_type_is_found() {
    collect_logs();
    let upstream = Upstream::default();
    let tags = || (0..64).collect::<HashSet<u32>>();
    let test = async {
        for _ in 0..8 {
            let filter = Filter { region: "eu".to_owned(), tags: tags() };
            hidden_set(&upstream, filter, 1).await.expect("the call succeeds");
        }
    };
    local_cache().await.scope(test).await;
    assert_eq!(upstream.fetches(), 8, "sets of 64 elements have different orders");
    let findings = unordered_key_findings("hidden_set");
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    assert!(finding.contains("HashSet<u32>`") && finding.contains("a `BTreeSet`"), "{finding}");
    assert_eq!(logged(Level::Warn, "`hidden_set`"), findings, "the function is logged once");

    let test = async {
        for _ in 0..8 {
            assert_eq!(sorted_set(&upstream, tags(), 1).await, Ok(9));
        }
    };
    local_cache().await.scope(test).await;
    assert!(unordered_key_findings("sorted_set").is_empty());
}

/// A card number whose `Serialize` always fails. The text of the error contains the number.
struct UnserializableCard(&'static str);

impl Serialize for UnserializableCard {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom(format!("{}\nis not a card number", self.0)))
    }
}

#[coordinator_cached(name = "card_key", version = card, entry = card_entry)]
async fn card(card: UnserializableCard) -> FetchResult<String> {
    Ok("card".into())
}

/// An observer of *bypasses*, that is, of calls that run the function without the cache. It
/// collects the `Debug` text of each event, and the `Display` text of each reason.
#[derive(Default)]
struct BypassTexts(Mutex<Vec<String>>);

impl Observer for BypassTexts {
    fn event(&self, event: &Event<'_>) {
        if let Event::Bypassed { reason, .. } = event {
            let mut texts = self.0.lock().expect("no thread panics while it holds the lock");
            texts.push(format!("{event:?} {reason}"));
        }
    }
}

#[tokio::test]
async fn a_key_error_shows_no_argument() {
    collect_logs();
    let texts = Arc::new(BypassTexts::default());
    let builder = Cache::builder().observer(Arc::clone(&texts) as Arc<dyn Observer>);
    let cache = builder.build().await.expect("the settings are valid");
    let error = cache
        .scope(async {
            for _ in 0..3 {
                assert_eq!(card(UnserializableCard("4111")).await, Ok("card".into()));
            }
            card_entry(UnserializableCard("4111")).invalidate().await
        })
        .await
        .expect_err("the key cannot be encoded");
    let source = std::error::Error::source(&error).expect("the error has a cause");
    assert_eq!(
        source.to_string(),
        "the key could not be encoded: 4111 is not a card number",
        "the caller sees the text, on one line"
    );
    let texts = texts.0.lock().expect("no thread panics while it holds the lock");
    assert!(texts.len() == 3 && !texts.iter().any(|text| text.contains("4111")), "{texts:?}");
    let lines = logged(Level::Warn, "`card_key`");
    assert!(lines.len() == 1 && !lines[0].contains("4111"), "one line for a function: {lines:?}");
}
