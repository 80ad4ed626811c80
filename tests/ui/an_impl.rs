//! The methods of an impl are annotated, not the impl.

use cached_core::coordinator_cached;

struct Client;

#[coordinator_cached(name = "payment", version = state)]
impl Client {
    async fn fetch(&self, state: u8) -> Result<u8, String> {
        Ok(state)
    }
}

fn main() {
    drop(async { Client.fetch(1).await });
}
