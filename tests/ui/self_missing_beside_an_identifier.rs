//! A method whose `identifier` leaves the receiver out.

use cached_core::coordinator_cached;

struct Client;

impl Client {
    #[coordinator_cached(name = "payment", version = state, identifier = number)]
    async fn fetch(&self, number: &str, state: u8) -> Result<String, String> {
        Ok(format!("{number}{state}"))
    }
}

fn main() {
    drop(async { Client.fetch("1", 2).await });
}
