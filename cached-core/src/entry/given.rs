//! Values that are given, not fetched: added, or put in an entry's place.

use std::sync::Arc;
use std::time::Duration;

use crate::key::Key;
use crate::site::{Lifetime, Site, UNCONFIRMED};
use crate::tier::local::{FillToken, WriteMode, run_deferred_drops};
use crate::tier::remote::{
    IfMissing, ReadOutcome, RemoteError, RemoteErrorKind, RemoteStore, Store, WriteOutcome,
    WritePermit,
};
use crate::tier::request::RequestHandle;
use crate::value::{CachedValue, Value, ValueRules};

/// A value that was given, not fetched.
pub(super) struct Given {
    value: Value,
    pub(super) lifetime: Lifetime,
}

impl Given {
    /// `None` where the function's rules do not let it be cached.
    pub(super) fn new<V: CachedValue>(
        site: &Site,
        rules: &ValueRules<V>,
        value: V,
    ) -> Option<Given> {
        let verdict = rules.decide(&value);
        if !site.keeps(&verdict) {
            return None;
        }
        Some(Given { value: Arc::new(value), lifetime: site.lifetime(Some(&verdict)) })
    }

    pub(super) fn seal(&self, site: &Site) -> Result<Vec<u8>, WriteError> {
        site.seal(&self.value).map_err(WriteError::NotStorable)
    }

    /// Replaces what the remote tier has.
    pub(super) async fn overwrite(
        &self,
        site: &Site,
        store: &Arc<Store>,
        key: &Key,
        frame: Vec<u8>,
    ) -> Result<WriteOutcome, WriteError> {
        let Lifetime { ttl, kept, .. } = self.lifetime;
        let written = store.overwrite(key, frame, ttl, kept).await;
        written.map_err(|error| match error.kind() {
            RemoteErrorKind::TooLarge => {
                site.report(&error);
                WriteError::NotStorable("it is larger than the server takes")
            }
            _ => WriteError::Remote(error),
        })
    }

    /// Returns how long this process may keep what was written. A stand-in drops it soon, and
    /// other processes then fetch another value.
    pub(super) fn confirmed(&self, outcome: WriteOutcome) -> Duration {
        let local = self.lifetime.local;
        if outcome == WriteOutcome::StoredBriefly { local.min(UNCONFIRMED) } else { local }
    }

    /// Stores it in this process, for `fresh`, unless somebody changed the entry since the fill token.
    pub(super) fn publish(
        self,
        site: &Site,
        fill_token: FillToken,
        mode: WriteMode,
        fresh: Duration,
    ) -> bool {
        let weight = site.weight(&self.value);
        let life = self.lifetime.local_expiry(site.now(), fresh);
        let stored = site.publish(fill_token, mode, &self.value, weight, life);
        // What takes an entry's place is the request's answer, also where no other tier keeps it.
        let replaces = mode == WriteMode::Replace && site.is_current(fill_token);
        if (stored || replaces)
            && let Some(request) = RequestHandle::current()
        {
            request.replace(site.cache.id(), &site.key, self.value);
        }
        run_deferred_drops();
        stored
    }
}

pub(super) enum WriteError {
    NotStorable(&'static str),
    Remote(RemoteError),
}

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
    site: &Site,
    store: &Arc<Store>,
    key: &Key,
    given: &Given,
) -> AddOutcome {
    let Lifetime { ttl, kept, .. } = given.lifetime;
    // Once more if somebody changes the entry between the read and the write.
    for _ in 0..2 {
        // The read comes first, because a server that is given a value which is too large removes
        // the one it has, whatever the condition.
        let permit = match store.read(key, site, IfMissing::PermitAdd).await {
            Ok(ReadOutcome::Permit(permit)) => permit,
            Ok(ReadOutcome::Item(item)) => {
                let is_fresh = item.fresh_for(site.now(), kept).is_some();
                if item.value.is_some() && is_fresh {
                    return AddOutcome::EntryExists;
                }
                item.permit
            }
            Ok(ReadOutcome::Busy | ReadOutcome::Missing) => return AddOutcome::EntryExists,
            // The site has reported it.
            Err(_) => return AddOutcome::Failed,
        };
        if !Store::LIMITS.allows(ttl) {
            return AddOutcome::Written(WriteOutcome::NotStored);
        }
        let Ok(frame) = given.seal(site) else { return AddOutcome::Failed };
        match permit.write(frame, ttl, kept).await {
            Ok(WriteOutcome::NotStored) => {}
            Ok(outcome) => return AddOutcome::Written(outcome),
            Err(error) => {
                site.report(&error);
                return AddOutcome::Failed;
            }
        }
    }
    AddOutcome::EntryExists
}
