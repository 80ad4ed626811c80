//! Tests that absent values are not cached. A `None` is absent, and so is an `Err` that a function
//! with the option `infallible` returns.
//!
//! The Rust type of a value decides whether the value is absent. Its serialized form does not
//! matter.

use std::sync::Arc;

use cached_core::{Finding, coordinator_cached};
use cached_tests::{Upstream, UpstreamDown};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::functions::local_cache;

/// A type that serializes like an `Option` but is not an `Option`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct NullableNote(Option<String>);

/// A type that serializes like `std::result::Result` but is not that type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Result<T, E> {
    Ok(T),
    Err(E),
}

type FetchResult<T> = std::result::Result<T, UpstreamDown>;

#[coordinator_cached(name = "note", version = number, skip(upstream))]
async fn note(upstream: &Upstream, number: u32) -> FetchResult<NullableNote> {
    upstream.fetch().await.map(|_| NullableNote(None))
}

#[coordinator_cached(name = "whole_note", version = number, skip(upstream), infallible)]
async fn whole_note(upstream: &Upstream, number: u32) -> NullableNote {
    let _ = upstream.fetch().await;
    NullableNote(None)
}

#[coordinator_cached(name = "game", version = number, skip(upstream))]
async fn game(upstream: &Upstream, number: u32) -> FetchResult<Result<u8, u8>> {
    upstream.fetch().await.map(|_| Result::Err(1))
}

#[coordinator_cached(name = "whole_game", version = number, skip(upstream), infallible)]
async fn whole_game(upstream: &Upstream, number: u32) -> Result<u8, u8> {
    let _ = upstream.fetch().await;
    Result::Err(1)
}

#[coordinator_cached(name = "shared_note", version = number, skip(upstream))]
async fn shared_note(upstream: &Upstream, number: u32) -> FetchResult<Arc<NullableNote>> {
    upstream.fetch().await.map(|_| Arc::new(NullableNote(None)))
}

#[tokio::test]
async fn values_serialized_like_none_or_err_are_cached() {
    let upstream = Upstream::default();
    local_cache()
        .await
        .scope(async {
            for _ in 0..2 {
                assert_eq!(note(&upstream, 1).await, Ok(NullableNote(None)));
                assert_eq!(whole_note(&upstream, 1).await, NullableNote(None));
                assert_eq!(game(&upstream, 1).await, Ok(Result::Err(1)));
                assert_eq!(whole_game(&upstream, 1).await, Result::Err(1));
                assert_eq!(shared_note(&upstream, 1).await, Ok(Arc::new(NullableNote(None))));
            }
        })
        .await;
    assert_eq!(upstream.fetches(), 5);
}

/// An alias of `Option`. The attribute sees only the alias's name, which does not show that the
/// type is an `Option`.
type OptionAlias<T> = Option<T>;

#[coordinator_cached(name = "hidden_none", version = number, skip(upstream))]
async fn hidden(upstream: &Upstream, number: u32) -> FetchResult<OptionAlias<u8>> {
    upstream.fetch().await.map(|_| None)
}

#[coordinator_cached(name = "generic_none", version = number, skip(upstream))]
async fn generic<T>(upstream: &Upstream, number: u32) -> FetchResult<T>
where
    T: Default + Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    upstream.fetch().await.map(|_| T::default())
}

#[coordinator_cached(name = "generic_err", version = number, skip(upstream), infallible)]
async fn generic_whole<T>(upstream: &Upstream, number: u32, value: T) -> T
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    let _ = upstream.fetch().await;
    value
}

#[tokio::test]
async fn a_none_is_uncached_under_any_type_name() {
    let upstream = Upstream::default();
    local_cache()
        .await
        .scope(async {
            for _ in 0..2 {
                assert_eq!(hidden(&upstream, 1).await, Ok(None));
                assert_eq!(generic::<Option<Option<u8>>>(&upstream, 1).await, Ok(None));
                let failed: std::result::Result<u8, u8> = Err(1);
                assert_eq!(generic_whole(&upstream, 1, failed).await, Err(1));
            }
            assert_eq!(upstream.fetches(), 6);
            for _ in 0..2 {
                assert_eq!(generic::<u8>(&upstream, 1).await, Ok(0));
                let present: std::result::Result<Option<u8>, u8> = Ok(None);
                assert_eq!(generic_whole(&upstream, 1, present).await, Ok(None));
                assert_eq!(generic_whole(&upstream, 1, Some(Some(2))).await, Some(Some(2)));
            }
            assert_eq!(upstream.fetches(), 9);
        })
        .await;
}

#[coordinator_cached(name = "never_none", version = number, skip(upstream), none_ttl = "30s")]
async fn never_none(upstream: &Upstream, number: u32) -> FetchResult<u8> {
    upstream.fetch().await.map(|_| 1)
}

#[coordinator_cached(name = "always_none", version = number, skip(upstream), none_ttl = "30s")]
async fn always_none(upstream: &Upstream, number: u32) -> FetchResult<Option<u8>> {
    upstream.fetch().await.map(|_| None)
}

#[tokio::test]
async fn none_ttl_without_an_option_is_a_finding() {
    let upstream = Upstream::default();
    local_cache()
        .await
        .scope(async {
            assert_eq!(never_none(&upstream, 1).await, Ok(1));
            assert_eq!(always_none(&upstream, 1).await, Ok(None));
        })
        .await;
    let findings: Vec<Finding> = cached_core::ledger().audit();
    // The audit covers functions of other test modules too, and reports other problems of theirs.
    let findings = findings.iter().filter(|finding| matches!(finding, Finding::NeverNone { .. }));
    let findings: Vec<String> = findings.map(ToString::to_string).collect();
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    for part in ["`never_none`", "absent_values.rs:", "`none_ttl`", "`u8`", "`Option`"] {
        assert!(finding.contains(part), "the finding contains {part}: {finding}");
    }
}
