//! What the remote tier answers a leader: the value, or the right to fill.

use std::time::Instant;

use super::{MissedCall, Right, Won};
use crate::event::Event;
use crate::site::{Lifetime, Site};
use crate::tier::local::{FillToken, WriteMode};
use crate::tier::remote::{
    EntryReader, IfMissing, Item, LeaseOptions, Permit, ReadOutcome, RefreshClaim, RemoteStore,
    Store, WritePermit,
};
use crate::value::Value;

/// An item of this cache's values.
type RemoteItem = Item<<Site as EntryReader>::Value, Permit>;

/// What the remote tier answers a leader.
pub(super) enum Acquired {
    Value(Value),
    /// A value that is to be refreshed, and when it expires, where the right may have been won too
    /// early: once, for then it is given back.
    Due(Value, Right, Option<Instant>),
    /// A value that has expired, while somebody else fetches.
    Stale(Value),
    Right {
        right: Right,
        stale: Option<Value>,
    },
}

impl Acquired {
    fn without_stale(right: Right) -> Acquired {
        Acquired::Right { right, stale: None }
    }
}

impl MissedCall {
    /// Asks the remote tier for the value, or for the right to fill it. An `async fn` keeps its
    /// arguments twice. This is a block, so that it and what waits for it fit in a box that an
    /// allocator has at hand.
    pub(super) fn acquire(&self, fill_token: FillToken) -> impl Future<Output = Acquired> {
        let site = &self.site;
        let lifetime = site.lifetime(None);
        async move {
            // The ttl without jitter decides, because jitter gives each value another one.
            let is_kept = Store::LIMITS.allows(site.ttl(None));
            let Some((store, key)) = is_kept.then(|| site.remote()).flatten() else {
                return Acquired::without_stale(Right::LocalOnly);
            };
            let if_missing = IfMissing::Lease(LeaseOptions {
                fetch_time: site.counters().fetch_time(),
                refresh_before_removal: lifetime.kept + lifetime.ahead,
                waits: !self.force_miss(),
            });
            let entry = site.event_entry();
            Acquired::without_stale(match store.read(&key, site, if_missing).await {
                Ok(ReadOutcome::Item(item)) => return self.take(item, lifetime, fill_token),
                Ok(ReadOutcome::Permit(permit)) => {
                    site.emit(Event::LeaseWon { entry });
                    Right::Lease(Some(Box::new(Won { permit, stale: None })))
                }
                Ok(ReadOutcome::Busy) => {
                    site.emit(Event::LeaseTimedOut { entry });
                    Right::Nothing
                }
                Ok(ReadOutcome::Missing) => Right::Nothing,
                Err(error) if error.kind().is_refusal() => Right::Unshared,
                Err(_) => Right::Unasked,
            })
        }
    }

    /// Decides what an item is worth to this call.
    fn take(&self, item: RemoteItem, lifetime: Lifetime, fill_token: FillToken) -> Acquired {
        let site = &self.site;
        let now = site.now();
        let fresh = item.fresh_for(now, lifetime.kept);
        let Item { value, claim, permit, .. } = item;
        let replace = |permit| Right::Replace(Box::new(permit));
        let refresh = |permit, stale| Right::Lease(Some(Box::new(Won { permit, stale })));
        let Some((value, weight)) = value else {
            return Acquired::without_stale(replace(permit));
        };
        if self.force_miss() {
            let right = if site.overwritable() { replace(permit) } else { Right::Leave };
            return Acquired::without_stale(right);
        }
        let Some(fresh) = fresh else {
            let right = match claim.is_won() {
                true => refresh(permit, Some(value.clone())),
                // Whoever claimed the refresh may have been killed.
                false if permit.is_claim_abandoned(site.claim_abandoned_after()) => replace(permit),
                false => return Acquired::Stale(value),
            };
            return Acquired::Right { right, stale: Some(value) };
        };
        let expiry = lifetime.local_expiry(now, fresh.min(lifetime.local));
        site.publish(fill_token, WriteMode::Once, &value, weight, expiry);
        match claim {
            RefreshClaim::None => Acquired::Value(value),
            RefreshClaim::Won => Acquired::Due(value, refresh(permit, None), Some(now + fresh)),
            RefreshClaim::WonAgain => Acquired::Due(value, refresh(permit, None), None),
        }
    }
}
