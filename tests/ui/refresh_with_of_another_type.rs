//! A receiver that is not `Clone` cannot be cloned for a refresh.

use cached_core::coordinator_cached;

struct Client;

impl Client {
    #[coordinator_cached(
        name = "price",
        overwrite(reason = "the upstream has no versions of a price"),
        skip(self),
        refresh_ahead = "5m",
        refresh_with = self.clone()
    )]
    async fn price(&self, number: &str) -> Result<String, String> {
        Ok(number.to_owned())
    }
}

fn main() {
    drop(async { Client.price("1").await });
}
