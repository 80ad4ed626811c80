//! Values that are given, not fetched: added, or put in an entry's place.

use std::sync::Arc;
use std::time::Duration;

use crate::site::{Frame, Lifetime, Site, UNCONFIRMED};
use crate::tier::local::{FillToken, WriteMode, run_deferred_drops};
use crate::tier::remote::{
    BusyLease, Condition, Found, Item, RemoteError, RemoteKey, whole_seconds,
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

    /// Writes its frame to memcached.
    pub(super) async fn write(
        &self,
        site: &Site,
        key: &RemoteKey,
        frame: Vec<u8>,
        condition: Condition,
    ) -> Result<bool, WriteError> {
        let Lifetime { ttl, kept, .. } = self.lifetime;
        key.write(frame, ttl, kept, condition).await.map_err(|error| {
            if !error.is_too_large() {
                return WriteError::Remote(error);
            }
            site.report(&error);
            WriteError::NotStorable("it is larger than the server takes")
        })
    }

    /// How long this process may keep what was written. In the gutter it is gone soon, and others
    /// fetch another value then.
    pub(super) fn confirmed(&self, key: &RemoteKey) -> Duration {
        let local = self.lifetime.local;
        if key.is_in_gutter() { local.min(UNCONFIRMED) } else { local }
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

/// Adds where nothing is, or where what is there is no entry: another caller's placeholder, what has
/// expired and is kept for errors, or bytes that are of no use to anybody. `Ok(true)` also where the
/// value lives too briefly for memcached to keep it.
pub(super) async fn add_remote(
    site: &Site,
    key: &mut RemoteKey,
    given: &Given,
) -> Result<bool, WriteError> {
    let is_brief = whole_seconds(given.lifetime.ttl) == 0;
    // Once more if somebody changed it between the two.
    let mut tries_left = 2;
    while tries_left > 0 {
        // Before anything is written: where memcached is given an item that is too large for it, it
        // lets go of what it has, also under a condition.
        let condition = match key.read().await.map_err(WriteError::Remote)? {
            Found::Nothing => Condition::Absent,
            Found::Busy(BusyLease { cas: Some(cas), .. }) => Condition::Unchanged(cas),
            Found::Item(item) => {
                let frame = site.open(&item.frame);
                if frame.is_foreign() && key.turns_to_second_slot() {
                    site.leave(&item, key);
                    continue;
                }
                if is_entry(site, &item, &frame, given.lifetime) {
                    site.leave(&item, key);
                    return Ok(false);
                }
                Condition::Unchanged(item.cas)
            }
            Found::Busy(BusyLease { cas: None, .. }) | Found::Lease(_) => return Ok(false),
        };
        tries_left -= 1;
        if is_brief || given.write(site, key, given.seal(site)?, condition).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_entry(site: &Site, item: &Item, frame: &Frame, lifetime: Lifetime) -> bool {
    // Another build's item in the second slot is none: that build has an entry in the first.
    matches!(frame, Frame::Value(..)) && lifetime.left_of(site.now(), item).is_some()
}
