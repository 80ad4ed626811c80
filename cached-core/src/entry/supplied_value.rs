//! A value that the program gives to `add` or `overwrite`, and how it is stored.

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
use crate::value::{CachedValue, Value, ValueRules};

/// A value that the program gave, and how long each tier keeps it.
pub(super) struct SuppliedValue {
    value: Value,
    pub(super) ttls: EntryTtls,
}

impl SuppliedValue {
    /// Returns `None` if the function's rules do not let the value be cached.
    pub(super) fn new<V: CachedValue>(
        handle: &EntryHandle,
        rules: &ValueRules<V>,
        value: V,
    ) -> Option<SuppliedValue> {
        let decision = rules.decide(&value);
        if !handle.keeps(&decision) {
            return None;
        }
        Some(SuppliedValue { value: Arc::new(value), ttls: handle.ttls(Some(&decision)) })
    }

    pub(super) fn seal(&self, handle: &EntryHandle) -> Result<Vec<u8>, RemoteWriteError> {
        handle.seal(&self.value).map_err(RemoteWriteError::NotStorable)
    }

    /// Replaces the entry in the remote tier.
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
                RemoteWriteError::NotStorable("it is larger than the server takes")
            }
            _ => RemoteWriteError::Remote(error),
        })
    }

    /// Returns how long the local tier may keep the value after a write. A server that stands in for
    /// another one drops the value soon, and other processes then fetch another.
    pub(super) fn local_ttl_after(&self, outcome: WriteOutcome) -> Duration {
        let local = self.ttls.local;
        if outcome == WriteOutcome::StoredBriefly { local.min(UNCONFIRMED_TTL) } else { local }
    }

    /// Stores the value in this process, unless somebody changed the entry since the token was made.
    pub(super) fn publish(
        self,
        handle: &EntryHandle,
        fill_token: FillToken,
        mode: WriteMode,
        local_ttl: Duration,
    ) -> bool {
        let weight = handle.weight(&self.value);
        let expiry = handle.expiry(local_ttl, self.ttls);
        let stored = handle.publish(fill_token, mode, &self.value, weight, expiry);
        // An overwritten value is the request's answer even if no other tier keeps it.
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

/// Why a value was not written to the remote tier.
pub(super) enum RemoteWriteError {
    NotStorable(&'static str),
    Remote(RemoteError),
}

/// The result of [`add_remote`].
pub(super) enum AddOutcome {
    /// No entry was there. The write is [`WriteOutcome::NotStored`] if the value lives too briefly
    /// for the remote tier.
    Written(WriteOutcome),
    EntryExists,
    Failed,
}

/// Adds a value to the remote tier if that has no entry. Another caller's lease, an expired value
/// that is kept for errors, and bytes that this build cannot use do not count as an entry.
pub(super) async fn add_remote(
    handle: &EntryHandle,
    store: &Arc<Store>,
    key: &Key,
    supplied: &SuppliedValue,
) -> AddOutcome {
    let EntryTtls { remote: ttl, stale, .. } = supplied.ttls;
    // The second attempt is for an entry that changes between the read and the write.
    for _ in 0..2 {
        // The read comes first, because a server that receives a value which is too large
        // removes the one it has, whatever the condition.
        let permit = match store.read(key, handle, IfMissing::PermitAdd).await {
            Ok(ReadOutcome::Permit(permit)) => permit,
            Ok(ReadOutcome::Item(item)) => {
                let is_fresh = item.fresh_for(handle.now(), stale).is_some();
                if item.value.is_some() && is_fresh {
                    return AddOutcome::EntryExists;
                }
                item.permit
            }
            Ok(ReadOutcome::Busy | ReadOutcome::Missing) => return AddOutcome::EntryExists,
            // The handle has reported it.
            Err(_) => return AddOutcome::Failed,
        };
        if !Store::LIMITS.allows(ttl) {
            return AddOutcome::Written(WriteOutcome::NotStored);
        }
        let Ok(frame) = supplied.seal(handle) else { return AddOutcome::Failed };
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
