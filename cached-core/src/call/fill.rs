//! What becomes of a fetched value: it fills the tiers and answers those who wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Fetching, Missed, Right};
use crate::event::{Event, FillRefusal};
use crate::flight::Outcome;
use crate::site::{Lifetime, Site, UNCONFIRMED};
use crate::tier::local::{FillToken, WriteMode, run_deferred_drops};
use crate::tier::remote::{Cas, Condition, Lease, RemoteKey};
use crate::value::{CachingDecision, Value};

impl Missed {
    /// Stores what was fetched in every tier that may have it, and answers everybody. The caller
    /// does not wait for memcached.
    pub(super) fn fill(
        &self,
        mut fetching: Fetching,
        value: Value,
        verdict: CachingDecision,
    ) -> Value {
        let site = &self.site;
        if let (Right::Lease(won @ None), Some(leader)) = (&mut fetching.right, &fetching.leader) {
            *won = leader.unstow();
        }
        if !site.keeps(&verdict) {
            self.store_nothing(fetching, &value);
            return value;
        }
        let Fetching { leader, fill_token, right, .. } = fetching;
        let weight = site.weight(&value);
        let lifetime = site.lifetime(Some(&verdict));
        let fresh = match right {
            Right::Leave => Duration::ZERO,
            _ if site.remote_tier().is_none() => lifetime.local,
            Right::Unshared => lifetime.local,
            Right::Unasked | Right::Nothing => lifetime.unconfirmed,
            // Longer once the fill is confirmed, which it is not where memcached was not asked.
            _ => lifetime.local.min(UNCONFIRMED),
        };
        // Of two fetches whose entries may be replaced the one that began later counts.
        let write = if site.overwritable() { WriteMode::Replace } else { WriteMode::Once };
        site.publish(fill_token, write, &value, weight, lifetime.local_expiry(site.now(), fresh));
        if let Some(leader) = leader {
            leader.answer(|| Outcome::Cached(Arc::clone(&value)));
        }
        self.fill_remote(right, fill_token, &value, weight, lifetime);
        // Not before the flight is answered: what is dropped here may ask for this very key.
        run_deferred_drops();
        self.keep(value)
    }

    /// Answers everybody with a value that is not cached. The upstream is well, and this is its
    /// answer: what has expired is kept no more, where it is still what was read.
    #[cold]
    fn store_nothing(&self, fetching: Fetching, value: &Value) {
        let Fetching { leader, fill_token, right, stale, .. } = fetching;
        self.site.remove_expired(fill_token);
        if let Some(leader) = leader {
            leader.answer(|| Outcome::Uncached(Arc::clone(value)));
        }
        match (right, self.site.remote_tier()) {
            (Right::Lease(Some(won)), _) if stale.is_some() => won.lease.takes_its_item(),
            (Right::Replace(item), Some(remote)) if stale.is_some() => {
                let (key, cas) = *item;
                Lease::remove_item(remote, key, cas);
            }
            _ => {}
        }
        run_deferred_drops();
    }

    fn fill_remote(
        &self,
        right: Right,
        fill_token: FillToken,
        value: &Value,
        weight: usize,
        lifetime: Lifetime,
    ) {
        let right = match right {
            Right::Lease(Some(won)) => FillRight::Lease(won.lease),
            Right::Replace(item) => FillRight::Replace(item.0.in_background(), item.1),
            _ => return,
        };
        let Some(remote) = self.site.cache.remote() else { return };
        let (site, value) = (self.site.clone(), Arc::clone(value));
        let fill = Arc::new(Fill { began: site.now(), site, value, right, fill_token, lifetime });
        let run = move || {
            let fill = Arc::clone(&fill);
            async move { fill.run().await }
        };
        if !remote.in_background(weight, Box::new(move || Box::pin(run()))) {
            let reason = FillRefusal::QueueFull;
            self.site.emit(Event::FillRefused { entry: self.site.event_entry(), reason });
        }
    }
}

/// Under what a fill is written: always on the server that was read, since a CAS is good for nothing
/// on another.
enum FillRight {
    /// A lease. Dropped unused, it is given back: nobody need wait for a fill that does not come.
    Lease(Lease),
    /// An item that may be replaced if it is still what was read.
    Replace(RemoteKey, Cas),
}

/// A fetched value on its way to memcached.
struct Fill {
    site: Site,
    value: Value,
    right: FillRight,
    fill_token: FillToken,
    lifetime: Lifetime,
    began: Instant,
}

impl Fill {
    /// Writes the value. Begun again after it was cut off, it changes nothing that was written.
    async fn run(&self) {
        let (site, lifetime) = (&self.site, self.lifetime);
        let key = match &self.right {
            FillRight::Lease(lease) => lease.key(),
            FillRight::Replace(key, _) => key,
        };
        let entry = site.event_entry();
        if let Err(reason) = self.write(key).await {
            return site.emit(Event::FillRefused { entry, reason });
        }
        site.emit(Event::Filled { entry });
        if let FillRight::Lease(lease) = &self.right {
            lease.used();
        }
        if !key.is_in_gutter() {
            let life = lifetime.local_expiry(self.began, lifetime.local);
            site.extend(self.fill_token, &self.value, life);
        }
    }

    async fn write(&self, key: &RemoteKey) -> Result<(), FillRefusal> {
        let frame = self.site.seal(&self.value).map_err(|_| FillRefusal::NotStorable)?;
        let cas = match &self.right {
            FillRight::Lease(lease) => lease.settle().await,
            FillRight::Replace(_, cas) => Some(*cas),
        };
        // Somebody has changed the entry since the lease was won.
        let cas = cas.ok_or(FillRefusal::Overtaken)?;
        let Lifetime { ttl, kept, .. } = self.lifetime;
        match key.write(frame, ttl, kept, Condition::Unchanged(cas)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(FillRefusal::Overtaken),
            Err(error) => {
                self.site.report(&error);
                Err(FillRefusal::Failed)
            }
        }
    }
}
