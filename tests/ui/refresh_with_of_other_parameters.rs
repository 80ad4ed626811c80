//! A parameter of which a refresh can have no copy.

use cached_core::coordinator_cached;

#[derive(Clone)]
struct Client;

struct Log;

impl Client {
    #[coordinator_cached(
        name = "price",
        overwrite(reason = "the upstream has no versions of a price"),
        skip(self, log),
        refresh_ahead = "5m",
        refresh_with = self.clone()
    )]
    async fn price(&self, log: &Log, days: Option<&str>) -> Result<String, String> {
        let Log = log;
        Ok(format!("{days:?}"))
    }

    #[coordinator_cached(
        name = "total",
        overwrite(reason = "the upstream has no versions of a total"),
        skip(self, log),
        refresh_ahead = "5m",
        refresh_with = self.clone()
    )]
    async fn total(&self, log: &Log, days: &[u8]) -> Result<String, String> {
        let Log = log;
        Ok(format!("{days:?}"))
    }
}

fn main() {
    drop(async { Client.price(&Log, None).await });
    drop(async { Client.total(&Log, &[]).await });
}
