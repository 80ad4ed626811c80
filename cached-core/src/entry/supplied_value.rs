//! Stores the values that the program passes to `add` and `overwrite`.
//!
//! An *item* is the remote tier's copy of an entry.

use std::sync::Arc;
use std::time::Duration;

use crate::entry_handle::EntryHandle;
use crate::key::Key;
use crate::tier::local::{FillToken, WriteMode, run_deferred_drops};
use crate::tier::remote::{
    IfMissing, ReadOutcome, RemoteError, RemoteErrorKind, RemoteStore, Store, WriteOutcome,
    WritePermit,
};
use crate::tier::request::RequestHandle;
use crate::ttl::{EntryTtls, UNCONFIRMED_TTL};
use crate::value::{Value, ValueRules};

/// A value that the program passed to `add` or `overwrite`, with its time to live in each tier.
pub(super) struct SuppliedValue {
    value: Value,
    pub(super) ttls: EntryTtls,
}

impl SuppliedValue {
    /// Returns `None` if the options of the function do not allow this value to be cached.
    pub(super) fn new<V: Send + Sync + 'static>(
        handle: &EntryHandle,
        rules: &ValueRules<'_, V>,
        value: V,
    ) -> Option<SuppliedValue> {
        let decision = rules.decide(&value);
        if !handle.may_cache(&decision) {
            return None;
        }
        Some(SuppliedValue { value: Arc::new(value), ttls: handle.ttls(Some(&decision)) })
    }

    pub(super) fn encode_frame(&self, handle: &EntryHandle) -> Result<Vec<u8>, RemoteWriteError> {
        handle.encode_frame(&self.value).map_err(RemoteWriteError::NotStorable)
    }

    /// Writes the value to the remote tier, even if the remote tier has another value of the key.
    /// `frame` must come from [`encode_frame`](Self::encode_frame).
    pub(super) async fn overwrite(
        &self,
        handle: &EntryHandle,
        store: &Arc<Store>,
        key: &Key,
        frame: Vec<u8>,
    ) -> Result<WriteOutcome, RemoteWriteError> {
        let EntryTtls { remote: ttl, stale, .. } = self.ttls;
        let written = store.overwrite(key, frame, ttl, stale).await;
        written.map_err(|error| match error.kind() {
            RemoteErrorKind::TooLarge => {
                handle.report_failure(&error);
                RemoteWriteError::NotStorable("is larger than the server takes")
            }
            _ => RemoteWriteError::Remote(error),
        })
    }

    /// Returns how long the local tier may keep the value after a write. If the key's own server
    /// could not be reached, a substitute server has stored the value, and this time is short. The
    /// substitute server soon drops the value, and another process might then fetch a newer one.
    pub(super) fn local_ttl_after(&self, outcome: WriteOutcome) -> Duration {
        let local = self.ttls.local;
        if outcome == WriteOutcome::StoredBriefly { local.min(UNCONFIRMED_TTL) } else { local }
    }

    /// Stores the value in the tiers of this process, unless the entry was changed after this call
    /// took `fill_token`. Returns true if the local tier stores the value.
    pub(super) fn publish(
        self,
        handle: &EntryHandle,
        fill_token: FillToken,
        mode: WriteMode,
        local_ttl: Duration,
    ) -> bool {
        // The key has a value now, so calls must no longer get the error of an earlier fetch.
        handle.end_fetch_pause();
        let weight = handle.weight(&self.value);
        let expiry = handle.expiry(local_ttl, self.ttls);
        let stored = handle.publish(fill_token, mode, &self.value, weight, expiry);
        // After `overwrite`, later calls in the same request must return the new value, even if the
        // local tier does not keep it.
        let replaces = mode == WriteMode::Replace && handle.is_current(fill_token);
        if (stored || replaces)
            && let Some(request) = RequestHandle::current()
        {
            request.replace(handle.cache.id(), &handle.key, self.value);
        }
        run_deferred_drops();
        stored
    }
}

/// The reason why a value was not written to the remote tier.
pub(super) enum RemoteWriteError {
    NotStorable(&'static str),
    Remote(RemoteError),
}

/// The result of [`add_remote`].
pub(super) enum AddOutcome {
    /// The remote tier had no entry. With [`WriteOutcome::NotStored`], nothing was written, because
    /// the ttl is below the remote tier's minimum.
    Written(WriteOutcome),
    /// The remote tier has an entry, or its reply did not permit a write.
    EntryExists,
    /// The remote tier could not be read or written, or cannot store the value.
    Failed,
}

/// Adds a value to the remote tier if the remote tier has no entry. Three things do not count as an
/// entry, and the added value replaces them:
///
/// - the lease of a process that is fetching
/// - an expired value that is kept for `stale_if_error`
/// - bytes that this build cannot read
pub(super) async fn add_remote(
    handle: &EntryHandle,
    store: &Arc<Store>,
    key: &Key,
    supplied: &SuppliedValue,
) -> AddOutcome {
    let EntryTtls { remote: ttl, stale, .. } = supplied.ttls;
    // A second attempt is made if the entry changes between the read and the write.
    for _ in 0..2 {
        // The read must come first, because a conditional write alone does not protect an entry. If
        // the new value is above the server's size limit, the server removes the key's item even if
        // the condition is not met.
        let permit = match store.read(key, handle, IfMissing::PermitWithoutLease).await {
            Ok(ReadOutcome::Permit(permit)) => permit,
            Ok(ReadOutcome::Item(item)) => {
                let is_fresh = item.fresh_for(handle.now(), stale).is_some();
                if item.value.is_some() && is_fresh {
                    return AddOutcome::EntryExists;
                }
                item.permit
            }
            // This reply contains no permit (the condition for a write). An unconditional write
            // could replace another caller's entry.
            Ok(ReadOutcome::Busy | ReadOutcome::Missing) => return AddOutcome::EntryExists,
            // The read has already reported the error through `handle`.
            Err(_) => return AddOutcome::Failed,
        };
        if !Store::LIMITS.allows(ttl) {
            return AddOutcome::Written(WriteOutcome::NotStored);
        }
        let Ok(frame) = supplied.encode_frame(handle) else { return AddOutcome::Failed };
        match permit.write(frame, ttl, stale).await {
            Ok(WriteOutcome::NotStored) => {}
            Ok(outcome) => return AddOutcome::Written(outcome),
            Err(error) => {
                handle.report_failure(&error);
                return AddOutcome::Failed;
            }
        }
    }
    AddOutcome::EntryExists
}
