//! A declaration in a trait.

use cached_core::coordinator_cached;

trait Payments {
    #[coordinator_cached(name = "payment", version = state, skip(self))]
    async fn fetch(&self, number: &str, state: u8) -> Result<String, String>;
}

struct Client;

impl Payments for Client {
    async fn fetch(&self, number: &str, state: u8) -> Result<String, String> {
        Ok(format!("{number}{state}"))
    }
}

fn main() {
    drop(async { Client.fetch("1", 2).await });
}
