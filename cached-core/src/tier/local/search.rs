//! Finds an entry by the digest of its key, for the console, a web page that shows the cache.

use std::any::{Any, TypeId};
use std::sync::Arc;
use std::time::Duration;

use super::LocalTier;
use super::entry::{EntryId, EntryPolicyState, LocalEntry};
use crate::declaration::Declaration;
use crate::key::Digest;

/// The largest number of entries whose digests are computed while one `IndexGuard` exists. A guard
/// must not exist for long, because it keeps removed entries in memory.
const ENTRIES_PER_GUARD: usize = 1 << 8;

/// The data that the tier stores for one entry, except the value.
pub(crate) struct EntryMetadata {
    pub(crate) key: Arc<[u8]>,
    pub(crate) declaration: &'static Declaration,
    /// Zero if the entry has expired and is kept for `stale_if_error`.
    pub(crate) time_left: Duration,
    pub(crate) ttl: Duration,
    /// The bytes that the entry takes in memory.
    pub(crate) weight: u32,
    pub(crate) value_type: TypeId,
}

impl LocalTier {
    /// Returns the entry whose key has this digest. If `function` is the index of a declaration,
    /// only the entries of this function are searched.
    ///
    /// The search computes the digest of each entry, because no index by digest exists. This can
    /// take a while, so the caller must be on a thread that is allowed to block.
    pub(crate) fn find_by_digest(
        &self,
        digest: &Digest,
        function: Option<usize>,
    ) -> Option<EntryMetadata> {
        let is_of_function = |(entry, _): &(&LocalEntry, &EntryPolicyState)| {
            function.is_none_or(|function| entry.header().index() == function)
        };
        let ids: Vec<EntryId> = {
            let guard = self.index_guard()?;
            guard.entries().filter(is_of_function).map(|(entry, _)| entry.id()).collect()
        };
        ids.chunks(ENTRIES_PER_GUARD).find_map(|ids| {
            let guard = self.index_guard()?;
            // An entry might have been replaced since its id was collected. The guard then finds
            // the replacement, which has the same key.
            let mut entries = ids.iter().filter_map(|id| guard.find_same_key(*id));
            let (entry, state) =
                entries.find(|(entry, _)| entry.event_subject().digest() == *digest)?;
            let value: &(dyn Any + Send + Sync) = &**entry.value();
            Some(EntryMetadata {
                key: entry.key(),
                declaration: entry.event_subject().declaration(),
                time_left: entry.time_left(self.now()),
                ttl: entry.ttl(),
                weight: state.weight,
                value_type: value.type_id(),
            })
        })
    }
}
