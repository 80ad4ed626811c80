//! Tests functions whose values do not implement serde's traits. With the option `remote = false`,
//! a value only has to be `Clone + Send + Sync + 'static`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cached_core::testing::TestCache;
use cached_core::{Cache, Tier, coordinator_cached, first_found};
use cached_tests::{Upstream, UpstreamDown};

use crate::functions::local_cache;

/// A value that does not implement serde's traits.
#[derive(Debug, Clone, PartialEq)]
struct Config {
    fetched: usize,
}

/// A value that is neither `Clone` nor `Serialize`. It can be cached in an `Arc`.
struct Session {
    fetched: usize,
}

/// A value that is cached as a trait object.
trait FetchedValue: Send + Sync {
    fn fetched(&self) -> usize;
}

impl FetchedValue for Session {
    fn fetched(&self) -> usize {
        self.fetched
    }
}

#[coordinator_cached(
    name = "plain_config",
    version = region,
    remote = false,
    skip(upstream),
    entry = config_entry
)]
async fn config(upstream: &Upstream, region: u8) -> Result<Config, UpstreamDown> {
    Ok(Config { fetched: upstream.fetch().await? })
}

#[coordinator_cached(name = "plain_session", version = user, remote = false, skip(upstream))]
async fn session(upstream: &Upstream, user: u8) -> Result<Arc<Session>, UpstreamDown> {
    Ok(Arc::new(Session { fetched: upstream.fetch().await? }))
}

#[coordinator_cached(name = "plain_store", version = user, remote = false, skip(upstream))]
async fn store(upstream: &Upstream, user: u8) -> Arc<dyn FetchedValue> {
    Arc::new(Session { fetched: upstream.fetch().await.unwrap_or_default() })
}

#[coordinator_cached(
    name = "plain_whole",
    version = region,
    remote = false,
    infallible,
    skip(upstream),
    entry = whole_entry
)]
async fn whole(upstream: &Upstream, region: u8) -> Config {
    Config { fetched: upstream.fetch().await.unwrap_or_default() }
}

#[coordinator_cached(
    name = "plain_known",
    version = region,
    remote = false,
    none_ttl = "30s",
    skip(upstream)
)]
async fn known(upstream: &Upstream, region: u8) -> Result<Option<Config>, UpstreamDown> {
    let fetched = upstream.fetch().await?;
    Ok((region > 0).then_some(Config { fetched }))
}

#[coordinator_cached(name = "plain_option", version = region, remote = false, skip(upstream))]
async fn option(upstream: &Upstream, region: u8) -> Option<Config> {
    Some(Config { fetched: upstream.fetch().await.ok()? })
}

#[tokio::test]
async fn values_without_serde_are_cached_in_the_process() {
    let upstream = Upstream::default();
    let test = async {
        for _ in 0..2 {
            assert_eq!(config(&upstream, 1).await, Ok(Config { fetched: 1 }));
        }
        for _ in 0..2 {
            assert_eq!(session(&upstream, 1).await.map(|session| session.fetched), Ok(2));
        }
        for _ in 0..2 {
            assert_eq!(store(&upstream, 1).await.fetched(), 3);
        }
        for _ in 0..2 {
            assert_eq!(whole(&upstream, 1).await, Config { fetched: 4 });
        }
        for _ in 0..2 {
            assert_eq!(known(&upstream, 0).await, Ok(None), "`none_ttl` caches a `None`");
        }
        for _ in 0..2 {
            assert_eq!(known(&upstream, 1).await, Ok(Some(Config { fetched: 6 })));
        }
        for _ in 0..2 {
            assert_eq!(option(&upstream, 1).await, Some(Config { fetched: 7 }));
        }
        assert_eq!(upstream.fetches(), 7);
    };
    local_cache().await.scope(test).await;
}

#[tokio::test]
async fn entries_without_serde_can_be_changed() {
    let test = async {
        let supplied = Config { fetched: 70 };
        assert!(config_entry(1).add(supplied.clone()).await);
        assert!(!config_entry(1).add(Config { fetched: 71 }).await, "the entry is write-once");
        let found = config_entry(1).get().await;
        assert_eq!(
            (found.tier(), found.into_option()),
            (Some(Tier::Local), Some(supplied.clone()))
        );
        assert_eq!(first_found([config_entry(2), config_entry(1)]).await, Some(supplied.clone()));
        config_entry(1).invalidate().await.expect("no server can fail");
        assert!(!config_entry(1).get().await.is_found());
        assert!(whole_entry(1).add(supplied.clone()).await);
        assert_eq!(whole(&Upstream::default(), 1).await, supplied);
    };
    local_cache().await.scope(test).await;
}

#[coordinator_cached(
    name = "plain_page",
    version = edition,
    remote = false,
    skip(upstream),
    entry = page_entry
)]
async fn page<T: From<usize> + Clone + Send + Sync + 'static>(
    upstream: &Upstream,
    edition: u8,
) -> Result<T, UpstreamDown> {
    Ok(T::from(upstream.fetch().await?))
}

impl From<usize> for Config {
    fn from(fetched: usize) -> Config {
        Config { fetched }
    }
}

#[tokio::test]
async fn a_generic_function_needs_no_serde() {
    let upstream = Upstream::default();
    let test = async {
        for _ in 0..2 {
            assert_eq!(page::<Config>(&upstream, 1).await, Ok(Config { fetched: 1 }));
            assert_eq!(page::<usize>(&upstream, 1).await, Ok(2));
        }
        let found = page_entry::<Config>(1).get().await;
        assert_eq!(found.into_option(), Some(Config { fetched: 1 }));
    };
    local_cache().await.scope(test).await;
}

#[coordinator_cached(
    name = "plain_price",
    overwrite(reason = "the upstream has no versions of a price"),
    remote = false,
    ttl = "10m",
    refresh_ahead = "5m",
    stale_if_error = "1h",
    cache_if = |price| price.fetched != 13,
    skip(upstream),
    entry = price_entry
)]
async fn price(upstream: Upstream, course: u32) -> Result<Config, UpstreamDown> {
    Ok(Config { fetched: upstream.fetch().await? })
}

#[coordinator_cached(
    name = "plain_token",
    version = user,
    remote = false,
    ttl_with = |token| Duration::from_secs(60 * token.fetched as u64),
    skip(upstream)
)]
async fn token(upstream: &Upstream, user: u32) -> Result<Config, UpstreamDown> {
    Ok(Config { fetched: upstream.fetch().await? })
}

#[tokio::test]
async fn every_option_works_without_serde() {
    let test = TestCache::new();
    let upstream = Upstream::default();
    let fetched = |fetched| Ok(Config { fetched });
    let price = || test.cache().scope(price(upstream.clone(), 1));
    assert_eq!(price().await, fetched(1));
    test.advance(Duration::from_secs(6 * 60));
    assert_eq!(price().await, fetched(1), "this call starts a refresh");
    while upstream.fetches() < 2 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(price().await, fetched(2));
    upstream.fail();
    test.advance(Duration::from_secs(11 * 60));
    assert_eq!(price().await, fetched(2), "`stale_if_error` answers a failed fetch");
    upstream.recover();
    let entry = test.cache().scope(async { price_entry(1) }).await;
    entry.overwrite(Config { fetched: 70 }).await.expect("no server can fail");
    assert_eq!(price().await, fetched(70));
    assert!(!test.cache().scope(async { price_entry(2) }).await.add(Config { fetched: 13 }).await);

    let upstream = Upstream::default();
    let token = || test.cache().scope(token(&upstream, 1));
    assert_eq!(token().await, fetched(1));
    test.advance(Duration::from_secs(59));
    assert_eq!(token().await, fetched(1));
    test.advance(Duration::from_secs(2));
    assert_eq!(token().await, fetched(2), "`ttl_with` gave the first value one minute");
}

/// A value that counts its clones. A hit must clone the `Arc`, and not this value.
struct CloneCounter(AtomicUsize);

impl Clone for CloneCounter {
    fn clone(&self) -> CloneCounter {
        CloneCounter(AtomicUsize::new(self.0.fetch_add(1, Ordering::SeqCst) + 1))
    }
}

#[coordinator_cached(name = "plain_cloned", version = user, remote = false)]
async fn cloned(user: u32) -> Result<Arc<CloneCounter>, String> {
    Ok(Arc::new(CloneCounter(AtomicUsize::new(0))))
}

#[tokio::test]
async fn a_hit_clones_the_arc_only() {
    let test = async {
        let first = cloned(1).await.expect("the call succeeds");
        let second = cloned(1).await.expect("the call succeeds");
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(first.0.load(Ordering::SeqCst), 0);
    };
    local_cache().await.scope(test).await;
}

/// The way in which a function that the macro `weighed` declares gets an entry.
#[derive(Clone, Copy)]
enum CallOrLookUp {
    /// Calls the cached function. Returns true if the call fetched.
    Call,
    /// Looks the entry up. Returns true if it was found.
    LookUp,
}

/// Calls a function for 100 numbers. Returns how many of the values the local tier keeps.
///
/// The local tier does not evict values at once, but during later calls. So this function makes
/// further calls until at most `expected` values are left, or until ten seconds have passed.
async fn count_kept<F>(run: impl Fn(u64, CallOrLookUp) -> F, cache: &Cache, expected: u64) -> u64
where
    F: Future<Output = bool> + Send,
{
    for number in 0..100 {
        assert!(cache.scope(run(number, CallOrLookUp::Call)).await, "each number is new");
    }
    let give_up = Instant::now() + Duration::from_secs(10);
    for another in 100.. {
        let mut kept = 0;
        for number in 0..100 {
            kept += u64::from(cache.scope(run(number, CallOrLookUp::LookUp)).await);
        }
        if kept <= expected || Instant::now() > give_up {
            return kept;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        cache.scope(run(another, CallOrLookUp::Call)).await;
    }
    unreachable!("the loop ends after ten seconds")
}

/// Declares async functions. Each of them contains an annotated function `value`, which caches one
/// kind of value. `$weight` is the option `weight` of the inner function, if there is one.
macro_rules! weighed {
    ($($name:ident $cache_name:literal $value:ty = $new:expr $(, $weight:expr)?;)*) => {$(
        async fn $name(number: u64, step: CallOrLookUp) -> bool {
            #[coordinator_cached(
                name = $cache_name,
                version = number,
                remote = false,
                skip(fetches),
                entry = value_entry
                $(, weight = $weight)?
            )]
            async fn value(number: u64, fetches: &AtomicUsize) -> Result<$value, String> {
                fetches.fetch_add(1, Ordering::SeqCst);
                Ok($new)
            }
            if let CallOrLookUp::LookUp = step {
                return value_entry(number).get().await.is_found();
            }
            let fetches = AtomicUsize::new(0);
            drop(value(number, &fetches).await);
            fetches.load(Ordering::SeqCst) > 0
        }
    )*};
}

const LARGE: usize = 100 << 10;

struct LargeValue {
    _bytes: [u8; LARGE],
}

#[derive(Clone)]
struct SmallValue;

weighed! {
    weighed_large "plain_weighed_large" Arc<LargeValue> = Arc::new(LargeValue { _bytes: [0; LARGE] });
    weighed_slice "plain_weighed_slice" Arc<[ByteWithoutSerde]> = Arc::from(vec![ByteWithoutSerde(0); LARGE]);
    weighed_list "plain_weighed_list" Vec<ByteWithoutSerde> = vec![ByteWithoutSerde(0); LARGE];
    // `String` has serde, so the estimated weight includes the text.
    weighed_text "plain_weighed_text" Arc<String> = Arc::new("x".repeat(LARGE));
    weighed_declared "plain_weighed_declared" Arc<SmallValue> = Arc::new(SmallValue), |_| LARGE;
    weighed_panics "plain_weighed_panics" Arc<LargeValue> = Arc::new(LargeValue { _bytes: [0; LARGE] }),
        |_| std::panic::resume_unwind(Box::new("a panic without a message"));
    weighed_most "plain_weighed_most" Arc<SmallValue> = Arc::new(SmallValue), |_| usize::MAX;
    weighed_none "plain_weighed_none" Arc<SmallValue> = Arc::new(SmallValue), |_| 0;
    weighed_small "plain_weighed_small" Arc<SmallValue> = Arc::new(SmallValue);
}

#[derive(Clone)]
struct ByteWithoutSerde(#[allow(dead_code)] u8);

#[tokio::test]
async fn arc_targets_and_elements_count_towards_the_weight() {
    let cache = || async {
        Cache::builder().local_capacity(1 << 20).build().await.expect("the settings are valid")
    };
    macro_rules! kept {
        ($function:ident, $expected:expr) => {
            count_kept($function, &cache().await, $expected).await
        };
    }
    for (value, kept) in [
        ("the target of an `Arc`", kept!(weighed_large, 12)),
        ("the elements of an `Arc`", kept!(weighed_slice, 12)),
        ("the elements of a `Vec`", kept!(weighed_list, 12)),
        ("a value with serde", kept!(weighed_text, 12)),
        ("a declared weight", kept!(weighed_declared, 12)),
        ("a declared weight that panics", kept!(weighed_panics, 12)),
    ] {
        assert!((1..=12).contains(&kept), "{value}: {kept} of 100 are kept");
    }
    assert_eq!(kept!(weighed_none, 100), 100, "a value that weighs nothing is kept");
    let cache = cache().await;
    assert_eq!(
        count_kept(weighed_small, &cache, 100).await,
        100,
        "a value that weighs little is kept"
    );
    let kept = count_kept(weighed_most, &cache, 0).await;
    assert_eq!(kept, 0, "a value that weighs more than the capacity is not kept");
    for number in 0..100 {
        let is_kept = cache.scope(weighed_small(number, CallOrLookUp::LookUp)).await;
        assert!(is_kept, "the value that was too heavy has displaced no other value");
    }
}
