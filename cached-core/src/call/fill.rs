//! What becomes of a fetched value: it fills the tiers and answers those who wait.

use std::sync::Arc;
use std::time::Duration;

use super::{Fetching, Missed, Right};
use crate::flight::Outcome;
use crate::site::{Lifetime, UNCONFIRMED};
use crate::tier::local::{Ticket, Write, drop_aside};
use crate::tier::remote::{Condition, Lease};
use crate::value::{Value, Verdict};

impl Missed {
    /// Stores what was fetched in every tier that may have it, and answers everybody. The caller
    /// does not wait for memcached.
    pub(super) fn fill(&self, mut fetching: Fetching, value: Value, verdict: Verdict) -> Value {
        let site = &self.site;
        if let (Right::Lease(won @ None), Some(leader)) = (&mut fetching.right, &fetching.leader) {
            *won = leader.unstow();
        }
        if !site.keeps(&verdict) {
            self.store_nothing(fetching, &value);
            return value;
        }
        let Fetching { leader, ticket, right, .. } = fetching;
        let weight = site.weight(&value);
        let lifetime = site.lifetime(Some(&verdict));
        let fresh = match right {
            Right::Leave => Duration::ZERO,
            _ if site.remote_tier().is_none() => lifetime.local,
            Right::Unasked | Right::Nothing => lifetime.unconfirmed,
            // Longer once the fill is confirmed, which it is not where memcached was not asked.
            _ => lifetime.local.min(UNCONFIRMED),
        };
        // Of two fetches whose entries may be replaced the one that began later counts.
        let write = if site.overwritable() { Write::Replace } else { Write::Once };
        site.publish(ticket, write, &value, weight, lifetime.local_life(site.now(), fresh));
        if let Some(leader) = leader {
            leader.answer(|| Outcome::Cached(Arc::clone(&value)));
        }
        self.fill_remote(right, ticket, &value, weight, lifetime);
        // Not before the flight is answered: what is dropped here may ask for this very key.
        drop_aside();
        self.keep(value)
    }

    /// Answers everybody with a value that is not cached. The upstream is well, and this is its
    /// answer: what has expired is kept no more, where it is still what was read.
    #[cold]
    fn store_nothing(&self, fetching: Fetching, value: &Value) {
        let Fetching { leader, ticket, right, stale, .. } = fetching;
        self.site.remove_expired(ticket);
        if let Some(leader) = leader {
            leader.answer(|| Outcome::Uncached(Arc::clone(value)));
        }
        match (right, self.site.remote_tier()) {
            (Right::Lease(Some(won)), _) if stale.is_some() => won.lease.takes_its_item(),
            (Right::Replace(item), Some(remote)) if stale.is_some() => {
                let (key, cas) = *item;
                Lease::new(remote, key, cas).takes_its_item();
            }
            _ => {}
        }
        drop_aside();
    }

    fn fill_remote(
        &self,
        right: Right,
        ticket: Ticket,
        value: &Value,
        weight: usize,
        lifetime: Lifetime,
    ) {
        // On the server that was read: a CAS is good for nothing on another.
        let (key, cas, lease) = match right {
            Right::Lease(Some(won)) => (won.lease.key().clone(), won.lease.cas(), Some(won.lease)),
            Right::Replace(item) => {
                let (key, cas) = *item;
                (key, cas, None)
            }
            _ => return,
        };
        let Some(remote) = self.site.cache.remote() else { return };
        let key = key.in_background();
        let (site, value) = (self.site.clone(), Arc::clone(value));
        let began = site.now();
        let started = remote.in_background(weight, async move {
            let condition = Condition::Unchanged(cas);
            let stored = match site.seal(&value) {
                Ok(frame) => key.write(frame, lifetime.ttl, lifetime.kept, condition).await,
                Err(_) => Ok(false),
            };
            if let Err(error) = &stored {
                site.note(error);
            }
            if stored != Ok(true) {
                // The lease, dropped, is given back: nobody need wait for a fill that does not come.
                site.counters().fills_dropped.add();
                return;
            }
            site.counters().fills.add();
            lease.into_iter().for_each(|lease| lease.used());
            if !key.is_in_gutter() {
                site.extend(ticket, &value, lifetime.local_life(began, lifetime.local));
            }
        });
        if !started {
            self.site.counters().fills_dropped.add();
        }
    }
}
