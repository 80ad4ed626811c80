//! Several entries looked up at once.

use super::CacheEntry;
use crate::key::Key;
use crate::site::Site;
use crate::tier::local::FillToken;
use crate::tier::remote::{Item, Permit, RemoteStore};
use crate::value::{CachedValue, Value};

/// Looks several versions of an entry up, in order, and returns the first that is found. What
/// this process does not have is read from memcached in one round trip.
///
/// ```
/// # use cached_core::{coordinator_cached, first_found};
/// #[coordinator_cached(name = "first_found_doc", version = state, entry = payment_entry)]
/// async fn payment(number: u32, state: &str) -> Result<String, std::io::Error> {
///     Ok(format!("{number} is {state}"))
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// payment(7, "processing").await?;
/// let last = first_found([payment_entry(7, "paid"), payment_entry(7, "processing")]).await;
/// assert_eq!(last.as_deref(), Some("7 is processing"));
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap();
/// ```
pub async fn first_found<V: CachedValue, P>(
    entries: impl IntoIterator<Item = CacheEntry<V, P>>,
) -> Option<V> {
    let entries: Vec<CacheEntry<V, P>> = entries.into_iter().collect();
    // Up to the first that this process has; what comes after it cannot be the answer.
    let mut asked = Vec::new();
    let mut last = None;
    for site in entries.iter().filter_map(CacheEntry::site) {
        if let Some((value, _)) = site.look() {
            last = Some(value);
            break;
        }
        let fill_token = site.fill_token();
        asked.push((site, fill_token));
    }
    let items = read_many(&asked).await;
    for ((site, fill_token), item) in asked.iter().zip(items) {
        if let Some(value) = item.and_then(|item| site.admit(item, *fill_token)) {
            return value.downcast_ref::<V>().cloned();
        }
    }
    last.and_then(|value| value.downcast_ref::<V>().cloned())
}

/// Reads each site's item, if it has one. The sites of one cache are read together.
async fn read_many(asked: &[(Site, FillToken)]) -> Vec<Option<Item<(Value, usize), Permit>>> {
    let mut items: Vec<_> = asked.iter().map(|_| None).collect();
    let key_of =
        |(index, (site, _)): (usize, &'_ (Site, FillToken))| Some((index, site.remote()?.1));
    let mut left: Vec<(usize, Key)> = asked.iter().enumerate().filter_map(key_of).collect();
    while let Some((first, _)) = left.first() {
        let cache = &asked[*first].0.cache;
        let (group, others): (Vec<_>, _) =
            left.into_iter().partition(|(index, _)| asked[*index].0.cache.id() == cache.id());
        left = others;
        let Some(store) = cache.remote() else { continue };
        let (indexes, keys): (Vec<usize>, Vec<_>) =
            group.into_iter().map(|(index, key)| (index, (key, &asked[index].0))).unzip();
        for (index, item) in indexes.into_iter().zip(store.read_many(&keys).await) {
            items[index] = item;
        }
    }
    items
}
