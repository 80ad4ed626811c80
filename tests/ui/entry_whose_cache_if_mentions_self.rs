//! An entry keeps a copy of the receiver that its `cache_if` mentions.

use cached_core::coordinator_cached;

struct Client {
    region: String,
}

impl Client {
    #[coordinator_cached(
        name = "payment",
        version = state,
        identifier = self.region,
        cache_if = |value| value.starts_with(&self.region),
        entry = payment_entry
    )]
    async fn fetch(&self, state: u8) -> Result<String, String> {
        Ok(format!("{}{state}", self.region))
    }
}

fn main() {
    let client = Client { region: String::new() };
    drop(async { client.fetch(2).await });
    drop(client.payment_entry(2));
}
