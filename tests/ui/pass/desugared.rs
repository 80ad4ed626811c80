//! Functions without `async fn` that return the future of a block, and methods under
//! `#[async_trait]`, in a crate with strict lints.
#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, unused, unreachable_pub, clippy::all, clippy::pedantic)]
#![allow(clippy::manual_async_fn)]

use std::future::Future;
use std::pin::Pin;

use async_trait::async_trait;
use cached_core::coordinator_cached;

/// An upstream.
pub struct Client<T>(T);

impl<T: Clone + Send + Sync> Client<T> {
    /// A generic method with bounds in any order.
    ///
    /// # Errors
    /// This function never fails.
    #[coordinator_cached(name = "method", version = version, skip(self), entry = fetch_entry)]
    pub fn fetch<'s, const N: usize>(
        &'s self,
        number: &'s str,
        mut version: u64,
        unused: u8,
    ) -> impl 's + Send + std::future::Future<Output = Result<String, String>> {
        async move {
            let _ = &self.0;
            version += 1;
            Ok(format!("{number} {version} {N}"))
        }
    }
}

/// The block uses no parameter, so it need not be `async move`.
#[coordinator_cached(name = "constant", version = version, ttl = "5m")]
fn constant(version: u8) -> impl Future<Output = Option<u8>> {
    async { Some(7) }
}

/// A future boxed by hand, which is not `Send`.
#[coordinator_cached(name = "boxed", version = number, infallible)]
fn boxed<'a>(number: &'a str) -> Pin<Box<dyn Future<Output = usize> + 'a>> {
    Box::pin(async move {
        let local = std::rc::Rc::new(number);
        std::future::ready(()).await;
        local.len()
    })
}

/// A client.
#[async_trait]
pub trait Payments<K: Sync + ?Sized> {
    /// A method with each kind of parameter.
    ///
    /// # Errors
    /// This function never fails.
    async fn payment<V: Send + Sync + serde::Serialize>(
        &self,
        key: &K,
        owned: String,
        version: V,
    ) -> Result<String, String>;
    /// A function without a receiver.
    async fn associated(number: u32) -> Option<u32>;
}

#[async_trait]
impl<T: Send + Sync> Payments<str> for Client<T> {
    #[coordinator_cached(name = "payment", version = version, skip(self))]
    async fn payment<V: Send + Sync + serde::Serialize>(
        &self,
        key: &str,
        mut owned: String,
        version: V,
    ) -> Result<String, String> {
        let _ = (&self.0, version);
        owned.push_str(key);
        Ok(owned)
    }

    #[coordinator_cached(name = "associated", version = number)]
    async fn associated(number: u32) -> Option<u32> {
        Some(number)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let client = Client(1_u8);
    assert_eq!(client.fetch::<3>("a", 1, 2).await.as_deref(), Ok("a 2 3"));
    let _ = client.fetch_entry::<3>("a", 1, 2);
    assert_eq!(constant(1).await, Some(7));
    assert_eq!(boxed("ab").await, 2);
    assert_eq!(client.payment("k", "o".to_owned(), 1_u8).await.as_deref(), Ok("ok"));
    assert_eq!(Client::<u8>::associated(1).await, Some(1));
}
