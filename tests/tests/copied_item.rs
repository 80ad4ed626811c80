//! Tests annotated functions that a second attribute copies. `#[axum::debug_handler]`, for example,
//! type-checks a copy that nothing calls. Such a copy must not count as a second declaration.
//!
//! These tests are a separate program because some of its functions share a cache name, which the
//! audit of the whole program reports.
#![allow(missing_docs)]

use cached_core::{Cache, Finding, coordinator_cached};
use cached_tests::Upstream;

/// Expands to a function and to two copies of it, in the places where `#[axum::debug_handler]` puts
/// its copies.
macro_rules! checked {
    ($function:item) => {
        $function
        const _: () = {
            #[allow(unused)]
            fn check_its_future() {
                $function
            }
            const _: () = {
                $function
            };
        };
    };
}

checked! {
    #[coordinator_cached(name = "handler", version = number, skip(upstream), entry = handler_entry)]
    #[allow(dead_code)]
    async fn handler(upstream: &Upstream, number: u32) -> Option<usize> {
        upstream.fetch().await.ok()
    }
}

#[tokio::test]
async fn a_copied_function_is_not_a_declaration() {
    let upstream = Upstream::default();
    let cache = Cache::builder().build().await.expect("the settings are valid");
    cache
        .scope(async {
            assert_eq!(handler(&upstream, 1).await, Some(1));
            assert_eq!(handler(&upstream, 1).await, Some(1));
            assert!(handler_entry(1).get().await.is_found());
            handler_entry(1).invalidate().await.expect("no server can fail");
            assert_eq!(handler(&upstream, 1).await, Some(2));
        })
        .await;
    let declared = cached_core::ledger().iter().filter(|declared| declared.name() == "handler");
    assert_eq!(declared.count(), 1);
    let stats = cache.stats().get("handler").expect("the ledger lists the function");
    assert_eq!((stats.fetches, stats.local_hits), (2, 2));
    // The audit has two findings, about the shared names below.
    let findings = cached_core::ledger().audit();
    let [Finding::SharedName { .. }, Finding::SharedName { .. }] = &findings[..] else {
        panic!("{findings:?}");
    };
}

/// Expands to a method for each type. The methods have the same cache name. They also have the same
/// place in the source, which is the call of this macro.
macro_rules! at_one_place {
    ($($client:ident = $answer:literal)*) => {$(
        struct $client;

        impl $client {
            #[coordinator_cached(name = "at_one_place", version = number, skip(self))]
            async fn call(&self, number: u32) -> Option<String> {
                Some(format!("{} {number}", $answer))
            }
        }
    )*};
}

at_one_place! {
    Orders = "order"
    Payments = "payment"
}

#[tokio::test]
async fn macro_generated_functions_share_a_name() {
    let cache = Cache::builder().build().await.expect("the settings are valid");
    cache
        .scope(async {
            for _ in 0..2 {
                assert_eq!(Orders.call(1).await.as_deref(), Some("order 1"));
                assert_eq!(Payments.call(1).await.as_deref(), Some("payment 1"));
            }
        })
        .await;
}

/// Expands to a function and a method with different code. They have the same cache name, and the
/// same place in the source, which is the call of this macro.
macro_rules! function_and_method {
    ($name:literal) => {
        #[coordinator_cached(name = $name, version = number, infallible)]
        async fn fetch(number: u32) -> u32 {
            number
        }

        struct Client;

        impl Client {
            #[coordinator_cached(name = $name, version = number, infallible, skip(self))]
            async fn fetch(&self, number: u32) -> u32 {
                number + 100
            }
        }
    };
}

mod beside {
    use super::*;

    function_and_method!("function_and_method");

    #[tokio::test]
    async fn a_method_is_not_a_function_copy() {
        let cache = Cache::builder().build().await.expect("the settings are valid");
        let answers = cache.scope(async { (fetch(1).await, Client.fetch(1).await) }).await;
        assert_eq!(answers, (1, 101));
        let places = cached_core::ledger().audit().into_iter().find_map(|finding| match finding {
            Finding::SharedName { name: "function_and_method", places } => Some(places.len()),
            _ => None,
        });
        assert_eq!(places, Some(2));
    }
}
