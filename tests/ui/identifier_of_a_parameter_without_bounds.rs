//! A type parameter in the key must be `Serialize`.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "page", version = edition)]
async fn page<K>(key: K, edition: u8) -> Result<u8, String> {
    let _ = key;
    Ok(edition)
}

#[coordinator_cached(name = "pages", version = edition, entry = pages_entry)]
async fn pages<K: Sync>(keys: &[K], edition: u8) -> Result<u8, String> {
    let _ = keys;
    Ok(edition)
}

fn main() {
    drop(async { page(1, 2).await });
    drop(async { pages(&[1], 2).await });
    drop(pages_entry(&[1], 2));
}
