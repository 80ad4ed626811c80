//! Keys and values whose own code fails, panics, or calls a cached function itself.

use std::cell::Cell;
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use cached_core::{Cache, RequestScope, coordinator_cached};
use cached_tests::{Down, Upstream};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize};

use crate::functions::local;

type Answer<T> = Result<T, Down>;

/// A key whose `Serialize` fails once, and goes well from then on.
struct FailsOnce(AtomicBool);

impl Serialize for FailsOnce {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.swap(true, Ordering::Relaxed) {
            false => Err(serde::ser::Error::custom("not now")),
            true => serializer.serialize_u8(1),
        }
    }
}

#[coordinator_cached(name = "secret", version = key)]
async fn secret(key: FailsOnce) -> Answer<String> {
    Ok("secret".into())
}

#[coordinator_cached(name = "price_key", version = key)]
async fn price(key: FailsOnce) -> Answer<String> {
    Ok("price".into())
}

#[tokio::test]
async fn a_key_that_is_written_only_at_times_is_no_other_functions_key() {
    let key = || FailsOnce(AtomicBool::new(false));
    let asked = async {
        assert_eq!(secret(key()).await, Ok("secret".into()));
        assert_eq!(price(key()).await, Ok("price".into()));
    };
    local().await.scope(RequestScope::new().run(asked)).await;
}

/// A key whose `Serialize` expects that nothing fails.
struct Rows(Vec<Vec<u8>>);

impl Serialize for Rows {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(None)?;
        self.0.iter().for_each(|row| rows.serialize_element(row).expect("it is written"));
        rows.end()
    }
}

#[coordinator_cached(name = "rows", version = rows)]
async fn count_of(rows: Rows) -> Answer<usize> {
    Ok(rows.0.len())
}

#[tokio::test]
async fn a_key_that_is_another_is_no_error_to_its_serialize() {
    let asked = async {
        for rows in [vec![vec![1, 2], vec![3]], vec![vec![1], vec![2, 3], vec![]], vec![vec![1]]] {
            let count = rows.len();
            assert_eq!(count_of(Rows(rows)).await, Ok(count));
        }
    };
    local().await.scope(RequestScope::new().run(asked)).await;
}

/// As a key and as a value it enters another cache and a request of its own wherever its code is run.
#[derive(PartialEq, Debug, Deserialize)]
struct Enters;

impl Enters {
    fn enter() {
        static OTHER: OnceLock<Cache> = OnceLock::new();
        let other = OTHER.get_or_init(|| at_once(Cache::builder().build()).expect("it fits"));
        let call = RequestScope::new().run(count_of(Rows(vec![])));
        assert_eq!(at_once(other.scope(call)), Ok(0));
        ENTERED.set(ENTERED.get() + 1);
    }
}

/// Of what waits for nobody.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("it waits"),
    }
}

thread_local! {
    static ENTERED: Cell<usize> = const { Cell::new(0) };
}

impl Serialize for Enters {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Enters::enter();
        serializer.serialize_unit_struct("Enters")
    }
}

impl Clone for Enters {
    fn clone(&self) -> Enters {
        Enters::enter();
        Enters
    }
}

impl Drop for Enters {
    fn drop(&mut self) {
        Enters::enter();
    }
}

#[coordinator_cached(name = "enters", version = key, skip(upstream))]
async fn enters(upstream: &Upstream, key: &Enters, number: u32) -> Answer<(Enters, u32)> {
    upstream.answer().await?;
    Ok((Enters, number))
}

#[tokio::test]
async fn a_key_and_a_value_may_enter_a_cache_and_a_request_wherever_they_are_used() {
    let upstream = Upstream::default();
    // So few fit in that most are dropped again.
    let cache = Cache::builder().local_capacity(4 << 10).build().await.expect("it fits");
    let ask = async || {
        for number in [1, 1, 2, 1, 2, 1].into_iter().chain(3..400) {
            let answer = enters(&upstream, &Enters, number).await.expect("fetched");
            assert_eq!(answer.1, number);
        }
    };
    cache.scope(ask()).await;
    cache.scope(RequestScope::new().run(ask())).await;
    RequestScope::new().run(cache.scope(ask())).await;
    assert!(upstream.fetches() >= 800, "most were fetched again: {}", upstream.fetches());
    assert!(ENTERED.get() > 5_000, "{}", ENTERED.get());
}
