//! Reads the remote tier for a *leader*: the one call that fetches while concurrent calls wait for
//! its result.
//!
//! A read returns a value, or wins a *lease*, the right to fill an entry. A read that finds a value
//! can also win a *claim*, the right to refresh that item. Only one process at a time holds the
//! claim to an item.

use std::time::{Duration, Instant};

use super::{FillLease, FillTarget, PendingCall};
use crate::entry_handle::EntryHandle;
use crate::event::{Event, RemoteFinding};
use crate::tier::local::{Expiry, FillToken, WriteMode};
use crate::tier::remote::{
    DecodedFrame, IfMissing, Item, LeaseOptions, Permit, ReadHandler, ReadOutcome,
    RefreshClaimOutcome, RemoteError, RemoteStore, Store, WritePermit,
};
use crate::ttl::EntryTtls;
use crate::value::Value;

/// A claim counts as abandoned if its holder has not replaced the item after this time. For a
/// function with slow fetches, the time is longer: four times the function's usual fetch time.
const ABANDONED_AFTER: Duration = Duration::from_secs(5);
/// The upper limit of the time after which a claim counts as abandoned. The setting `lease`
/// replaces this limit and [`ABANDONED_AFTER`].
const ABANDONED_AFTER_AT_MOST: Duration = Duration::from_secs(120);

/// An item that a read of the remote tier found.
type RemoteItem = Item<<PendingCall as ReadHandler>::Decoded, Permit>;

/// The remote tier's answer to a leader.
pub(super) enum RemoteAnswer {
    /// The remote tier has the value, which stays fresh for this long.
    Value(Value, Duration),
    /// The remote tier has the value, and this process won the claim to refresh the item.
    Due {
        value: Value,
        /// How long the value stays fresh.
        time_left: Duration,
        target: FillTarget,
        /// The value expires at this time at the latest. `None` if the time is not known, because
        /// an earlier holder gave the claim back.
        expires_by: Option<Instant>,
    },
    /// The remote tier has an expired value, which another process is replacing.
    Stale(Value),
    /// The leader must fetch. If the fetch fails, the leader may serve the expired value `stale`.
    Fetch { target: FillTarget, stale: Option<Value> },
}

impl RemoteAnswer {
    fn fetch(target: FillTarget) -> RemoteAnswer {
        RemoteAnswer::Fetch { target, stale: None }
    }
}

impl EntryHandle {
    /// Returns how long another process may hold a claim. After this time, the claim counts as
    /// abandoned, because its holder was probably killed. The setting `lease` replaces the default.
    fn claim_abandoned_after(&self) -> Duration {
        let fetch_time = self.counters().fetch_time().unwrap_or_default();
        let by_fetch_time =
            fetch_time.saturating_mul(4).clamp(ABANDONED_AFTER, ABANDONED_AFTER_AT_MOST);
        self.cache.config().lease.unwrap_or(by_fetch_time)
    }
}

impl PendingCall {
    /// Reads the value from the remote tier. If there is no value, tries to win the lease to fill
    /// the entry. If fetches of the key are paused, the call takes no lease, because other
    /// processes would wait for it in vain.
    ///
    /// The body is an `async` block, because an `async fn` would store its arguments twice. The
    /// future must stay small, because it is part of the boxed future of
    /// [`Phase::Wait`](super::Phase::Wait).
    pub(super) fn read_remote_tier(
        &self,
        fill_token: FillToken,
        is_paused: bool,
    ) -> impl Future<Output = RemoteAnswer> {
        let handle = &self.handle;
        let ttls = handle.ttls(None);
        async move {
            // The ttl must be long enough for the remote tier. No jitter is added to it: with
            // jitter, some calls of a function would read the remote tier and others would not.
            let is_kept = Store::LIMITS.allows(handle.ttl(None));
            let Some((store, key)) = is_kept.then(|| handle.remote_tier_and_key()).flatten() else {
                self.trace_finding(RemoteFinding::TtlTooShort);
                return RemoteAnswer::fetch(FillTarget::LocalOnly);
            };
            let if_missing = match is_paused {
                true => IfMissing::Report,
                false => IfMissing::Lease(LeaseOptions {
                    fetch_time: handle.counters().fetch_time(),
                    refresh_before_removal: ttls.stale + ttls.refresh_window,
                    waits: !self.force_miss(),
                }),
            };
            let began = self.trace.as_ref().map(|_| Instant::now());
            let outcome = store.read(&key, self, if_missing).await;
            self.trace(|report| report.remote_took = began.map(|began| began.elapsed()));
            RemoteAnswer::fetch(match outcome {
                Ok(ReadOutcome::Item(item)) => return self.use_item(item, ttls, fill_token),
                Ok(ReadOutcome::Permit(permit)) => {
                    handle.emit(|entry| Event::LeaseWon { entry });
                    self.trace_finding(RemoteFinding::LeaseWon);
                    FillTarget::RemoteLease(Some(Box::new(FillLease { permit, stale: None })))
                }
                Ok(ReadOutcome::Busy) => {
                    handle.emit(|entry| Event::LeaseTimedOut { entry });
                    self.trace_finding(match self.force_miss() {
                        true => RemoteFinding::LeaseNotAwaited,
                        false => RemoteFinding::LeaseTimedOut,
                    });
                    FillTarget::LocalWithoutPermit
                }
                Ok(ReadOutcome::Missing) => {
                    self.trace_finding(RemoteFinding::Absent);
                    FillTarget::LocalWithoutPermit
                }
                Err(error) if error.kind().is_refusal() => FillTarget::LocalWhileUnusable,
                Err(_) => FillTarget::LocalWhileUnreachable,
            })
        }
    }

    /// Decides what a leader does with an item from the remote tier. If the value has not expired,
    /// stores it in the local tier.
    fn use_item(&self, item: RemoteItem, ttls: EntryTtls, fill_token: FillToken) -> RemoteAnswer {
        let handle = &self.handle;
        let now = handle.now();
        let remaining = item.fresh_for(now, ttls.stale);
        let expires_by = item.expires_by(ttls.stale);
        let Item { value, claim, permit, .. } = item;
        let replace = |permit| FillTarget::RemoteItem(Box::new(permit));
        let with_lease =
            |permit, stale| FillTarget::RemoteLease(Some(Box::new(FillLease { permit, stale })));
        let Some((value, weight)) = value else {
            return RemoteAnswer::fetch(replace(permit));
        };
        if self.force_miss() {
            self.trace_finding(RemoteFinding::HitIgnored);
            return RemoteAnswer::fetch(match handle.is_overwritable() {
                true => replace(permit),
                false => FillTarget::Nowhere,
            });
        }
        let Some(remaining) = remaining else {
            let target = match claim.is_won() {
                true => {
                    self.trace_finding(RemoteFinding::ExpiredClaimed);
                    with_lease(permit, Some(value.clone()))
                }
                // The process that claimed the refresh was probably killed.
                false if permit.is_claim_abandoned(handle.claim_abandoned_after()) => {
                    self.trace_finding(RemoteFinding::ExpiredAbandoned);
                    replace(permit)
                }
                false => {
                    self.trace_finding(RemoteFinding::ExpiredRefreshedElsewhere);
                    return RemoteAnswer::Stale(value);
                }
            };
            return RemoteAnswer::Fetch { target, stale: Some(value) };
        };
        self.trace_finding(RemoteFinding::Hit);
        self.trace(|report| report.time_left = Some(remaining));
        let expiry = Expiry { start: now, ttl: remaining.min(ttls.local), stale_ttl: ttls.stale };
        handle.publish(fill_token, WriteMode::Once, &value, weight, expiry);
        let expires_by = match claim {
            RefreshClaimOutcome::NotWon => return RemoteAnswer::Value(value, remaining),
            RefreshClaimOutcome::Won => expires_by,
            RefreshClaimOutcome::WonAfterReturn => None,
        };
        RemoteAnswer::Due {
            value,
            time_left: remaining,
            target: with_lease(permit, None),
            expires_by,
        }
    }
}

impl PendingCall {
    /// Adds a finding of the read to the trace of the call.
    fn trace_finding(&self, finding: RemoteFinding) {
        self.trace(|report| report.remote.push(finding));
    }
}

impl ReadHandler for PendingCall {
    type Decoded = <EntryHandle as ReadHandler>::Decoded;

    fn decode(&self, frame: &[u8]) -> DecodedFrame<Self::Decoded> {
        let decoded = self.handle.decode(frame);
        match &decoded {
            DecodedFrame::Value(_) => {}
            DecodedFrame::Foreign => self.trace_finding(RemoteFinding::OtherBuild),
            // The store passes an empty frame if the item might be older than the latest removal of
            // the entry.
            DecodedFrame::Corrupt if frame.is_empty() => {
                self.trace_finding(RemoteFinding::Untrusted)
            }
            DecodedFrame::Corrupt => self.trace_finding(RemoteFinding::Damaged),
        }
        decoded
    }

    fn read_failed(&self, error: &RemoteError) {
        self.handle.read_failed(error);
        self.trace(|report| report.remote.push(RemoteFinding::Failed(error.clone())));
    }

    fn lease_held_elsewhere(&self) {
        self.handle.lease_held_elsewhere();
        self.trace_finding(RemoteFinding::LeaseBusy);
    }

    fn gutter_asked(&self) {
        self.trace_finding(RemoteFinding::GutterAsked);
    }
}
