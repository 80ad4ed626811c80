//! These tests check which answers are cached, and for how long.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Upstream, UpstreamDown};
use serde::Serialize;

use crate::functions::{Payment, PaymentState, local_cache, payment, payment_entry, profile};

/// An alias of `Result`. The attribute `coordinator_cached` sees only the alias's name, so it
/// cannot tell that the type is a `Result`.
type ResultAlias<T> = Result<T, UpstreamDown>;

#[coordinator_cached(name = "aliased", version = number, skip(upstream))]
async fn aliased(upstream: &Upstream, number: u32) -> ResultAlias<u32> {
    upstream.fetch().await?;
    Ok(number)
}

#[coordinator_cached(name = "optional", version = number, skip(upstream))]
async fn optional(upstream: &Upstream, number: u32) -> Option<u32> {
    upstream.fetch().await.is_ok().then_some(number)
}

#[coordinator_cached(name = "optional_answer", version = number, skip(upstream))]
async fn optional_answer(upstream: &Upstream, number: u32) -> ResultAlias<Option<u32>> {
    Ok(upstream.fetch().await.is_ok().then_some(number))
}

#[tokio::test]
async fn equal_arguments_are_fetched_once_for_each_state() {
    let upstream = Upstream::default();
    local_cache()
        .await
        .scope(async {
            let first = payment(&upstream, "7", PaymentState::Processing).await;
            assert_eq!(payment(&upstream, "7", PaymentState::Processing).await, first);
            assert_eq!(upstream.fetches(), 1);
            let paid =
                payment(&upstream, "7", PaymentState::Paid).await.expect("the call succeeds");
            assert_eq!(paid.state, "Paid");
            assert_eq!(upstream.fetches(), 2);
            // The value for the first state is still cached.
            assert_eq!(payment(&upstream, "7", PaymentState::Processing).await, first);
            assert_eq!(payment(&upstream, "7", PaymentState::Paid).await.as_ref(), Ok(&paid));
            assert_eq!(
                payment(&upstream, "8", PaymentState::Paid)
                    .await
                    .expect("the call succeeds")
                    .number,
                "8"
            );
            assert_eq!(upstream.fetches(), 3);
        })
        .await;
}

#[tokio::test]
async fn errors_and_nones_are_not_cached() {
    let failing = Upstream::default();
    failing.fail();
    local_cache()
        .await
        .scope(async {
            for call in 1..=3 {
                assert_eq!(payment(&failing, "7", PaymentState::Paid).await, Err(UpstreamDown));
                assert_eq!(aliased(&failing, 7).await, Err(UpstreamDown));
                assert_eq!(optional(&failing, 7).await, None);
                assert_eq!(optional_answer(&failing, 7).await, Ok(None));
                assert_eq!(failing.fetches(), call * 4);
            }
            let working = Upstream::default();
            for _ in 0..3 {
                assert_eq!(aliased(&working, 7).await, Ok(7));
                assert_eq!(optional(&working, 7).await, Some(7));
                assert_eq!(optional_answer(&working, 7).await, Ok(Some(7)));
            }
            assert_eq!(working.fetches(), 3);
        })
        .await;
}

#[coordinator_cached(name = "short", version = number, ttl = "1s", skip(upstream))]
async fn short(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    let _ = number;
    upstream.fetch().await
}

#[tokio::test]
async fn an_entry_expires() {
    let upstream = Upstream::default();
    local_cache()
        .await
        .scope(async {
            assert_eq!(short(&upstream, 7).await, Ok(1));
            assert_eq!(short(&upstream, 7).await, Ok(1));
            tokio::time::sleep(Duration::from_millis(1100)).await;
            assert_eq!(short(&upstream, 7).await, Ok(2));
        })
        .await;
}

#[tokio::test]
async fn a_disabled_cache_fetches_every_time() {
    let upstream = Upstream::default();
    Cache::disabled()
        .scope(async {
            for call in 1..=3 {
                assert_eq!(
                    payment(&upstream, "7", PaymentState::Paid)
                        .await
                        .expect("the call succeeds")
                        .fetched,
                    call
                );
            }
            assert!(!payment_entry("7", PaymentState::Paid).get().await.is_found());
            assert!(
                !payment_entry("7", PaymentState::Paid)
                    .add(Payment { number: "7".into(), state: "Paid".into(), fetched: 0 })
                    .await
            );
            payment_entry("7", PaymentState::Paid).invalidate().await.expect("no server can fail");
        })
        .await;
}

#[test]
fn without_a_runtime_the_local_tier_answers() {
    let upstream = Upstream::default();
    let call = || {
        let mut call = pin!(profile(&upstream, 12345));
        let mut context = Context::from_waker(Waker::noop());
        match call.as_mut().poll(&mut context) {
            Poll::Ready(answer) => answer,
            Poll::Pending => panic!("the call is pending"),
        }
    };
    assert_eq!(call(), call());
    assert_eq!(upstream.fetches(), 1);
}

/// A key that panics when it is serialized.
struct PanickingKey;

impl Serialize for PanickingKey {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("the key is serialized")
    }
}

#[coordinator_cached(name = "keyed_by_panic", version = key)]
async fn keyed_by_panic(key: PanickingKey) -> ResultAlias<u8> {
    Ok(1)
}

#[tokio::test]
async fn a_disabled_cache_serializes_no_key() {
    assert_eq!(Cache::disabled().scope(keyed_by_panic(PanickingKey)).await, Ok(1));
}
