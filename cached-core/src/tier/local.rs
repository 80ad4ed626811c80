//! The local tier: entries in this process's memory, bounded by their weight in bytes.
//!
//! Every hit reads the [`index`]. The [`policy`] decides what is evicted, and the [`sweeper`] removes
//! what has expired.
//!
//! A caller that changes the entry of a key holds the lock of the key's stripe. It changes the index
//! before it tells the policy, because the policy may evict a new entry at once and must find it. No lock
//! is needed to remove an entry, because an entry has an id.

mod bookkeeping;
mod deferred_drops;
mod entry;
pub(crate) mod index;
mod policy;
mod sequence;
mod sweeper;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::Duration;

use bookkeeping::{HitReportThrottle, InsertedEntry};
use crossbeam_utils::CachePadded;
use entry::{EntryId, EntryPolicyState, LocalEntry, NewEntry, entry_weight};
use index::{EntryIndex, IndexGuard};
use policy::{EvictionPolicy, KeyFingerprint};
use sequence::{SequenceCounter, SequenceNumber};
use sweeper::SweepSchedule;

use crate::clock::{Clock, CoarseInstant};
use crate::event::{Event, EventDispatcher, EventSubject, EvictionReason};
use crate::key::{KeyHeader, KeyQuery};
use crate::sync::lock;
use crate::value::Value;

pub(crate) use deferred_drops::run_deferred_drops;
pub(crate) use entry::Expiry;

const STRIPE_COUNT: usize = 256;

/// The keys that share a lock.
#[derive(Default)]
struct KeyStripe {
    /// Held while an entry is inserted or invalidated, so that a fill that an invalidation overtook
    /// cannot be inserted after it.
    lock: Mutex<()>,
    /// How often an entry of these keys was invalidated. It is raised before the entry is removed, so
    /// a fill that reads the new number began after the invalidation.
    epoch: AtomicU64,
    sequences: SequenceCounter,
}

pub(crate) struct LocalTier {
    weak: Weak<LocalTier>,
    index: EntryIndex,
    policy: EvictionPolicy,
    /// Padded, because an insertion writes it and every hit reads the fields around it.
    report_throttle: CachePadded<HitReportThrottle>,
    schedule: Arc<SweepSchedule>,
    stripes: Vec<KeyStripe>,
    clock: Clock,
    events: EventDispatcher,
    /// The last field, and so dropped after the entries.
    _deferred_drops_runner: DeferredDropsRunner,
}

/// Runs all deferred drops when it is dropped.
struct DeferredDropsRunner;

/// Permits a fill as long as it is current. A fill whose key was invalidated or overwritten since its
/// token was made is refused.
///
/// Keys share stripes, so a fill may also be refused because of another key. That costs a fetch, and
/// never gives a wrong value.
#[derive(Clone, Copy)]
pub(crate) struct FillToken {
    hash: u32,
    sequence: SequenceNumber,
    epoch: u64,
}

/// An entry's progress through its time to live.
pub(crate) struct RemainingTtl {
    /// The time until the entry expires; zero if it has.
    pub(crate) remaining: Duration,
    /// The whole time to live.
    pub(crate) ttl: Duration,
}

/// The calling thread is ending and has no thread-locals, so it cannot read the index.
struct ThreadEndingError;

/// Says which live entries a fill may replace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteMode {
    /// None.
    Once,
    /// Those whose fetch began earlier.
    Replace,
}

impl LocalTier {
    /// Creates a tier that reports its evictions to `events`.
    pub(crate) fn new(capacity: u64, clock: Clock, events: EventDispatcher) -> Arc<LocalTier> {
        let schedule = SweepSchedule::new(clock.clone());
        let local = Arc::new_cyclic(|weak| LocalTier {
            weak: weak.clone(),
            index: EntryIndex::new(),
            policy: EvictionPolicy::new(capacity),
            report_throttle: CachePadded::new(HitReportThrottle::new()),
            schedule: Arc::clone(&schedule),
            stripes: (0..STRIPE_COUNT).map(|_| KeyStripe::default()).collect(),
            clock,
            events,
            _deferred_drops_runner: DeferredDropsRunner,
        });
        sweeper::register(&local, &schedule);
        local
    }

    /// Returns how many entries there are, also those that have expired and are not yet removed.
    pub(crate) fn entry_count(&self) -> usize {
        self.index.len()
    }

    /// Returns the weight of all entries, in bytes.
    pub(crate) fn weight(&self) -> u64 {
        self.policy.weight()
    }

    /// Begins to read the index. Returns `None` while the thread ends.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn index_guard(&self) -> Option<IndexGuard<'_>> {
        self.index.guard()
    }

    /// Returns the value of a hit that needs no more work: the entry is live by the coarse clock, and no
    /// report to the policy is due. Any other hit must go through [`get`](Self::get).
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn find<'r>(
        &self,
        guard: &'r IndexGuard<'_>,
        key: &impl KeyQuery,
    ) -> Option<&'r Value> {
        let (entry, state) = guard.find(key)?;
        let is_plain_hit =
            entry.is_surely_live(self.clock.coarse()) && !self.report_throttle.is_due(state);
        is_plain_hit.then(|| entry.value())
    }

    /// Returns the value of a live entry, and tells the policy of the lookup if that is due.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Value> {
        let value = self.find_and_report(key);
        run_deferred_drops();
        value
    }

    fn find_and_report(&self, key: &[u8]) -> Option<Value> {
        let guard = self.index_guard()?;
        let (value, report) = match self.find_live(&guard, key) {
            Some((entry, state)) => {
                let report = self.report_throttle.is_due(state);
                if report {
                    state.set_reported(self.report_throttle.insertions());
                }
                (Some(Arc::clone(entry.value())), report)
            }
            None => (None, self.policy.is_active()),
        };
        // moka may take its time, and no removed entry should wait for that to be freed.
        drop(guard);
        if report {
            self.policy.record_lookup(KeyFingerprint::of(key));
            self.remove_evicted();
        }
        value
    }

    /// Finds an entry that is live by the precise clock.
    fn find_live<'r>(
        &self,
        guard: &'r IndexGuard<'_>,
        key: &[u8],
    ) -> Option<(&'r LocalEntry, &'r EntryPolicyState)> {
        guard.find(&key).filter(|(entry, _)| entry.is_live(self.now()))
    }

    /// Returns the time of the precise clock.
    fn now(&self) -> CoarseInstant {
        self.schedule.now()
    }

    /// Returns the value of a live entry, for a call that has looked for it before. This lookup does not
    /// raise the key's frequency in the policy. It runs no deferred drops.
    pub(crate) fn peek(&self, key: &[u8]) -> Option<Value> {
        let guard = self.index_guard()?;
        let (entry, _) = self.find_live(&guard, key)?;
        Some(Arc::clone(entry.value()))
    }

    /// Does the same as [`peek`](Self::peek), and returns a token for a fill if there is no entry.
    pub(crate) fn peek_or_fill_token(&self, key: &[u8]) -> Result<Value, FillToken> {
        let fill_token = self.fill_token(key);
        self.peek(key).ok_or(fill_token)
    }

    pub(crate) fn remaining_ttl(&self, key: &[u8]) -> Option<RemainingTtl> {
        let guard = self.index_guard()?;
        let (entry, _) = guard.find(&key)?;
        Some(RemainingTtl { remaining: entry.time_left(self.now()), ttl: entry.ttl() })
    }

    /// Returns a value that has not expired, or whose stale period is not over. It runs no deferred
    /// drops.
    pub(crate) fn get_stale(&self, key: &[u8]) -> Option<Value> {
        let guard = self.index_guard()?;
        let (entry, _) = guard.find(&key)?;
        (self.now() < entry.removable_at()).then(|| Arc::clone(entry.value()))
    }

    /// Returns a token for a fill with a value that is read now.
    pub(crate) fn fill_token(&self, key: &[u8]) -> FillToken {
        let hash = KeyHeader::read(key).hash();
        let stripe = self.stripe(hash);
        let epoch = stripe.epoch.load(Ordering::Acquire);
        FillToken { hash, sequence: stripe.sequences.current(), epoch }
    }

    /// Makes this the token of a fetch that begins now.
    pub(crate) fn assign_fetch_sequence(&self, fill_token: &mut FillToken) {
        fill_token.sequence = self.stripe(fill_token.hash).sequences.next_fetch();
    }

    /// Makes this the token of a value that is read or given now.
    pub(crate) fn assign_read_sequence(&self, fill_token: &mut FillToken) {
        fill_token.sequence = self.stripe(fill_token.hash).sequences.current();
    }

    /// Returns true if the key was not invalidated or overwritten since the token was made.
    pub(crate) fn is_current(&self, fill_token: FillToken) -> bool {
        self.stripe(fill_token.hash).epoch.load(Ordering::Acquire) == fill_token.epoch
    }

    fn stripe(&self, hash: u32) -> &KeyStripe {
        &self.stripes[hash as usize % STRIPE_COUNT]
    }

    /// Locks the key's stripe. Returns `None` if the token is out of date.
    fn lock_if_current(&self, fill_token: FillToken) -> Option<MutexGuard<'_, ()>> {
        let stripe = self.stripe(fill_token.hash);
        let locked = lock(&stripe.lock);
        (stripe.epoch.load(Ordering::Relaxed) == fill_token.epoch).then_some(locked)
    }

    /// Stores a value. Returns false if the token is out of date, or if there is a live entry that
    /// `mode` does not replace.
    ///
    /// The caller may lead a flight: no deferred drops are run.
    pub(crate) fn publish(
        &self,
        key: &[u8],
        fill_token: FillToken,
        mode: WriteMode,
        value: &Value,
        weight: usize,
        expiry: Expiry,
    ) -> bool {
        if expiry.ttl.is_zero() || self.policy.has_no_capacity() {
            return false;
        }
        let insertion = {
            let Some(guard) = self.index_guard() else { return false };
            let Some(_locked) = self.lock_if_current(fill_token) else { return false };
            if let Some((live, _)) = self.find_live(&guard, key)
                && (mode == WriteMode::Once || live.sequence.is_after(fill_token.sequence))
            {
                return false;
            }
            let weight = entry_weight(key.len(), weight);
            let new = NewEntry { value, weight, sequence: fill_token.sequence };
            self.insert(&guard, key, new, expiry)
        };
        if insertion.has_replaced_entry {
            let (entry, reason) = (EventSubject::of(key), EvictionReason::Replaced);
            self.events.emit(&Event::Evicted { entry, reason });
        }
        self.tell_policy(&insertion);
        true
    }

    /// Inserts an entry into the index, in place of another one with the same key.
    fn insert(
        &self,
        guard: &IndexGuard<'_>,
        key: &[u8],
        new: NewEntry<'_>,
        expiry: Expiry,
    ) -> InsertedEntry {
        let is_admitted = self.policy.is_active();
        let insertions =
            if is_admitted { self.count_insertion() } else { self.report_throttle.insertions() };
        let id = EntryId::new(key);
        let entry = LocalEntry::new(id, key, self.schedule.converter(), new, expiry);
        let removable_at = entry.removable_at();
        let activates_policy = self.policy.add_weight(new.weight);
        let state = EntryPolicyState::new(new.weight, insertions, is_admitted);
        let replaced = guard.insert(entry, state);
        replaced.into_iter().for_each(|weight| self.policy.subtract_weight(weight));
        self.schedule.add(removable_at);
        let has_replaced_entry = replaced.is_some();
        InsertedEntry { id, weight: new.weight, is_admitted, activates_policy, has_replaced_entry }
    }

    /// Gives the entry that holds exactly this value a longer expiry, once memcached has confirmed it.
    ///
    /// Removes an entry that was read from memcached while the value was fetched or sent: memcached now
    /// has the value, or a later one.
    pub(crate) fn extend(&self, key: &[u8], fill_token: FillToken, value: &Value, expiry: Expiry) {
        match self.extend_or_remove(key, fill_token, value, expiry) {
            Some(Ok(insertion)) => self.tell_policy(&insertion),
            Some(Err(removed)) => self.policy.forget(removed),
            None => {}
        }
    }

    /// Returns the insertion of the extended entry, or as an error the entry that was removed.
    fn extend_or_remove(
        &self,
        key: &[u8],
        fill_token: FillToken,
        value: &Value,
        expiry: Expiry,
    ) -> Option<Result<InsertedEntry, KeyFingerprint>> {
        let guard = self.index_guard()?;
        let _locked = self.lock_if_current(fill_token)?;
        let (entry, state) = guard.find(&key)?;
        if Arc::ptr_eq(entry.value(), value) {
            let is_longer = entry.time_left(self.now()) < expiry.time_left(self.clock.now());
            let new = NewEntry { value, weight: state.weight, sequence: entry.sequence };
            is_longer.then(|| Ok(self.insert(&guard, key, new, expiry)))
        } else if entry.sequence.is_after(fill_token.sequence) && !entry.sequence.is_fetch() {
            Some(Err(self.remove(&guard, entry, EvictionReason::Replaced)))
        } else {
            None
        }
    }

    /// Removes an expired entry, unless the token is out of date. It runs no deferred drops.
    pub(crate) fn remove_expired(&self, key: &[u8], fill_token: FillToken) {
        let remove = || {
            let guard = self.index_guard()?;
            let _locked = self.lock_if_current(fill_token)?;
            let (entry, _) = guard.find(&key).filter(|(entry, _)| !entry.is_live(self.now()))?;
            Some(self.remove(&guard, entry, EvictionReason::Expired))
        };
        if let Some(removed) = remove() {
            self.policy.forget(removed);
        }
    }

    /// Removes the entry, and has every fill with an earlier token refused.
    ///
    /// Returns the next token. Returns `None` if `before` is out of date.
    pub(crate) fn invalidate(&self, key: &[u8], before: Option<FillToken>) -> Option<FillToken> {
        let hash = KeyHeader::read(key).hash();
        let stripe = self.stripe(hash);
        let locked = lock(&stripe.lock);
        let epoch = stripe.epoch.load(Ordering::Relaxed);
        let is_current = before.is_none_or(|before| before.epoch == epoch);
        let epoch = epoch + 1;
        stripe.epoch.store(epoch, Ordering::Release);
        let removed = self.remove_key(key).or_else(|ThreadEndingError| {
            // This thread cannot read the index, so another one removes the entry.
            thread::scope(|scope| {
                let thread = thread::Builder::new().spawn_scoped(scope, || self.remove_key(key));
                thread.map_or(Err(ThreadEndingError), |it| {
                    it.join().unwrap_or(Err(ThreadEndingError))
                })
            })
        });
        drop(locked);
        if let Ok(Some(removed)) = removed {
            self.policy.forget(removed);
        }
        is_current.then_some(FillToken { hash, sequence: stripe.sequences.current(), epoch })
    }

    /// Removes the entry of a key from the index; see [`remove`](Self::remove).
    fn remove_key(&self, key: &[u8]) -> Result<Option<KeyFingerprint>, ThreadEndingError> {
        let guard = self.index_guard().ok_or(ThreadEndingError)?;
        let remove = |entry| self.remove(&guard, entry, EvictionReason::Invalidated);
        let removed = guard.find(&key).map(|(entry, _)| remove(entry));
        if removed.is_some() {
            guard.flush();
        }
        Ok(removed)
    }
}

impl fmt::Debug for LocalTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalTier")
            .field("entries", &self.entry_count())
            .field("bytes", &self.weight())
            .finish()
    }
}

impl Drop for DeferredDropsRunner {
    fn drop(&mut self) {
        deferred_drops::run_all_deferred_drops();
    }
}

#[cfg(test)]
mod tests;
