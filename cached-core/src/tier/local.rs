//! The local tier: entries in this process's memory, bounded by their weight in bytes.
//!
//! Every hit reads the [`index`], the table of all entries. The [`policy`] decides which entries
//! are evicted, and the [`sweeper`] removes expired entries.
//!
//! A *fill* stores a value that was fetched, read from memcached or passed in by the program. A
//! [`FillToken`] keeps a fill from undoing an invalidation that began after the value was obtained.
//! A value's *sequence number* is the value's position in the order in which fetches began.
//!
//! The keys are divided into *stripes* by their hash, and each stripe has a lock. The lock is held
//! while an entry is inserted or invalidated. Evictions and sweeps need no lock, because they
//! remove an entry by its unique id.
//!
//! An entry is inserted into the index before the policy is told of it, because the policy may
//! evict the entry at once.
//!
//! The value of a removed entry is not dropped at once. The module [`deferred_drops`] *defers* the
//! drop until the value's `Drop` cannot cause a deadlock.

mod bookkeeping;
mod clearing;
mod deferred_drops;
mod entry;
pub(crate) mod index;
mod policy;
#[cfg(all(feature = "console", feature = "memcached"))]
mod search;
mod sequence;
mod sweeper;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::Duration;

use bookkeeping::{HitReportThrottle, InsertedEntry, RemovedEntry};
use crossbeam_utils::CachePadded;
use entry::{EntryContent, EntryId, EntryPolicyState, LocalEntry, entry_weight};
use index::{EntryIndex, IndexGuard};
use policy::{EvictionPolicy, KeyFingerprint};
use sequence::{FetchSequenceNumber, SequenceCounter};
use sweeper::SweepSchedule;

use crate::clock::{Clock, CoarseInstant};
use crate::event::{Event, EventDispatcher, EventSubject, EvictionReason};
use crate::key::{KeyHeader, KeyQuery};
use crate::sync::lock;
use crate::value::Value;

pub(crate) use deferred_drops::run_deferred_drops;
pub(crate) use entry::Expiry;
#[cfg(all(feature = "console", feature = "memcached"))]
pub(crate) use search::EntryMetadata;

const STRIPE_COUNT: usize = 256;

/// The lock and the counters of the keys that share a stripe.
#[derive(Default)]
struct KeyStripe {
    /// Held while an entry is inserted or invalidated. A fill checks its token under this lock, so
    /// an invalidation cannot come between the check and the insertion.
    lock: Mutex<()>,
    /// Counts the calls of [`LocalTier::invalidate`] for these keys, and all calls of
    /// [`LocalTier::begin_clearing`]. The count is raised before an entry is removed. A token with
    /// the new count was therefore created after the removal began.
    epoch: AtomicU64,
    sequences: SequenceCounter,
}

/// The local tier of one cache.
pub(crate) struct LocalTier {
    weak: Weak<LocalTier>,
    index: EntryIndex,
    policy: EvictionPolicy,
    /// Limits how often the policy is told of hits. It is padded to separate cache lines:
    /// insertions write its counters, and every hit reads the fields around it.
    report_throttle: CachePadded<HitReportThrottle>,
    schedule: Arc<SweepSchedule>,
    stripes: Vec<KeyStripe>,
    clock: Clock,
    events: EventDispatcher,
    /// Must be the last field, so that the entries are dropped first, and this field then runs
    /// their deferred drops.
    _deferred_drops_runner: DeferredDropsRunner,
}

/// Runs all deferred drops when it is dropped.
struct DeferredDropsRunner;

/// The permission to store a value for a key. The token is *current* until the program invalidates
/// or overwrites the key, and then *out of date*. A fill with a token that is out of date is
/// refused.
///
/// Keys share stripes, so an invalidation of another key can also make the token out of date. The
/// refused fill then costs another fetch, but no call receives a wrong value.
#[derive(Clone, Copy)]
pub(crate) struct FillToken {
    /// The key's hash, which selects the key's stripe.
    hash: u32,
    sequence: FetchSequenceNumber,
    epoch: u64,
}

/// The time to live of an entry, and how much of it is left.
pub(crate) struct RemainingTtl {
    /// The time until the entry expires; zero if the entry has expired.
    pub(crate) remaining: Duration,
    /// The time to live that the entry was inserted with.
    pub(crate) ttl: Duration,
}

/// The error of an operation on a thread that is ending. The thread cannot read the index, because
/// its thread-locals are destroyed.
struct ThreadEndingError;

/// Says whether a fill may replace a live entry. A fill in either mode replaces an expired entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteMode {
    /// The fill replaces no live entry.
    Once,
    /// The fill replaces a live entry, except one whose sequence number is later than the fill's.
    Replace,
}

impl LocalTier {
    /// Creates a tier that emits an event to `events` for each eviction.
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

    /// Returns the number of entries, including expired entries that have not been removed yet.
    pub(crate) fn entry_count(&self) -> usize {
        self.index.len()
    }

    /// Returns the weight of all entries, in bytes.
    pub(crate) fn weight(&self) -> u64 {
        self.policy.weight()
    }

    /// Returns access to the index, or `None` if the thread is ending.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn index_guard(&self) -> Option<IndexGuard<'_>> {
        self.index.guard()
    }

    /// Returns the value if the lookup is a *plain hit*. In a plain hit, the entry is certainly
    /// live by the coarse clock, which is fast to read, and the policy need not be told of the hit.
    /// If this method returns `None`, the caller must look the key up with [`get`](Self::get).
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

    /// Returns the value of a live entry, and runs deferred drops. An active policy is told of
    /// every miss, but of a hit only now and then (see [`HitReportThrottle`]).
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
        // The guard is dropped before the policy is told of the lookup. The policy's moka cache can
        // be slow, and a guard keeps removed entries in memory.
        drop(guard);
        if report {
            self.policy.record_lookup(KeyFingerprint::of(key));
            self.remove_evicted();
        }
        value
    }

    /// Returns the entry of a key if the entry is live by the precise clock.
    fn find_live<'r>(
        &self,
        guard: &'r IndexGuard<'_>,
        key: &[u8],
    ) -> Option<(&'r LocalEntry, &'r EntryPolicyState)> {
        guard.find(&key).filter(|(entry, _)| entry.is_live(self.now()))
    }

    /// Reads the precise clock.
    fn now(&self) -> CoarseInstant {
        self.schedule.now()
    }

    /// Returns the value of a live entry. The policy is not told of this lookup, because the caller
    /// has looked the key up before. No deferred drops are run.
    pub(crate) fn peek(&self, key: &[u8]) -> Option<Value> {
        let guard = self.index_guard()?;
        let (entry, _) = self.find_live(&guard, key)?;
        Some(Arc::clone(entry.value()))
    }

    /// Returns the value of a live entry as [`peek`](Self::peek) does. If there is no live entry,
    /// returns a token that was created before the lookup.
    pub(crate) fn peek_or_fill_token(&self, key: &[u8]) -> Result<Value, FillToken> {
        let fill_token = self.fill_token(key);
        self.peek(key).ok_or(fill_token)
    }

    /// Returns how much of the ttl of the key's entry is left, even if the entry has expired.
    pub(crate) fn remaining_ttl(&self, key: &[u8]) -> Option<RemainingTtl> {
        let guard = self.index_guard()?;
        let (entry, _) = guard.find(&key)?;
        Some(RemainingTtl { remaining: entry.time_left(self.now()), ttl: entry.ttl() })
    }

    /// Returns the value of a live entry, or of an expired entry that is kept as the answer for
    /// failed fetches (`stale_if_error`). No deferred drops are run.
    pub(crate) fn get_stale(&self, key: &[u8]) -> Option<Value> {
        let guard = self.index_guard()?;
        let (entry, _) = guard.find(&key)?;
        (self.now() < entry.removable_at()).then(|| Arc::clone(entry.value()))
    }

    /// Returns a token for a value that the caller is about to read from memcached, or that the
    /// program will pass in.
    pub(crate) fn fill_token(&self, key: &[u8]) -> FillToken {
        let hash = KeyHeader::read(key).hash();
        let stripe = self.stripe(hash);
        let epoch = stripe.epoch.load(Ordering::Acquire);
        FillToken { hash, sequence: stripe.sequences.current(), epoch }
    }

    /// Gives the token the sequence number of a fetch that begins now.
    pub(crate) fn assign_fetch_sequence(&self, fill_token: &mut FillToken) {
        fill_token.sequence = self.stripe(fill_token.hash).sequences.next_fetch();
    }

    /// Gives the token the sequence number of a value that the caller reads from memcached now, or
    /// that the program has passed in.
    pub(crate) fn assign_read_sequence(&self, fill_token: &mut FillToken) {
        fill_token.sequence = self.stripe(fill_token.hash).sequences.current();
    }

    /// Returns true if no key of the token's stripe has been invalidated or overwritten since the
    /// token was created.
    pub(crate) fn is_current(&self, fill_token: FillToken) -> bool {
        self.stripe(fill_token.hash).epoch.load(Ordering::Acquire) == fill_token.epoch
    }

    fn stripe(&self, hash: u32) -> &KeyStripe {
        &self.stripes[hash as usize % STRIPE_COUNT]
    }

    /// Locks the token's stripe. Returns `None` if the token is out of date.
    fn lock_if_current(&self, fill_token: FillToken) -> Option<MutexGuard<'_, ()>> {
        let stripe = self.stripe(fill_token.hash);
        let locked = lock(&stripe.lock);
        (stripe.epoch.load(Ordering::Relaxed) == fill_token.epoch).then_some(locked)
    }

    /// Stores a value. Returns false, and stores nothing, in these cases:
    ///
    /// - The token is out of date.
    /// - The key has a live entry that `mode` does not replace.
    /// - The ttl or the capacity is zero.
    /// - The thread is ending.
    ///
    /// No deferred drops are run: other calls might wait for the caller, and the `Drop` of a value
    /// might take long or call the function again.
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
        // This is the reason if the new entry replaces an expired entry that was not swept yet.
        let mut reason = EvictionReason::Expired;
        let insertion = {
            let Some(guard) = self.index_guard() else { return false };
            let Some(_locked) = self.lock_if_current(fill_token) else { return false };
            if let Some((live, _)) = self.find_live(&guard, key) {
                if mode == WriteMode::Once || live.sequence.is_after(fill_token.sequence) {
                    return false;
                }
                reason = EvictionReason::Replaced;
            }
            let weight = entry_weight(key.len(), weight);
            let FillToken { sequence, epoch, .. } = fill_token;
            let new = EntryContent { value, weight, sequence, epoch };
            self.insert(&guard, key, new, expiry)
        };
        if insertion.has_replaced_entry {
            let entry = EventSubject::of(key);
            self.events.emit(&Event::Evicted { entry, reason });
        }
        self.tell_policy(&insertion);
        true
    }

    /// Inserts an entry into the index, and removes an earlier entry with the same key. The caller
    /// must hold the lock of the key's stripe, and must pass the result to
    /// [`tell_policy`](Self::tell_policy) after it has released the lock.
    fn insert(
        &self,
        guard: &IndexGuard<'_>,
        key: &[u8],
        new: EntryContent<'_>,
        expiry: Expiry,
    ) -> InsertedEntry {
        let must_admit = self.policy.is_active();
        let insertions =
            if must_admit { self.count_insertion() } else { self.report_throttle.insertions() };
        let id = EntryId::new(key);
        let entry = LocalEntry::new(id, key, self.schedule.converter(), new, expiry);
        let removable_at = entry.removable_at();
        let activates_policy = self.policy.add_weight(new.weight);
        let state = EntryPolicyState::new(new.weight, insertions, must_admit);
        let replaced = guard.insert(entry, state);
        replaced.into_iter().for_each(|weight| self.policy.subtract_weight(weight));
        self.schedule.add(removable_at);
        let has_replaced_entry = replaced.is_some();
        InsertedEntry { id, weight: new.weight, must_admit, activates_policy, has_replaced_entry }
    }

    /// Extends the expiry of the key's entry if the entry holds exactly `value`. The caller must
    /// call this method only after memcached has confirmed the value.
    ///
    /// Removes the entry if it holds a different value that was read from memcached, or passed in
    /// by the program, after the token's fetch began. A value that was fetched later stays.
    /// memcached now has the confirmed value or a later one, so the entry's value is out of date.
    pub(crate) fn extend(&self, key: &[u8], fill_token: FillToken, value: &Value, expiry: Expiry) {
        match self.extend_or_remove(key, fill_token, value, expiry) {
            Some(Ok(insertion)) => self.tell_policy(&insertion),
            Some(Err(removed)) => self.report_removal(&removed, EvictionReason::Replaced),
            None => {}
        }
    }

    /// Returns `Ok` with the new entry that has the longer expiry, or `Err` with the entry that was
    /// removed. Returns `None` if the index was not changed.
    fn extend_or_remove(
        &self,
        key: &[u8],
        fill_token: FillToken,
        value: &Value,
        expiry: Expiry,
    ) -> Option<Result<InsertedEntry, RemovedEntry>> {
        let guard = self.index_guard()?;
        let _locked = self.lock_if_current(fill_token)?;
        let (entry, state) = guard.find(&key)?;
        if Arc::ptr_eq(entry.value(), value) {
            let is_longer = entry.time_left(self.now()) < expiry.time_left(self.clock.now());
            let (weight, sequence, epoch) = (state.weight, entry.sequence, entry.epoch);
            let new = EntryContent { value, weight, sequence, epoch };
            is_longer.then(|| Ok(self.insert(&guard, key, new, expiry)))
        } else if entry.sequence.is_after(fill_token.sequence) && !entry.sequence.is_fetch() {
            Some(Err(self.remove(&guard, entry)))
        } else {
            None
        }
    }

    /// Removes the key's entry if the entry has expired and the token is current. No deferred drops
    /// are run.
    pub(crate) fn remove_expired(&self, key: &[u8], fill_token: FillToken) {
        let remove = || {
            let guard = self.index_guard()?;
            let _locked = self.lock_if_current(fill_token)?;
            let (entry, _) = guard.find(&key).filter(|(entry, _)| !entry.is_live(self.now()))?;
            Some(self.remove(&guard, entry))
        };
        if let Some(removed) = remove() {
            self.report_removal(&removed, EvictionReason::Expired);
        }
    }

    /// Removes the key's entry, and makes all earlier tokens of the key's stripe out of date.
    ///
    /// Returns a new token, or `None` if the token `before` was out of date. In both cases the
    /// entry is removed.
    pub(crate) fn invalidate(&self, key: &[u8], before: Option<FillToken>) -> Option<FillToken> {
        let hash = KeyHeader::read(key).hash();
        let stripe = self.stripe(hash);
        let locked = lock(&stripe.lock);
        let epoch = stripe.epoch.load(Ordering::Relaxed);
        let is_current = before.is_none_or(|before| before.epoch == epoch);
        let epoch = epoch + 1;
        stripe.epoch.store(epoch, Ordering::Release);
        let removed = self.remove_key(key).or_else(|ThreadEndingError| {
            // This thread cannot read the index, so another thread removes the entry.
            thread::scope(|scope| {
                let thread = thread::Builder::new().spawn_scoped(scope, || self.remove_key(key));
                thread.map_or(Err(ThreadEndingError), |thread| {
                    thread.join().unwrap_or(Err(ThreadEndingError))
                })
            })
        });
        drop(locked);
        if let Ok(Some(removed)) = removed {
            self.report_removal(&removed, EvictionReason::Invalidated);
        }
        is_current.then_some(FillToken { hash, sequence: stripe.sequences.current(), epoch })
    }

    /// Removes the entry of a key from the index as [`remove`](Self::remove) does. Returns
    /// `Ok(None)` if there is no entry.
    fn remove_key(&self, key: &[u8]) -> Result<Option<RemovedEntry>, ThreadEndingError> {
        let guard = self.index_guard().ok_or(ThreadEndingError)?;
        let removed = guard.find(&key).map(|(entry, _)| self.remove(&guard, entry));
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
