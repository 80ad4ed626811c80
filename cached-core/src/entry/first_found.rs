//! Several entries looked up at once.

use super::CacheEntry;
use crate::site::{Frame, Site};
use crate::tier::local::FillToken;
use crate::tier::remote::{Item, RemoteKey};
use crate::value::CachedValue;

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
    for (site, fill_token, (item, frame)) in read_many(asked).await {
        if let Some(value) = site.admit(&item, frame, fill_token) {
            return value.downcast_ref::<V>().cloned();
        }
    }
    last.and_then(|value| value.downcast_ref::<V>().cloned())
}

/// Returns the items that are found, in order. Each cache's are read in one round trip, and those of
/// which another build has the first slot in one more.
async fn read_many(asked: Vec<(Site, FillToken)>) -> Vec<(Site, FillToken, (Item, Frame))> {
    let mut found: Vec<Option<(Item, Frame)>> = asked.iter().map(|_| None).collect();
    // A site without a remote tier has its place among those that were asked, and no key.
    let key_of = |(index, (site, _)): (usize, &(Site, FillToken))| Some((index, site.remote()?.1));
    let mut left: Vec<(usize, RemoteKey)> = asked.iter().enumerate().filter_map(key_of).collect();
    while let Some(&(first, _)) = left.first() {
        let first = &asked[first].0;
        let (group, others): (Vec<_>, _) =
            left.into_iter().partition(|(index, _)| asked[*index].0.cache.id() == first.cache.id());
        left = others;
        let Some(remote) = first.remote_tier() else { continue };
        let (group, keys): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        let reads = remote.read_many(&keys).await;
        for ((index, mut key), read) in group.into_iter().zip(keys).zip(reads) {
            let site = &asked[index].0;
            let item = match read {
                Ok(item) => item,
                Err(error) => {
                    site.report(&error);
                    continue;
                }
            };
            let Some(item) = item else { continue };
            site.leave(&item, &key);
            let frame = site.open(&item.frame);
            if frame.is_foreign() && key.turns_to_second_slot() {
                left.push((index, key));
            } else {
                found[index] = Some((item, frame));
            }
        }
    }
    asked
        .into_iter()
        .zip(found)
        .filter_map(|((site, fill_token), found)| Some((site, fill_token, found?)))
        .collect()
}
