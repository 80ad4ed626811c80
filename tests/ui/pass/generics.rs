//! Functions with type, lifetime and const parameters and `where` clauses, and their companions.
#![deny(warnings)]

use cached_core::coordinator_cached;
use serde::Serialize;
use serde::de::DeserializeOwned;

trait Transport<'t, K: ?Sized> {
    fn region(&self, key: &K) -> &'t str;
}

struct Http;

impl Transport<'static, str> for Http {
    fn region(&self, _key: &str) -> &'static str {
        "eu"
    }
}

trait Decode: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    const VALUE: Self;
}

impl Decode for u16 {
    const VALUE: u16 = 7;
}

/// The companion has no argument that shows `C` or `V`, so its caller names them.
#[coordinator_cached(name = "generic", identifier = key, version = &versions[..], skip(client), entry = fetch_entry)]
async fn fetch<'c, 't, 'k, C, K, V, const N: usize>(
    client: &'c C,
    key: &'k K,
    versions: [u8; N],
) -> Result<V, String>
where
    't: 'c,
    C: Transport<'t, K> + Sync,
    K: Serialize + Sync + ?Sized + 'k,
    V: Decode,
    String: Clone,
{
    let _ = client.region(key);
    Ok(V::VALUE)
}

/// A type parameter that no argument shows is in both functions.
#[coordinator_cached(name = "turbofish", overwrite(reason = "the list grows without a version"), entry = listed_entry)]
async fn listed<T: Decode, const N: usize>() -> Option<Vec<T>> {
    Some(vec![T::VALUE; N])
}

/// The type of an `impl Trait` has no name, so the companion takes that parameter although it is skipped.
#[coordinator_cached(name = "opaque", version = key, skip(log), entry = opaque_entry)]
async fn opaque(log: impl Fn(&str) + Send, key: impl Serialize + Send) -> Result<u8, String> {
    log("fetch");
    let _ = key;
    Ok(1)
}

/// An error that borrows is not shared with other callers.
#[coordinator_cached(name = "borrowing", version = number, entry = borrowing_entry)]
async fn borrowing<'a>(number: &'a str) -> Result<u8, &'a str> {
    number.parse().map_err(|_| number)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    assert_eq!(fetch::<_, str, u16, 2>(&Http, "k", [1, 2]).await, Ok(7));
    let _ = fetch_entry::<Http, _, u16, _>("k", [1, 2]);
    assert_eq!(listed::<u16, 2>().await, Some(vec![7, 7]));
    let _ = listed_entry::<u16, 2>();
    assert_eq!(opaque(|_| {}, "k").await, Ok(1));
    let _ = opaque_entry(|_| {}, "k");
    assert_eq!(borrowing("no").await, Err("no"));
    let _ = borrowing_entry("no");
}
