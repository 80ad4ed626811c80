//! A function with `refresh_ahead` owns its arguments.

use std::collections::HashMap;

use cached_core::coordinator_cached;

struct Client;

impl Client {
    #[coordinator_cached(
        name = "price",
        overwrite(reason = "the upstream has no versions of a price"),
        skip(self, upstream),
        refresh_ahead = "5m"
    )]
    async fn price(&self, upstream: &HashMap<u8, u8>, number: &str, days: &[u8]) -> Result<String, String> {
        Ok(format!("{number}{days:?}{upstream:?}"))
    }
}

fn main() {
    drop(async { Client.price(&HashMap::new(), "1", &[]).await });
}
