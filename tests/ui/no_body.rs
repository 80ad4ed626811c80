//! A method without a body cannot be cached.

use cached_core::coordinator_cached;

trait Payments {
    #[coordinator_cached(name = "payment", version = state, skip(self))]
    async fn fetch(&self, number: &str, state: u8) -> Result<String, String>;

    /// Without a body, no other mistake is reported.
    #[coordinator_cached(name = "Order", skip(sefl))]
    fn order(&self, number: &str) -> impl Future<Output = Result<&str, String>>;
}

struct Client;

impl Payments for Client {
    async fn fetch(&self, number: &str, state: u8) -> Result<String, String> {
        Ok(format!("{number}{state}"))
    }

    async fn order(&self, _: &str) -> Result<&str, String> {
        Ok("")
    }
}

fn main() {
    drop(async { Client.fetch("1", 2).await });
    drop(async { Client.order("1").await.is_ok() });
}
