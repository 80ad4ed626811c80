//! Keys and values whose `Serialize`, `Clone` or `Drop` fails or calls a cached function.

use std::cell::Cell;
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use cached_core::{Cache, RequestScope, coordinator_cached};
use cached_tests::{Upstream, UpstreamDown};
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
struct StrictRows(Vec<Vec<u8>>);

impl Serialize for StrictRows {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(None)?;
        self.0
            .iter()
            .for_each(|row| rows.serialize_element(row).expect("the serializer takes every row"));
        rows.end()
    }
}

#[coordinator_cached(name = "rows", version = rows)]
async fn count_of(rows: StrictRows) -> FetchResult<usize> {
    Ok(rows.0.len())
}

#[tokio::test]
async fn comparing_keys_causes_no_serializer_errors() {
    let calls = async {
        for rows in [vec![vec![1, 2], vec![3]], vec![vec![1], vec![2, 3], vec![]], vec![vec![1]]] {
            let count = rows.len();
            assert_eq!(count_of(StrictRows(rows)).await, Ok(count));
        }
    };
    local_cache().await.scope(RequestScope::new().run(calls)).await;
}

/// A key and value that calls a cached function whenever it is serialized, cloned or dropped. Each
/// such call uses another cache and its own request.
#[derive(PartialEq, Debug, Deserialize)]
struct ReentrantValue;

impl ReentrantValue {
    fn call() {
        static OTHER: OnceLock<Cache> = OnceLock::new();
        let other =
            OTHER.get_or_init(|| ready(Cache::builder().build()).expect("the settings are valid"));
        let call = RequestScope::new().run(count_of(StrictRows(vec![])));
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
