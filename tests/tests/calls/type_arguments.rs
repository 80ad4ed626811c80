//! The cache key contains the type and const arguments of a cached function and of its impl block.
//! This holds with every option of the attribute.
//!
//! The option `entry = name` declares a second function, the *companion*, which returns a handle of
//! a cache entry. The companion takes the same type arguments as the cached function.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Upstream, UpstreamDown};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::functions::local_cache;

trait Backend: Send + Sync {
    fn fetch(&self, id: u32) -> Option<String>;
}

struct LiveBackend;

impl Backend for LiveBackend {
    fn fetch(&self, id: u32) -> Option<String> {
        Some(format!("live {id}"))
    }
}

struct SandboxBackend;

impl Backend for SandboxBackend {
    fn fetch(&self, id: u32) -> Option<String> {
        Some(format!("sandbox {id}"))
    }
}

async fn in_new_cache<T>(run: impl Future<Output = T>) -> T {
    Cache::builder().build().await.expect("the settings are valid").scope(run).await
}

/// Declares tests. Each test declares a cached function with the given options, and calls it with
/// two types of backend.
macro_rules! two_backends {
    ($($test:ident $name:literal $(($($option:tt)*))?;)*) => {$(
        #[tokio::test]
        async fn $test() {
            #[coordinator_cached(name = $name, version = version, skip(backend) $(, $($option)*)?)]
            async fn answer<B: Backend + 'static, const N: usize>(
                backend: Arc<B>,
                id: u32,
                version: u8,
            ) -> Option<String> {
                let _ = version;
                backend.fetch(id)
            }

            in_new_cache(async {
                for _ in 0..2 {
                    let live = answer::<_, 1>(Arc::new(LiveBackend), 7, 1).await;
                    assert_eq!(live.as_deref(), Some("live 7"));
                    let sandbox = answer::<_, 1>(Arc::new(SandboxBackend), 7, 1).await;
                    assert_eq!(sandbox.as_deref(), Some("sandbox 7"));
                }
                // In the second round, both calls were hits. The next call has a different const
                // argument, so its key is different.
                let stats = |name| Cache::current().stats().get(name).map(|stats| stats.local_hits);
                assert_eq!(stats($name), Some(2));
                answer::<_, 2>(Arc::new(LiveBackend), 7, 1).await;
                assert_eq!(stats($name), Some(2));
            })
            .await;
        }
    )*};
}

two_backends! {
    type_arguments_are_keyed_without_options "types_alone";
    type_arguments_are_keyed_with_entry "types_entry" (entry = answer_entry);
    type_arguments_are_keyed_with_ttl "types_ttl" (ttl = Duration::from_secs(60));
    type_arguments_are_keyed_with_rules "types_rules"
        (cache_if = |value| value.is_some(), ttl_with = |_| Duration::from_secs(60), entry = answer_entry);
    type_arguments_are_keyed_with_refresh_ahead "types_refreshed"
        (refresh_ahead = "1s", overwrite(reason = "backends change their answers"), entry = answer_entry);
}

#[coordinator_cached(name = "order_of", version = version, skip(backend), entry = order_entry)]
async fn order<B: Backend>(backend: &B, id: u32, version: u8) -> Option<String> {
    let _ = version;
    backend.fetch(id)
}

#[tokio::test]
async fn a_companion_names_entries_by_type_argument() {
    in_new_cache(async {
        order(&LiveBackend, 1, 2).await;
        assert_eq!(
            order_entry::<LiveBackend>(1, 2).get().await.into_option().flatten(),
            LiveBackend.fetch(1)
        );
        assert!(!order_entry::<SandboxBackend>(1, 2).get().await.is_found());
        order_entry::<SandboxBackend>(1, 2).invalidate().await.expect("no server can fail");
        assert!(order_entry::<LiveBackend>(1, 2).get().await.is_found());
        order_entry::<LiveBackend>(1, 2).invalidate().await.expect("no server can fail");
        assert!(!order_entry::<LiveBackend>(1, 2).get().await.is_found());
    })
    .await;
}

#[coordinator_cached(name = "unnamed", version = version, skip(backend))]
async fn unnamed(backend: &impl Backend, id: u32, version: u8) -> Option<String> {
    let _ = version;
    backend.fetch(id)
}

#[coordinator_cached(
    name = "unnamed_with_entry",
    version = version,
    skip(backend),
    entry = unnamed_entry
)]
async fn unnamed_with_entry(backend: &impl Backend, id: u32, version: u8) -> Option<String> {
    let _ = version;
    backend.fetch(id)
}

/// A parameter of type `impl Trait` is a type parameter without a name.
#[tokio::test]
async fn the_type_of_a_skipped_parameter_is_keyed() {
    in_new_cache(async {
        for _ in 0..2 {
            assert_eq!(unnamed(&LiveBackend, 7, 1).await, LiveBackend.fetch(7));
            assert_eq!(unnamed(&SandboxBackend, 7, 1).await, SandboxBackend.fetch(7));
            assert_eq!(unnamed_with_entry(&LiveBackend, 7, 1).await, LiveBackend.fetch(7));
            assert_eq!(unnamed_with_entry(&SandboxBackend, 7, 1).await, SandboxBackend.fetch(7));
        }
        assert_eq!(
            Cache::current().stats().get("unnamed").expect("the function was called").local_hits,
            2
        );
    })
    .await;
}

#[tokio::test]
async fn a_companion_takes_a_skipped_impl_trait_parameter() {
    in_new_cache(async {
        unnamed_with_entry(&LiveBackend, 7, 1).await;
        assert!(unnamed_entry(&LiveBackend, 7, 1).get().await.is_found());
        assert!(!unnamed_entry(&SandboxBackend, 7, 1).get().await.is_found());
    })
    .await;
}

struct Client<B>(PhantomData<B>);

impl<B: Backend + Default> Client<B> {
    #[coordinator_cached(name = "of_an_impl", version = version, skip(self), entry = method_entry)]
    async fn method(&self, id: u32, version: u8) -> Option<String> {
        let _ = version;
        B::default().fetch(id)
    }
}

impl Default for LiveBackend {
    fn default() -> LiveBackend {
        LiveBackend
    }
}

impl Default for SandboxBackend {
    fn default() -> SandboxBackend {
        SandboxBackend
    }
}

#[tokio::test]
async fn a_companion_names_entries_by_impl() {
    in_new_cache(async {
        let (live, sandbox) =
            (Client::<LiveBackend>(PhantomData), Client::<SandboxBackend>(PhantomData));
        assert_eq!(live.method(7, 1).await, LiveBackend.fetch(7));
        assert!(live.method_entry(7, 1).get().await.is_found());
        assert!(!sandbox.method_entry(7, 1).get().await.is_found());
        assert_eq!(sandbox.method(7, 1).await, SandboxBackend.fetch(7));
    })
    .await;
}

trait Service: Sync {
    const REGION: &'static str;

    #[coordinator_cached(name = "of_a_trait", version = version, skip(self), entry = region_entry)]
    async fn region(&self, id: u32, version: u8) -> Option<String> {
        Some(format!("{} {id} {version}", Self::REGION))
    }
}

impl Service for LiveBackend {
    const REGION: &'static str = "live";
}

impl Service for SandboxBackend {
    const REGION: &'static str = "sandbox";
}

#[tokio::test]
async fn a_companion_names_entries_by_implementing_type() {
    in_new_cache(async {
        assert_eq!(LiveBackend.region(7, 1).await.as_deref(), Some("live 7 1"));
        assert!(LiveBackend.region_entry(7, 1).get().await.is_found());
        assert!(!SandboxBackend.region_entry(7, 1).get().await.is_found());
        assert_eq!(SandboxBackend.region(7, 1).await.as_deref(), Some("sandbox 7 1"));
    })
    .await;
}

struct TaggedClient<T> {
    tag: T,
}

impl<T: Send + Sync> TaggedClient<T> {
    #[coordinator_cached(name = "client_fetch", version = number, skip(self, upstream))]
    async fn fetch(&self, upstream: &Upstream, number: u32) -> Result<(usize, u32), UpstreamDown> {
        let _ = &self.tag;
        Ok((upstream.fetch().await?, number))
    }
}

#[coordinator_cached(name = "const_generic", version = number, skip(upstream))]
async fn sized<const N: usize>(
    upstream: &Upstream,
    number: u32,
) -> Result<(usize, u32), UpstreamDown> {
    upstream.fetch().await?;
    Ok((N, number))
}

#[coordinator_cached(name = "type_generic", version = number, skip(upstream))]
pub(crate) async fn named<T>(
    upstream: &Upstream,
    number: u32,
) -> Result<(String, u32), UpstreamDown> {
    upstream.fetch().await?;
    Ok((std::any::type_name::<T>().to_owned(), number))
}

#[tokio::test]
async fn the_key_contains_type_and_const_arguments() {
    let upstream = Upstream::default();
    local_cache()
        .await
        .scope(async {
            let a = TaggedClient { tag: 1u8 }.fetch(&upstream, 7).await;
            assert_eq!(TaggedClient { tag: 2u8 }.fetch(&upstream, 7).await, a);
            assert_ne!(TaggedClient { tag: "b" }.fetch(&upstream, 7).await, a);
            assert_eq!(sized::<1>(&upstream, 7).await, Ok((1, 7)));
            assert_eq!(sized::<2>(&upstream, 7).await, Ok((2, 7)));
            assert_eq!(named::<u8>(&upstream, 7).await, Ok(("u8".into(), 7)));
            assert_eq!(named::<u16>(&upstream, 7).await, Ok(("u16".into(), 7)));
        })
        .await;
}

#[coordinator_cached(name = "unnamed_type", version = id, skip(upstream))]
async fn unnamed_type(
    upstream: &Upstream,
    id: impl Serialize + Copy + Send + Sync,
) -> Result<String, UpstreamDown> {
    upstream.fetch().await?;
    Ok(std::any::type_name_of_val(&id).to_owned())
}

#[tokio::test]
async fn the_key_contains_the_impl_trait_type() {
    let upstream = Upstream::default();
    local_cache()
        .await
        .scope(async {
            assert_eq!(unnamed_type(&upstream, 1u8).await.as_deref(), Ok("u8"));
            assert_eq!(unnamed_type(&upstream, 1u64).await.as_deref(), Ok("u64"));
            assert_eq!(unnamed_type(&upstream, 1u8).await.as_deref(), Ok("u8"));
        })
        .await;
    assert_eq!(upstream.fetches(), 2);
}

trait NamedService {
    fn name(&self) -> String;

    #[coordinator_cached(name = "default_method", version = number, skip(self))]
    async fn fetch(&self, number: u32) -> Result<String, UpstreamDown>
    where
        Self: Sync,
    {
        Ok(format!("{} {number}", self.name()))
    }
}

struct LeftService;
struct RightService;

impl NamedService for LeftService {
    fn name(&self) -> String {
        "left".into()
    }
}

impl NamedService for RightService {
    fn name(&self) -> String {
        "right".into()
    }
}

#[tokio::test]
async fn the_key_of_a_default_method_contains_self() {
    local_cache()
        .await
        .scope(async {
            assert_eq!(LeftService.fetch(1).await.as_deref(), Ok("left 1"));
            assert_eq!(RightService.fetch(1).await.as_deref(), Ok("right 1"));
        })
        .await;
}

/// Returns the edition as a `V`. The test makes the fetch slow, so that a second call can begin to
/// wait for the first.
#[coordinator_cached(name = "types_same_path", version = edition, skip(upstream))]
async fn converted<V>(upstream: &Upstream, edition: u8) -> Result<V, UpstreamDown>
where
    V: From<u8> + Clone + Send + Sync + 'static + Serialize + DeserializeOwned,
{
    upstream.fetch().await?;
    Ok(V::from(edition))
}

#[coordinator_cached(
    name = "types_same_path_refreshed",
    refresh_ahead = "1s",
    overwrite(reason = "numbers are corrected later")
)]
async fn converted_ahead<V>(number: u8) -> Result<V, UpstreamDown>
where
    V: From<u8> + Clone + Send + Sync + 'static + Serialize + DeserializeOwned,
{
    Ok(V::from(number))
}

/// Two types with the same name, in two blocks of one function, have the same path. Calls for the
/// two types therefore have equal keys.
#[tokio::test]
async fn a_value_of_another_type_bypasses_the_cache() {
    macro_rules! call {
        ($upstream:expr, $edition:expr, $number:ty) => {{
            #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
            struct Amount($number);
            impl From<u8> for Amount {
                fn from(number: u8) -> Amount {
                    Amount(number.into())
                }
            }
            let (call, ahead) =
                (converted::<Amount>($upstream, $edition), converted_ahead::<Amount>($edition));
            async move {
                assert_eq!(call.await, Ok(Amount($edition.into())));
                assert_eq!(ahead.await, Ok(Amount($edition.into())));
            }
        }};
    }
    let upstream = Upstream::default().taking_millis(100);
    in_new_cache(async {
        let bypassed = |name| Cache::current().stats().get(name).map(|stats| stats.bypassed);
        // The second call waits for the first, gets a value of the wrong type, and fetches its own.
        tokio::join!(call!(&upstream, 1_u8, u32), call!(&upstream, 1_u8, u64));
        assert_eq!((upstream.fetches(), bypassed("types_same_path")), (2, Some(1)));
        // The local tier still holds the value of the first type, so this call fetches again.
        call!(&upstream, 1_u8, u64).await;
        assert_eq!((upstream.fetches(), bypassed("types_same_path")), (3, Some(2)));
        // With `refresh_ahead`, both calls for the second type bypass the cache.
        assert_eq!(bypassed("types_same_path_refreshed"), Some(2));
    })
    .await;
}
