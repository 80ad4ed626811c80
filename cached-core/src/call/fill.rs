//! The fill: a call that has fetched a value stores it in the local and the remote tier.
//!
//! To *fetch* is to run the annotated function. The calls that share one fetch are a *flight*: the
//! *leader* fetches, and its *followers* wait for the value. The remote tier is memcached. A
//! *permit* is the right to write one value there, and a *lease* holds such a permit. An *item* is
//! a value as memcached stores it, and a *frame* is the bytes of an item.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{FetchPlan, FillTarget, PendingCall};
use crate::entry_handle::EntryHandle;
use crate::event::{Event, FillRefusal, UncachedReason};
use crate::flight::FlightOutcome;
use crate::tier::local::{Expiry, FillToken, WriteMode, run_deferred_drops};
use crate::tier::remote::{
    DecodedFrame, IfMissing, Item, Permit, ReadHandler, ReadOutcome, RemoteError, RemoteErrorKind,
    RemoteStore, Store, WriteOutcome, WritePermit,
};
use crate::ttl::{EntryTtls, UNCONFIRMED_TTL};
use crate::value::{CachingDecision, Value};

impl PendingCall {
    /// Stores a fetched value in the tiers that the fetch's [`FillTarget`] allows, and gives the
    /// value to the followers. The remote tier is written in the background. Returns the call's
    /// answer.
    ///
    /// The time to live of the local entry starts at `fetch_ended`.
    pub(super) fn fill(
        &self,
        mut fetch: FetchPlan,
        value: Value,
        decision: CachingDecision,
        fetch_ended: Instant,
    ) -> Value {
        let handle = &self.handle;
        if let (FillTarget::RemoteLease(lease @ None), Some(leader)) =
            (&mut fetch.target, &fetch.leader)
        {
            *lease = leader.take_handoff();
        }
        if let Some(reason) = handle.uncached_reason(&decision) {
            self.report_uncached(reason);
            self.end_uncached(fetch, &value);
            return value;
        }
        let has_ttl = !handle.ttl(Some(&decision)).is_zero();
        if !has_ttl {
            self.report_uncached(UncachedReason::ZeroTtl);
        }
        let FetchPlan { leader, fill_token, target, .. } = fetch;
        let weight = handle.weight(&value);
        let ttls = handle.ttls(Some(&decision));
        let local_ttl = match target {
            FillTarget::Nowhere => Duration::ZERO,
            FillTarget::LocalWhileUnusable => ttls.local,
            _ if handle.remote_tier().is_none() => ttls.local,
            FillTarget::LocalWhileUnreachable | FillTarget::LocalWithoutPermit => ttls.unconfirmed,
            // Later the background write extends the local entry, once the remote tier has stored
            // the value or is known to be unable to store it.
            _ => ttls.local.min(UNCONFIRMED_TTL),
        };
        // An overwritable entry takes the value of the fetch that began last. A write-once entry
        // keeps its first value.
        let mode = if handle.is_overwritable() { WriteMode::Replace } else { WriteMode::Once };
        let start = handle.cache.config().clock.shift(fetch_ended);
        let expiry = Expiry { start, ttl: local_ttl, stale_ttl: ttls.stale };
        let is_local = handle.publish(fill_token, mode, &value, weight, expiry);
        if let Some(leader) = leader {
            leader.answer(|| FlightOutcome::Cached(Arc::clone(&value)));
        }
        let is_queued = has_ttl && self.fill_remote(target, fill_token, &value, weight, ttls);
        self.trace(|report| {
            // If the entry was invalidated or added during the fetch, the remote tier refuses the
            // write.
            let is_refused =
                !handle.is_current(fill_token) || (!is_local && handle.local_value().is_some());
            report.time_left = match (is_queued && !is_refused, is_local) {
                (true, _) => Some(ttls.remote),
                (false, true) => Some(local_ttl),
                (false, false) => None,
            };
            report.is_stored = report.time_left.is_some();
        });
        // The flight must be answered before this line. The `Drop` of a value may call the function
        // with the same key, and that call would wait for the flight.
        run_deferred_drops();
        self.keep_for_request(value)
    }

    #[cold]
    fn report_uncached(&self, reason: UncachedReason) {
        self.handle.emit(|entry| Event::NotCached { entry, reason });
        self.trace(|report| report.uncached = Some(reason));
    }

    /// Writes the value to the remote tier in the background, if the call has a permit. Returns
    /// true if the write is queued and the ttl is long enough for the remote tier.
    fn fill_remote(
        &self,
        target: FillTarget,
        fill_token: FillToken,
        value: &Value,
        weight: usize,
        ttls: EntryTtls,
    ) -> bool {
        let permit = match target {
            FillTarget::RemoteLease(Some(lease)) => lease.permit,
            FillTarget::RemoteItem(permit) => *permit,
            _ => return false,
        };
        let permit = permit.in_background();
        let Some(store) = self.handle.cache.remote() else { return false };
        // The option `weight` is about the local tier, so the queue of background writes ignores
        // it. The program's weight may be `usize::MAX`, which would fill the queue, or 0, which
        // would leave the queue without a bound.
        let bytes = match self.handle.weigher {
            Some(_) => self.handle.estimated_weight(value),
            None => weight,
        };
        let (handle, value) = (self.handle.clone(), Arc::clone(value));
        let (began, was_begun) = (handle.now(), AtomicBool::new(false));
        let write = RemoteFill { began, was_begun, handle, value, permit, fill_token, ttls };
        let write = Arc::new(write);
        let run = move || {
            let write = Arc::clone(&write);
            async move { write.run().await }
        };
        if !store.run_in_background(bytes, Box::new(move || Box::pin(run()))) {
            let reason = FillRefusal::QueueFull;
            self.handle.emit(|entry| Event::FillRefused { entry, reason });
            return false;
        }
        Store::LIMITS.allows(ttls.remote)
    }
}

/// A background write of a fetched value to the remote tier.
struct RemoteFill {
    handle: EntryHandle,
    value: Value,
    permit: Permit,
    fill_token: FillToken,
    ttls: EntryTtls,
    /// When the background write was planned, just after the local entry was stored.
    began: Instant,
    /// True once a run of the write has begun.
    was_begun: AtomicBool,
}

/// A read handler that compares the frame in memcached with the frame of this write. If another
/// build of the program stored the item and this build cannot decode it, the read goes on to this
/// build's own item.
struct FrameComparison<'f> {
    handle: &'f EntryHandle,
    frame: &'f [u8],
}

impl ReadHandler for FrameComparison<'_> {
    type Decoded = bool;

    fn decode(&self, frame: &[u8]) -> DecodedFrame<bool> {
        match self.handle.decode(frame) {
            DecodedFrame::Foreign if frame != self.frame => DecodedFrame::Foreign,
            _ => DecodedFrame::Value(frame == self.frame),
        }
    }

    fn read_failed(&self, _: &RemoteError) {}

    fn lease_held_elsewhere(&self) {}
}

impl RemoteFill {
    /// Writes the value, and reports the outcome. If a run is cut off, the store may run this
    /// method again.
    async fn run(&self) {
        let handle = &self.handle;
        match self.write().await {
            Ok(outcome) => {
                handle.emit(|entry| Event::Filled { entry });
                if outcome == WriteOutcome::Stored {
                    self.extend_local_entry();
                }
            }
            Err(reason) => handle.emit(|entry| Event::FillRefused { entry, reason }),
        }
    }

    /// Gives the local entry its full ttl, after the remote tier has stored the value or is known
    /// to be unable to store it.
    fn extend_local_entry(&self) {
        let EntryTtls { local, stale, .. } = self.ttls;
        let expiry = Expiry { start: self.began, ttl: local, stale_ttl: stale };
        self.handle.extend(self.fill_token, &self.value, expiry);
    }

    /// Writes the value. If the remote tier cannot store the value, extends the local entry.
    async fn write(&self) -> Result<WriteOutcome, FillRefusal> {
        if !Store::LIMITS.allows(self.ttls.remote) {
            return Err(FillRefusal::TtlTooShort);
        }
        let Ok(frame) = self.handle.encode_frame(&self.value) else {
            self.extend_local_entry();
            return Err(FillRefusal::NotStorable);
        };
        let is_repeated = self.was_begun.swap(true, Ordering::Relaxed);
        let copy = is_repeated.then(|| frame.clone());
        match self.permit.write(frame, self.ttls.remote, self.ttls.stale).await {
            Ok(WriteOutcome::NotStored) => match copy {
                Some(frame) if self.is_stored(&frame).await => Ok(WriteOutcome::Stored),
                _ => Err(FillRefusal::Overtaken),
            },
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                self.handle.report_failure(&error);
                if error.kind() == RemoteErrorKind::TooLarge || self.permit.is_store_full() {
                    self.extend_local_entry();
                }
                Err(FillRefusal::Failed)
            }
        }
    }

    /// Returns true if the remote tier has this frame. The first run of the write may have been cut
    /// off after memcached had stored the frame. The repeated write then finds its own frame and is
    /// refused.
    async fn is_stored(&self, frame: &[u8]) -> bool {
        let Some((store, key)) = self.handle.remote_tier_and_key() else { return false };
        let comparison = FrameComparison { handle: &self.handle, frame };
        let read = store.read(&key, &comparison, IfMissing::Report).await;
        matches!(read, Ok(ReadOutcome::Item(Item { value: Some(true), .. })))
    }
}
