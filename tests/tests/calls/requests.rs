//! Tests the request tier, which remembers every answer until the request ends. Within one request,
//! all calls with the same key get the same answer.

use cached_core::RequestScope;
use cached_tests::Upstream;

use crate::functions::{PaymentState, local_cache, payment, profile};
use crate::single_flight::unshared;
use crate::type_arguments::named;

#[tokio::test]
async fn within_a_request_a_key_has_one_answer() {
    let upstream = Upstream::default();
    let cache = local_cache().await;
    cache
        .scope(async {
            RequestScope::new()
                .run(async {
                    let first = profile(&upstream, 7).await;
                    // A second request replaces the entry, but the first one keeps the old answer.
                    let other =
                        RequestScope::new().force_miss(true).run(profile(&upstream, 7)).await;
                    assert_ne!(first, other);
                    assert_eq!(profile(&upstream, 7).await, first);
                })
                .await;
            assert_eq!(
                profile(&upstream, 7).await.as_deref(),
                Ok("user 7, fetch 2"),
                "the forced miss replaces the entry"
            );
            RequestScope::new()
                .force_miss(true)
                .run(async {
                    let first = payment(&upstream, "7", PaymentState::Paid).await;
                    assert_eq!(
                        payment(&upstream, "7", PaymentState::Paid).await,
                        first,
                        "the request answers before the forced miss"
                    );
                    let again = RequestScope::new()
                        .force_miss(true)
                        .run(payment(&upstream, "7", PaymentState::Paid))
                        .await;
                    assert_ne!(again, first);
                })
                .await;
            let kept = payment(&upstream, "7", PaymentState::Paid)
                .await
                .expect("the call succeeds")
                .fetched;
            assert_eq!(kept, 3, "a write-once entry is not replaced");
        })
        .await;
    assert!(cache.stats().get("payment").expect("the function was called").request_hits > 0);
}

/// Keys that differ only in their type arguments have the same hash, so the request tier must
/// compare the keys.
#[tokio::test]
async fn requests_tell_type_arguments_apart() {
    let upstream = Upstream::default();
    let cache = local_cache().await;
    let call_all = async |expected: usize| {
        for _ in 0..2 {
            assert_eq!(named::<u8>(&upstream, 7).await, Ok(("u8".into(), 7)));
            assert_eq!(named::<u16>(&upstream, 7).await, Ok(("u16".into(), 7)));
        }
        assert_eq!(upstream.fetches(), expected);
    };
    cache.scope(RequestScope::new().run(call_all(2))).await;
    cache.scope(RequestScope::new().run(call_all(2))).await;
    cache.scope(RequestScope::new().force_miss(true).run(call_all(4))).await;
}

#[tokio::test]
async fn a_request_forgets_answers_of_dropped_caches() {
    let upstream = Upstream::default();
    RequestScope::new()
        .run(async {
            for count in 1..=50 {
                let cache = local_cache().await;
                let answer = cache.scope(payment(&upstream, "7", PaymentState::Paid)).await;
                assert_eq!(answer.expect("the call succeeds").fetched, count);
                drop(cache);
            }
        })
        .await;
}

/// The second call waits for the first. The first fails, so the second does the fetch.
#[tokio::test]
async fn a_request_keeps_a_waiting_calls_answer() {
    let upstream = Upstream::default().taking_millis(20);
    upstream.fail();
    let working = Upstream::default().taking_millis(20);
    local_cache()
        .await
        .scope(RequestScope::new().run(async {
            let (failed, fetched) = tokio::join!(unshared(&upstream, 7), unshared(&working, 7));
            assert!(failed.is_err());
            assert_eq!(fetched.ok(), Some(7));
            assert_eq!(unshared(&working, 7).await.ok(), Some(7));
            assert_eq!(working.fetches(), 1, "the request keeps the answer");
        }))
        .await;
}
