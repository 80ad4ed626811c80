//! A missing bound on a type parameter is reported once, at the return type.

use cached_core::{Cache, coordinator_cached};
use serde::Serialize;
use serde::de::DeserializeOwned;

#[coordinator_cached(name = "page", version = n, entry = page_entry)]
async fn page<T: Serialize>(n: u32, page: T) -> Result<T, String> {
    let _ = n;
    Ok(page)
}

#[coordinator_cached(name = "answer", version = n, cache = cache, skip(cache), entry = answer_entry)]
async fn answer<T: Serialize + DeserializeOwned + Send + Sync + 'static, const N: usize>(
    cache: &Cache,
    n: u32,
    answer: T,
) -> Option<T> {
    let _ = (cache, n, N);
    Some(answer)
}

struct Payment;

#[coordinator_cached(name = "payment", version = n, cache = cache, skip(cache))]
async fn payment(cache: &Cache, n: u32) -> Result<Payment, String> {
    let _ = (cache, n);
    Ok(Payment)
}

fn main() {
    drop(async { page(1, "").await });
    drop(page_entry(1, ""));
    drop(async { answer::<u8, 2>(&Cache::current(), 1, 2).await });
    drop(answer_entry::<u8, 2>(&Cache::current(), 1, 2));
    drop(async { payment(&Cache::current(), 1).await });
}
