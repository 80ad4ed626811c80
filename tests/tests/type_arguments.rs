//! The type and const arguments of a function and of its impl are in the key, whatever else the function
//! declares. A companion addresses the entry of one set of type arguments.
#![allow(missing_docs)]

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use cached_core::{Cache, coordinator_cached};

trait Backend: Send + Sync {
    fn fetch(&self, id: u32) -> Option<String>;
}

struct Live;

impl Backend for Live {
    fn fetch(&self, id: u32) -> Option<String> {
        Some(format!("live {id}"))
    }
}

struct Sandbox;

impl Backend for Sandbox {
    fn fetch(&self, id: u32) -> Option<String> {
        Some(format!("sandbox {id}"))
    }
}

async fn in_new_cache<T>(run: impl Future<Output = T>) -> T {
    Cache::builder().build().await.expect("the defaults fit").scope(run).await
}

/// Declares a function with these options, and asks it for the answers of two backends.
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
                    let live = answer::<_, 1>(Arc::new(Live), 7, 1).await;
                    assert_eq!(live.as_deref(), Some("live 7"));
                    let sandbox = answer::<_, 1>(Arc::new(Sandbox), 7, 1).await;
                    assert_eq!(sandbox.as_deref(), Some("sandbox 7"));
                }
                // What has the same key is a hit; another const argument is another key.
                let stats = |name| Cache::current().stats().get(name).map(|stats| stats.local_hits);
                assert_eq!(stats($name), Some(2));
                answer::<_, 2>(Arc::new(Live), 7, 1).await;
                assert_eq!(stats($name), Some(2));
            })
            .await;
        }
    )*};
}

two_backends! {
    no_option_takes_a_type_argument_out_of_the_key "types_alone";
    entry_takes_no_type_argument_out_of_the_key "types_entry" (entry = answer_entry);
    ttl_takes_no_type_argument_out_of_the_key "types_ttl" (ttl = Duration::from_secs(60));
    rules_take_no_type_argument_out_of_the_key "types_rules"
        (cache_if = |value| value.is_some(), ttl_with = |_| Duration::from_secs(60), entry = answer_entry);
    refresh_ahead_takes_no_type_argument_out_of_the_key "types_refreshed"
        (refresh_ahead = "1s", overwrite(reason = "backends change their answers"), entry = answer_entry);
}

#[coordinator_cached(name = "order_of", version = version, skip(backend), entry = order_entry)]
async fn order<B: Backend>(backend: &B, id: u32, version: u8) -> Option<String> {
    let _ = version;
    backend.fetch(id)
}

#[tokio::test]
async fn a_companion_addresses_the_entry_of_its_type_arguments() {
    in_new_cache(async {
        order(&Live, 1, 2).await;
        assert_eq!(order_entry::<Live>(1, 2).get().await.into_option().flatten(), Live.fetch(1));
        assert!(!order_entry::<Sandbox>(1, 2).get().await.is_found());
        order_entry::<Sandbox>(1, 2).invalidate().await.expect("no memcached");
        assert!(order_entry::<Live>(1, 2).get().await.is_found());
        order_entry::<Live>(1, 2).invalidate().await.expect("no memcached");
        assert!(!order_entry::<Live>(1, 2).get().await.is_found());
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

/// A parameter of the type `impl Trait` is a type parameter without a name.
#[tokio::test]
async fn a_skipped_parameter_without_a_type_name_is_told_by_its_type() {
    in_new_cache(async {
        for _ in 0..2 {
            assert_eq!(unnamed(&Live, 7, 1).await, Live.fetch(7));
            assert_eq!(unnamed(&Sandbox, 7, 1).await, Sandbox.fetch(7));
            assert_eq!(unnamed_with_entry(&Live, 7, 1).await, Live.fetch(7));
            assert_eq!(unnamed_with_entry(&Sandbox, 7, 1).await, Sandbox.fetch(7));
        }
        assert_eq!(Cache::current().stats().get("unnamed").expect("called").local_hits, 2);
    })
    .await;
}

#[tokio::test]
async fn a_companion_takes_the_parameter_whose_type_has_no_name() {
    in_new_cache(async {
        unnamed_with_entry(&Live, 7, 1).await;
        assert!(unnamed_entry(&Live, 7, 1).get().await.is_found());
        assert!(!unnamed_entry(&Sandbox, 7, 1).get().await.is_found());
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

impl Default for Live {
    fn default() -> Live {
        Live
    }
}

impl Default for Sandbox {
    fn default() -> Sandbox {
        Sandbox
    }
}

#[tokio::test]
async fn a_companion_addresses_the_entry_of_its_impl() {
    in_new_cache(async {
        let (live, sandbox) = (Client::<Live>(PhantomData), Client::<Sandbox>(PhantomData));
        assert_eq!(live.method(7, 1).await, Live.fetch(7));
        assert!(live.method_entry(7, 1).get().await.is_found());
        assert!(!sandbox.method_entry(7, 1).get().await.is_found());
        assert_eq!(sandbox.method(7, 1).await, Sandbox.fetch(7));
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

impl Service for Live {
    const REGION: &'static str = "live";
}

impl Service for Sandbox {
    const REGION: &'static str = "sandbox";
}

#[tokio::test]
async fn a_companion_addresses_the_entry_of_its_trait_method() {
    in_new_cache(async {
        assert_eq!(Live.region(7, 1).await.as_deref(), Some("live 7 1"));
        assert!(Live.region_entry(7, 1).get().await.is_found());
        assert!(!Sandbox.region_entry(7, 1).get().await.is_found());
        assert_eq!(Sandbox.region(7, 1).await.as_deref(), Some("sandbox 7 1"));
    })
    .await;
}
