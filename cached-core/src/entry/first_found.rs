//! [`first_found`]: looks up several entries, and returns the value of the first one that exists.

use super::CacheEntry;
use crate::entry_handle::EntryHandle;
use crate::key::Key;
use crate::tier::local::FillToken;
use crate::tier::remote::{Item, Permit, RemoteStore};
use crate::value::Value;

/// Looks up several entries, and returns the value of the first entry that a tier has.
///
/// Typically the entries are versions of one thing, in order of preference. If this process does
/// not have an entry, the function reads it from memcached. Entries on the same server are read
/// together. The annotated functions are not run.
///
/// # Errors
/// None. If the memcached server of an entry fails, the entry counts as missing.
///
/// # Cancellation
/// Dropping the future changes nothing.
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
#[must_use = "the value that was found is the only effect"]
pub async fn first_found<V: Clone + Send + Sync + 'static, P>(
    entries: impl IntoIterator<Item = CacheEntry<V, P>>,
) -> Option<V> {
    let entries: Vec<CacheEntry<V, P>> = entries.into_iter().collect();
    // The loop ends at the first entry that this process has. The entries after it are not needed.
    let mut missed = Vec::new();
    let mut local = None;
    for handle in entries.iter().filter_map(CacheEntry::handle) {
        if let Some((value, _)) = handle.find_in_process() {
            local = Some(value);
            break;
        }
        let fill_token = handle.fill_token();
        missed.push((handle, fill_token));
    }
    let items = read_many(&missed).await;
    for ((handle, fill_token), item) in missed.iter().zip(items) {
        if let Some(value) = item.and_then(|item| handle.accept_item(item, *fill_token)) {
            return value.downcast_ref::<V>().cloned();
        }
    }
    local.and_then(|value| value.downcast_ref::<V>().cloned())
}

/// Reads the entries from the remote tier, and returns the items in the order of the entries. The
/// entries of one cache are read together.
async fn read_many(
    missed: &[(EntryHandle, FillToken)],
) -> Vec<Option<Item<(Value, usize), Permit>>> {
    let mut items: Vec<_> = missed.iter().map(|_| None).collect();
    let key_of = |(index, (handle, _)): (usize, &'_ (EntryHandle, FillToken))| {
        Some((index, handle.remote_tier_and_key()?.1))
    };
    let mut remaining: Vec<(usize, Key)> = missed.iter().enumerate().filter_map(key_of).collect();
    while let Some((first, _)) = remaining.first() {
        let cache = &missed[*first].0.cache;
        let (group, others): (Vec<_>, _) =
            remaining.into_iter().partition(|(index, _)| missed[*index].0.cache.id() == cache.id());
        remaining = others;
        let Some(store) = cache.remote() else { continue };
        let (indexes, keys): (Vec<usize>, Vec<_>) =
            group.into_iter().map(|(index, key)| (index, (key, &missed[index].0))).unzip();
        for (index, item) in indexes.into_iter().zip(store.read_many(&keys).await) {
            items[index] = item;
        }
    }
    items
}
