//! A method of a trait impl cannot have an entry.

use cached_core::coordinator_cached;

struct Client;

trait Payments {
    async fn fetch(&self, number: &str, state: u8) -> Result<String, String>;
}

impl Payments for Client {
    #[coordinator_cached(name = "payment", version = state, skip(self), entry = payment_entry)]
    async fn fetch(&self, number: &str, state: u8) -> Result<String, String> {
        Ok(format!("{number}{state}"))
    }
}

fn main() {
    drop(async { Client.fetch("1", 2).await });
}
