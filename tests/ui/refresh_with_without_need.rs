//! `refresh_with` is for a refresh of a method that borrows its receiver.

use std::sync::Arc;

use cached_core::coordinator_cached;

#[derive(Clone)]
struct Client;

impl Client {
    #[coordinator_cached(name = "price", version = day, skip(self), refresh_with = self.clone())]
    async fn price(&self, day: u8) -> Result<String, String> {
        Ok(day.to_string())
    }

    #[coordinator_cached(
        name = "total",
        overwrite(reason = "the upstream has no versions of a total"),
        skip(self),
        refresh_ahead = "5m",
        refresh_with = self
    )]
    async fn total(self: Arc<Self>, day: u8) -> Result<String, String> {
        Ok(day.to_string())
    }
}

#[coordinator_cached(
    name = "rate",
    overwrite(reason = "the upstream has no versions of a rate"),
    refresh_ahead = "5m",
    refresh_with = Client
)]
async fn rate(day: u8) -> Result<String, String> {
    Ok(day.to_string())
}

fn main() {
    drop(async { Client.price(1).await });
    drop(async { Arc::new(Client).total(1).await });
    drop(async { rate(1).await });
}
