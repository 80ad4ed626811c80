//! serde cannot tell which type to read into a trait object.

use cached_core::coordinator_cached;

pub trait Payment: Send + Sync {
    fn amount(&self) -> u32;
}

#[coordinator_cached(name = "payment", version = state)]
async fn fetch(number: &str, state: u8) -> Result<Box<dyn Payment>, String> {
    Err(format!("{number} {state}"))
}

fn main() {
    drop(async { fetch("1", 2).await.map(|payment| payment.amount()) });
}
