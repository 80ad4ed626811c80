//! Tests that a program can read, add, overwrite and invalidate single entries of the local tier,
//! the cache in the memory of this process.

use std::time::Duration;

use cached_core::Tier;
use cached_tests::Upstream;

use crate::functions::{
    Payment, PaymentState, local_cache, payment, payment_entry, profile, profile_entry,
};

#[tokio::test]
async fn an_entry_can_be_read_added_and_invalidated() {
    let upstream = Upstream::default();
    local_cache()
        .await
        .scope(async {
            let entry = payment_entry("7", PaymentState::Paid);
            assert!(!entry.get().await.is_found());
            let added = Payment { number: "7".into(), state: "Paid".into(), fetched: 0 };
            assert!(entry.add(added.clone()).await);
            let second = Payment { fetched: 9, ..added.clone() };
            assert!(!entry.add(second).await, "the first value is kept");
            assert_eq!(payment(&upstream, "7", PaymentState::Paid).await, Ok(added.clone()));
            let found = entry.get().await;
            assert_eq!(found.tier(), Some(Tier::Local));
            assert_eq!(found.into_option(), Some(added));
            entry.invalidate().await.expect("no server can fail");
            assert!(!entry.get().await.is_found());
            assert_eq!(
                payment(&upstream, "7", PaymentState::Paid)
                    .await
                    .expect("the call succeeds")
                    .fetched,
                1
            );
            let key = entry.key().to_string();
            assert_eq!(key, format!("payment:{}", entry.key().digest()));
            assert_eq!(key.len(), "payment:".len() + 64);
        })
        .await;
}

#[tokio::test]
async fn a_running_fetch_does_not_undo_an_overwrite() {
    let upstream = Upstream::default().taking_millis(300);
    local_cache()
        .await
        .scope(async {
            let fetch = profile(&upstream, 7);
            let write = async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                profile_entry(7).overwrite("new".into()).await.expect("no server can fail");
            };
            let (fetched, ()) = tokio::join!(fetch, write);
            assert_eq!(fetched.as_deref(), Ok("user 7, fetch 1"));
            assert_eq!(profile(&upstream, 7).await.as_deref(), Ok("new"));
        })
        .await;
}

#[tokio::test]
async fn callers_after_an_invalidation_fetch_again() {
    let upstream = Upstream::default().taking_millis(300);
    local_cache()
        .await
        .scope(async {
            let fetch = payment(&upstream, "7", PaymentState::Paid);
            let invalidate = async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                payment_entry("7", PaymentState::Paid)
                    .invalidate()
                    .await
                    .expect("no server can fail");
                payment(&upstream, "7", PaymentState::Paid)
                    .await
                    .expect("the call succeeds")
                    .fetched
            };
            let (earlier, later) = tokio::join!(fetch, invalidate);
            assert_eq!((earlier.expect("the call succeeds").fetched, later), (1, 2));
            assert_eq!(
                payment(&upstream, "7", PaymentState::Paid)
                    .await
                    .expect("the call succeeds")
                    .fetched,
                2
            );
        })
        .await;
}
