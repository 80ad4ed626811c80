//! `self` is in the key or in `skip`, like any parameter.

use cached_core::coordinator_cached;

struct Client {
    base: String,
}

impl Client {
    #[coordinator_cached(name = "payment", version = state)]
    async fn fetch(&self, number: &str, state: u8) -> Result<String, String> {
        Ok(format!("{}{number}{state}", self.base))
    }
}

fn main() {
    drop(async { Client { base: String::new() }.fetch("1", 2).await });
}
