//! What becomes of a fetched value: it fills the tiers and answers those who wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Fetching, MissedCall, Right};
use crate::event::{Event, FillRefusal};
use crate::flight::FlightOutcome;
use crate::site::{Lifetime, Site, UNCONFIRMED};
use crate::tier::local::{FillToken, WriteMode, run_deferred_drops};
use crate::tier::remote::{Permit, RemoteStore, WriteOutcome, WritePermit};
use crate::value::{CachingDecision, Value};

impl MissedCall {
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
            *won = leader.take_handoff();
        }
        if !site.keeps(&verdict) {
            self.end_uncached(fetching, &value);
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
            leader.answer(|| FlightOutcome::Cached(Arc::clone(&value)));
        }
        self.fill_remote(right, fill_token, &value, weight, lifetime);
        // Not before the flight is answered: what is dropped here may ask for this very key.
        run_deferred_drops();
        self.keep(value)
    }

    fn fill_remote(
        &self,
        right: Right,
        fill_token: FillToken,
        value: &Value,
        weight: usize,
        lifetime: Lifetime,
    ) {
        let permit = match right {
            Right::Lease(Some(won)) => won.permit,
            Right::Replace(permit) => *permit,
            _ => return,
        };
        let permit = permit.in_background();
        let Some(store) = self.site.cache.remote() else { return };
        let (site, value) = (self.site.clone(), Arc::clone(value));
        let fill = Arc::new(Fill { began: site.now(), site, value, permit, fill_token, lifetime });
        let run = move || {
            let fill = Arc::clone(&fill);
            async move { fill.run().await }
        };
        if !store.run_in_background(weight, Box::new(move || Box::pin(run()))) {
            let reason = FillRefusal::QueueFull;
            self.site.emit(Event::FillRefused { entry: self.site.event_entry(), reason });
        }
    }
}

/// A fetched value on its way to the remote tier.
struct Fill {
    site: Site,
    value: Value,
    permit: Permit,
    fill_token: FillToken,
    lifetime: Lifetime,
    began: Instant,
}

impl Fill {
    /// Writes the value. Begun again after it was cut off, it changes nothing that was written.
    async fn run(&self) {
        let (site, entry) = (&self.site, self.site.event_entry());
        match self.write().await {
            Ok(outcome) => {
                site.emit(Event::Filled { entry });
                if outcome == WriteOutcome::Stored {
                    let expiry = self.lifetime.local_expiry(self.began, self.lifetime.local);
                    site.extend(self.fill_token, &self.value, expiry);
                }
            }
            Err(reason) => site.emit(Event::FillRefused { entry, reason }),
        }
    }

    async fn write(&self) -> Result<WriteOutcome, FillRefusal> {
        let frame = self.site.seal(&self.value).map_err(|_| FillRefusal::NotStorable)?;
        let Lifetime { ttl, kept, .. } = self.lifetime;
        match self.permit.write(frame, ttl, kept).await {
            Ok(WriteOutcome::NotStored) => Err(FillRefusal::Overtaken),
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                self.site.report(&error);
                Err(FillRefusal::Failed)
            }
        }
    }
}
