//! The question that a leader asks the remote tier, and its answer.

use std::time::Instant;

use super::{FillLease, FillTarget, PendingCall};
use crate::entry_handle::EntryHandle;
use crate::event::Event;
use crate::tier::local::{Expiry, FillToken, WriteMode};
use crate::tier::remote::{
    ClaimOutcome, EntryDecoder, IfMissing, Item, LeaseOptions, Permit, ReadOutcome, RemoteStore,
    Store, WritePermit,
};
use crate::ttl::EntryTtls;
use crate::value::Value;

/// An item of the remote tier.
type RemoteItem = Item<<EntryHandle as EntryDecoder>::Value, Permit>;

/// The remote tier's answer to a leader.
pub(super) enum RemoteAnswer {
    /// The value.
    Value(Value),
    /// The value, and the claim to refresh it. The time says when the value expires, if the claim may
    /// have come before the refresh is due.
    Due(Value, FillTarget, Option<Instant>),
    /// An expired value that another process replaces.
    Stale(Value),
    /// The leader has to fetch.
    Fetch { target: FillTarget, stale: Option<Value> },
}

impl RemoteAnswer {
    fn fetch(target: FillTarget) -> RemoteAnswer {
        RemoteAnswer::Fetch { target, stale: None }
    }
}

impl PendingCall {
    /// Asks the remote tier for the value, or for a permit to fill it.
    ///
    /// This is not an `async fn`, because that would keep its arguments twice. The future has to be
    /// small enough for one box.
    pub(super) fn read_remote_tier(
        &self,
        fill_token: FillToken,
    ) -> impl Future<Output = RemoteAnswer> {
        let handle = &self.handle;
        let ttls = handle.ttls(None);
        async move {
            // The ttl without jitter decides, because jitter gives each value another one.
            let is_kept = Store::LIMITS.allows(handle.ttl(None));
            let Some((store, key)) = is_kept.then(|| handle.remote_tier_and_key()).flatten() else {
                return RemoteAnswer::fetch(FillTarget::LocalOnly);
            };
            let if_missing = IfMissing::Lease(LeaseOptions {
                fetch_time: handle.counters().fetch_time(),
                refresh_before_removal: ttls.stale + ttls.refresh_window,
                waits: !self.force_miss(),
            });
            RemoteAnswer::fetch(match store.read(&key, handle, if_missing).await {
                Ok(ReadOutcome::Item(item)) => return self.use_item(item, ttls, fill_token),
                Ok(ReadOutcome::Permit(permit)) => {
                    handle.emit(|entry| Event::LeaseWon { entry });
                    FillTarget::RemoteLease(Some(Box::new(FillLease { permit, stale: None })))
                }
                Ok(ReadOutcome::Busy) => {
                    handle.emit(|entry| Event::LeaseTimedOut { entry });
                    FillTarget::LocalWithoutPermit
                }
                Ok(ReadOutcome::Missing) => FillTarget::LocalWithoutPermit,
                Err(error) if error.kind().is_refusal() => FillTarget::LocalWhileUnusable,
                Err(_) => FillTarget::LocalWhileUnreachable,
            })
        }
    }

    /// Decides how a leader goes on with an item of the remote tier.
    fn use_item(&self, item: RemoteItem, ttls: EntryTtls, fill_token: FillToken) -> RemoteAnswer {
        let handle = &self.handle;
        let now = handle.now();
        let remaining = item.fresh_for(now, ttls.stale);
        let Item { value, claim, permit, .. } = item;
        let replace = |permit| FillTarget::RemoteItem(Box::new(permit));
        let refresh =
            |permit, stale| FillTarget::RemoteLease(Some(Box::new(FillLease { permit, stale })));
        let Some((value, weight)) = value else {
            return RemoteAnswer::fetch(replace(permit));
        };
        if self.force_miss() {
            return RemoteAnswer::fetch(match handle.is_overwritable() {
                true => replace(permit),
                false => FillTarget::Nowhere,
            });
        }
        let Some(remaining) = remaining else {
            let target = match claim.is_won() {
                true => refresh(permit, Some(value.clone())),
                // The process that claimed the refresh may have been killed.
                false if permit.is_claim_abandoned(handle.claim_abandoned_after()) => {
                    replace(permit)
                }
                false => return RemoteAnswer::Stale(value),
            };
            return RemoteAnswer::Fetch { target, stale: Some(value) };
        };
        let expiry = Expiry { start: now, ttl: remaining.min(ttls.local), stale_ttl: ttls.stale };
        handle.publish(fill_token, WriteMode::Once, &value, weight, expiry);
        let expires = match claim {
            ClaimOutcome::NotWon => return RemoteAnswer::Value(value),
            ClaimOutcome::Won => Some(now + remaining),
            ClaimOutcome::WonAgain => None,
        };
        RemoteAnswer::Due(value, refresh(permit, None), expires)
    }
}
