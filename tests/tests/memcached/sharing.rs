//! Values that one process stores in memcached and another process reads.

use std::time::{Duration, Instant};

use cached_core::{Tier, coordinator_cached};
use cached_tests::{Memcached, Upstream, UpstreamDown};
use serde::{Deserialize, Serialize};

use crate::functions::{new_process_cache, payment, payment_entry};

#[tokio::test]
async fn processes_share_fetched_values() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default();
    let fetched = a.scope(payment(&upstream, "7", "paid")).await;
    a.flush().await;
    assert_eq!(b.scope(payment(&upstream, "7", "paid")).await, fetched);
    assert_eq!(b.scope(payment(&upstream, "7", "paid")).await, fetched);
    assert_eq!(upstream.fetches(), 1);
    let stats = b.stats().get("payment").expect("the function was called");
    assert_eq!((stats.remote_hits, stats.local_hits, stats.fetches), (1, 1, 0));
}

#[tokio::test]
async fn the_default_ttl_is_thirty_minutes() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    cache.scope(payment(&Upstream::default(), "7", "paid")).await.expect("the call succeeds");
    cache.flush().await;
    let key = cache.scope(async { payment_entry("7", "paid").key().to_string() }).await;
    assert!(key.starts_with("test:payment:"), "{key}");
    let remaining = memcached.remaining_ttl(&key).expect("the item is there");
    assert!((1799..=1800).contains(&remaining), "the ttl is 30 minutes: {remaining} s");
}

#[coordinator_cached(name = "three_seconds", version = number, ttl = "3s", skip(upstream), entry = brief_entry)]
async fn brief(upstream: &Upstream, number: u32) -> Result<usize, UpstreamDown> {
    let _ = number;
    upstream.fetch().await
}

/// Stores eight entries, one every 125 ms, because memcached rounds times to whole seconds of its
/// own clock.
#[tokio::test]
async fn a_local_entry_never_outlives_its_item() {
    let memcached = Memcached::start();
    let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
    let upstream = Upstream::default();
    for number in 0..8 {
        a.scope(brief(&upstream, number)).await.expect("the call succeeds");
        a.flush().await;
        tokio::time::sleep(Duration::from_millis(125)).await;
        // This process reads later, and must keep the value only for the rest of the ttl.
        b.scope(brief(&upstream, number)).await.expect("the call succeeds");
    }
    assert_eq!(upstream.fetches(), 8);
    let mut alive: Vec<u32> = (0..8).collect();
    let mut seen_locally = 0;
    while !alive.is_empty() {
        for number in std::mem::take(&mut alive) {
            let key = a.scope(async { brief_entry(number).key().to_string() }).await;
            let item = memcached.remaining_ttl(&key);
            for process in [&a, &b] {
                let tier = process.scope(async { brief_entry(number).get().await.tier() }).await;
                assert!(
                    item.is_some() || tier.is_none(),
                    "no tier has the value of an expired item: {number}, {tier:?}"
                );
                seen_locally += usize::from(tier == Some(Tier::Local));
            }
            if item.is_some() {
                alive.push(number);
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(seen_locally > 0);
}

/// A type that leaves out `note` when it is `None`. A codec without field names would then decode
/// the bytes of `amount` as the `note`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SkipsEmptyField {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<u8>,
    amount: u8,
    fee: u8,
    tail: Vec<u8>,
}

#[coordinator_cached(name = "skipping", version = amount, skip(upstream), entry = skipping_entry)]
async fn skipping(upstream: &Upstream, amount: u8) -> Result<SkipsEmptyField, UpstreamDown> {
    upstream.fetch().await?;
    Ok(SkipsEmptyField { note: None, amount, fee: 1, tail: vec![2, 3] })
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u32),
    Text(String),
}

#[coordinator_cached(name = "untagged", version = number, skip(upstream))]
async fn untagged(upstream: &Upstream, number: u32) -> Result<NumberOrText, UpstreamDown> {
    upstream.fetch().await?;
    Ok(NumberOrText::Number(number))
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct HasUnserializedField {
    #[serde(skip_serializing, default)]
    secret: u8,
    amount: u8,
    rest: Vec<u8>,
}

#[coordinator_cached(name = "never_written", version = number, skip(upstream))]
async fn never_written(
    upstream: &Upstream,
    number: u8,
) -> Result<HasUnserializedField, UpstreamDown> {
    upstream.fetch().await?;
    Ok(HasUnserializedField { secret: 9, amount: number, rest: vec![0; 4] })
}

#[tokio::test]
async fn no_codec_misreads_a_value() {
    let memcached = Memcached::start();
    for number in 0..=4u8 {
        let (a, b) = (new_process_cache(&memcached).await, new_process_cache(&memcached).await);
        let upstream = Upstream::default();
        for cache in [&a, &b, &a] {
            let value = cache.scope(skipping(&upstream, number)).await.expect("the call succeeds");
            assert_eq!(
                value,
                SkipsEmptyField { note: None, amount: number, fee: 1, tail: vec![2, 3] }
            );
            let value =
                cache.scope(untagged(&upstream, number.into())).await.expect("the call succeeds");
            assert_eq!(value, NumberOrText::Number(number.into()));
            let value =
                cache.scope(never_written(&upstream, number)).await.expect("the call succeeds");
            assert_eq!(value.amount, number);
            assert_eq!(value.secret, 9);
            cache.flush().await;
        }
        assert_eq!(upstream.fetches(), 4, "each process fetches the value that no codec writes");
        assert_eq!(b.stats().total().remote_hits, 2);
    }
    let findings: Vec<String> =
        cached_core::ledger().audit().iter().map(ToString::to_string).collect();
    for (name, is_found) in [("skipping", false), ("untagged", false), ("never_written", true)] {
        let has_name = |finding: &String| finding.contains(&format!("`{name}`"));
        assert_eq!(findings.iter().any(has_name), is_found, "{findings:?}");
    }
}

#[tokio::test]
async fn garbage_in_memcached_is_replaced() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    let key = |number: &'static str| {
        cache.scope(async move { payment_entry(number, "paid").key().to_string() })
    };
    let upstream = Upstream::default();
    memcached.store(&key("1").await, "garbage");
    assert_eq!(
        cache.scope(payment(&upstream, "1", "paid")).await.expect("the call succeeds").fetched,
        1
    );
    cache.flush().await;
    let other = new_process_cache(&memcached).await;
    assert_eq!(
        other.scope(payment(&upstream, "1", "paid")).await.expect("the call succeeds").fetched,
        1
    );
    // The library has replaced the garbage with an encoded value.
    let size = memcached.command(&format!("mg {} s", key("1").await));
    assert!(size.starts_with("HD s"), "memcached has an item: {size}");
}

#[tokio::test]
async fn an_empty_item_is_replaced_without_waiting() {
    let memcached = Memcached::start();
    let cache = new_process_cache(&memcached).await;
    let upstream = Upstream::default();
    let key = cache.scope(async { payment_entry("7", "paid").key().to_string() }).await;
    memcached.store(&key, "");
    let began = Instant::now();
    cache.scope(payment(&upstream, "7", "paid")).await.expect("the call succeeds");
    let took = began.elapsed();
    assert!(took < Duration::from_millis(2000), "the call waits for no lease: {took:?}");
    cache.flush().await;
    let other = new_process_cache(&memcached).await;
    assert_eq!(
        other.scope(payment(&upstream, "7", "paid")).await.expect("the call succeeds").fetched,
        1
    );
}
