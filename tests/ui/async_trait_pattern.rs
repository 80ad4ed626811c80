//! `#[async_trait]` hides the names in a parameter's pattern.

use async_trait::async_trait;
use cached_core::coordinator_cached;

#[async_trait]
trait Payments {
    async fn payment(&self, number: (u32, u8)) -> Result<String, String>;
}

struct Client;

#[async_trait]
impl Payments for Client {
    #[coordinator_cached(name = "payment", version = state, skip(self))]
    async fn payment(&self, (number, state): (u32, u8)) -> Result<String, String> {
        Ok(format!("{number}{state}"))
    }
}

fn main() {
    drop(async { Client.payment((1, 2)).await });
}
