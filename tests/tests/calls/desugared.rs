//! Functions that return a future, and methods under `#[async_trait]`.
//!
//! The tests check three rules: equal calls fetch once, the key contains the fields of `self` that
//! `identifier` names, and the future is `Send`.

#![allow(clippy::manual_async_fn)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use cached_core::{Cache, coordinator_cached};

fn assert_send<F: Future + Send>(future: F) -> F {
    future
}

#[derive(Default)]
struct Upstream {
    region: String,
    fetches: AtomicUsize,
}

impl Upstream {
    fn in_region(region: &str) -> Upstream {
        Upstream { region: region.to_owned(), ..Upstream::default() }
    }

    fn fetch(&self) -> usize {
        self.fetches.fetch_add(1, Ordering::Relaxed)
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::Relaxed)
    }
}

async fn in_new_cache<F: Future>(future: F) -> F::Output {
    Cache::builder().build().await.expect("the settings are valid").scope(future).await
}

#[coordinator_cached(name = "impl_future", version = state, skip(upstream), entry = written_out_entry)]
fn written_out(
    upstream: &Upstream,
    mut number: u32,
    state: &str,
) -> impl Send + Future<Output = Result<String, String>> {
    async move {
        number += 1;
        tokio::task::yield_now().await;
        Ok(format!("{number} {state} {}", upstream.fetch()))
    }
}

#[coordinator_cached(name = "boxed_future", version = state, skip(upstream))]
fn boxed<'a>(
    upstream: &'a Upstream,
    number: u32,
    state: &'a str,
) -> Pin<Box<dyn Future<Output = Option<String>> + Send + 'a>> {
    Box::pin(async move { Some(format!("{number} {state} {}", upstream.fetch())) })
}

#[tokio::test]
async fn a_function_returning_a_future_is_cached() {
    let upstream = Upstream::default();
    in_new_cache(async {
        let fetch = |number, state| assert_send(written_out(&upstream, number, state));
        assert_eq!(fetch(1, "paid").await.as_deref(), Ok("2 paid 0"));
        assert_eq!(fetch(1, "paid").await.as_deref(), Ok("2 paid 0"));
        assert_eq!(fetch(2, "paid").await.as_deref(), Ok("3 paid 1"));
        assert_eq!(fetch(1, "open").await.as_deref(), Ok("2 open 2"));
        assert!(written_out_entry(1, "paid").get().await.is_found());
        assert!(!written_out_entry(3, "paid").get().await.is_found());

        assert_eq!(assert_send(boxed(&upstream, 1, "paid")).await.as_deref(), Some("1 paid 3"));
        assert_eq!(assert_send(boxed(&upstream, 1, "paid")).await.as_deref(), Some("1 paid 3"));
        assert_eq!(assert_send(boxed(&upstream, 2, "paid")).await.as_deref(), Some("2 paid 4"));
    })
    .await;
    assert_eq!(upstream.fetches(), 5);
}

/// A trait whose method returns `impl Future`. With `async fn`, the trait could not promise that
/// the future is `Send`.
trait Courses {
    fn course(
        &self,
        number: u32,
        edition: u8,
    ) -> impl Future<Output = Result<String, String>> + Send;
}

impl Courses for Upstream {
    #[coordinator_cached(name = "course", version = edition, identifier = (self.region, number))]
    fn course(
        &self,
        number: u32,
        edition: u8,
    ) -> impl Future<Output = Result<String, String>> + Send {
        async move { Ok(format!("{} {number} {edition} {}", self.region, self.fetch())) }
    }
}

#[async_trait]
trait Payments: Send + Sync {
    async fn payment(&self, number: u32, state: &str) -> Result<String, String>;
    async fn shared(self: Arc<Self>, number: u32) -> Result<String, String>;

    #[coordinator_cached(name = "async_trait_default", version = number, skip(self))]
    async fn provided(&self, number: u32) -> Option<u32> {
        Some(number)
    }
}

#[async_trait]
impl Payments for Upstream {
    #[coordinator_cached(name = "async_trait", version = state, identifier = (self.region, number))]
    async fn payment(&self, mut number: u32, state: &str) -> Result<String, String> {
        number += 1;
        tokio::task::yield_now().await;
        if number == 0 {
            return Err("there is no such payment".to_owned());
        }
        Ok(format!("{} {number} {state} {}", self.region, self.fetch()))
    }

    #[coordinator_cached(
        name = "async_trait_ahead",
        identifier = (&self.region, number),
        overwrite(reason = "the upstream has no versions of a payment"),
        refresh_ahead = "1m"
    )]
    async fn shared(self: Arc<Self>, number: u32) -> Result<String, String> {
        Ok(format!("{} {number} {}", self.region, self.fetch()))
    }
}

#[tokio::test]
async fn identifier_adds_receiver_fields_to_the_key() {
    let [eu, us] = ["eu", "us"].map(Upstream::in_region);
    in_new_cache(async {
        for _ in 0..2 {
            assert_eq!(assert_send(eu.course(1, 2)).await.as_deref(), Ok("eu 1 2 0"));
            assert_eq!(assert_send(us.course(1, 2)).await.as_deref(), Ok("us 1 2 0"));
        }
        assert_eq!(eu.course(1, 3).await.as_deref(), Ok("eu 1 3 1"));
    })
    .await;
    assert_eq!((eu.fetches(), us.fetches()), (2, 1));
}

#[tokio::test]
async fn a_method_under_async_trait_is_cached() {
    let [eu, us] = ["eu", "us"].map(|region| Arc::new(Upstream::in_region(region)));
    in_new_cache(async {
        let payments: [&dyn Payments; 2] = [&*eu, &*us];
        for _ in 0..2 {
            assert_eq!(
                assert_send(payments[0].payment(1, "paid")).await.as_deref(),
                Ok("eu 2 paid 0")
            );
            assert_eq!(
                assert_send(payments[1].payment(1, "paid")).await.as_deref(),
                Ok("us 2 paid 0")
            );
        }
        assert_eq!(payments[0].payment(2, "paid").await.as_deref(), Ok("eu 3 paid 1"));
        assert_eq!(payments[0].payment(1, "open").await.as_deref(), Ok("eu 2 open 2"));
        for _ in 0..2 {
            assert_eq!(assert_send(Arc::clone(&eu).shared(1)).await.as_deref(), Ok("eu 1 3"));
        }
        assert_eq!(payments[0].provided(7).await, Some(7));
    })
    .await;
    assert_eq!((eu.fetches(), us.fetches()), (4, 1));
}
