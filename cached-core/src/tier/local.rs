//! The local tier: this process's memory, bounded by bytes.
//!
//! Every hit reads the [`index`]; which entries have to go is the [`policy`]'s to say, and what has
//! expired is taken out by the [`sweeper`]. Whoever changes the entry of a key holds the lock of its
//! stripe, and changes the index before the policy: an entry that the policy lets go of at once is
//! found there. Taking an entry out needs no lock, for it is told from every other.

mod aside;
mod entry;
pub(crate) mod index;
mod kept;
mod order;
mod policy;
mod sweeper;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use entry::{Entry, EntryId, Given, Known, weigh};
use index::{Index, ReadGuard};
use kept::Put;
use order::{Sequence, Sequences};
use policy::{Name, Policy};
use sweeper::Due;

use crate::clock::{Clock, CoarseInstant};
use crate::event::Events;
use crate::key::{KeyHeader, KeyQuery};
use crate::value::Value;

pub(crate) use aside::run_deferred_drops;
pub(crate) use entry::Expiry;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keys share so many locks.
const STRIPES: usize = 256;

/// Apart from what every hit reads and nobody writes.
#[derive(Default)]
#[repr(align(128))]
struct Filling {
    /// How often something was stored while entries may have to go.
    stored: AtomicU32,
    /// The policy is told of a hit when so many were stored since.
    told_after: AtomicU32,
}

/// Keys that share a lock.
#[derive(Default)]
struct Stripe {
    /// Held by whoever changes the store, so that no publication can slip in behind the invalidation
    /// that overtook it.
    changing: Mutex<()>,
    /// Counts the invalidations of these keys. Counted before the entry goes, so that whoever sees
    /// the count without the lock began after the invalidation did.
    invalidated: AtomicU64,
    fetches: Sequences,
}

pub(crate) struct LocalTier {
    here: Weak<LocalTier>,
    index: Index,
    policy: Policy,
    filling: Filling,
    due: Arc<Due>,
    stripes: Vec<Stripe>,
    clock: Clock,
    #[allow(dead_code, reason = "evictions are not reported yet")]
    events: Events,
    /// Dropped after the entries.
    _rest: Rest,
}

/// Drops what the entries leave behind, which was put aside like anything else.
struct Rest;

/// What the local tier was like before a fetch or a remote read began: publishing under it does
/// nothing if the key was invalidated or overwritten since. Keys share stripes, so a publication
/// may be given up for another key's sake; that costs a fetch, never a wrong value.
#[derive(Clone, Copy)]
pub(crate) struct FillToken {
    hash: u32,
    /// When what is published under it was asked for.
    sequence: Sequence,
    count: u64,
}

/// How far an entry is in its life.
pub(crate) struct EntryAge {
    /// How long the entry answers yet. Zero if it has expired.
    pub(crate) remaining: Duration,
    /// How long the entry answers in all.
    pub(crate) ttl: Duration,
}

/// At the end of a thread the index cannot be read.
struct AtTheEnd;

/// Whether a publication may replace an entry that is still alive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteMode {
    Once,
    /// One that was not asked for later.
    Replace,
}

impl LocalTier {
    #[cfg(test)]
    pub(crate) fn new(capacity: u64, clock: Clock) -> Arc<LocalTier> {
        LocalTier::reporting(capacity, clock, Events::new(Vec::new()))
    }

    /// Creates a tier that reports its evictions to `events`.
    pub(crate) fn reporting(capacity: u64, clock: Clock, events: Events) -> Arc<LocalTier> {
        let due = Due::new(clock.clone());
        let local = Arc::new_cyclic(|here| LocalTier {
            here: here.clone(),
            index: Index::new(),
            policy: Policy::new(capacity),
            filling: Filling { told_after: AtomicU32::new(u32::MAX), ..Filling::default() },
            due: Arc::clone(&due),
            stripes: (0..STRIPES).map(|_| Stripe::default()).collect(),
            clock,
            events,
            _rest: Rest,
        });
        sweeper::watch(&local, &due);
        local
    }

    /// Begins a look, which is held while something is found. `None` at the end of a thread.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn read(&self) -> Option<ReadGuard<'_>> {
        self.index.read()
    }

    /// The value, where it is served as it is: the entry is surely alive, and the policy need not be
    /// told.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn find<'r>(
        &self,
        reading: &'r ReadGuard<'_>,
        key: &impl KeyQuery,
    ) -> Option<&'r Value> {
        let (entry, known) = reading.find(key)?;
        let is_served = entry.is_surely_alive(self.clock.coarse())
            && !known.is_to_be_told(self.stored(), self.told_after());
        is_served.then(|| entry.value())
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn stored(&self) -> u32 {
        self.filling.stored.load(Ordering::Relaxed)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn told_after(&self) -> u32 {
        self.filling.told_after.load(Ordering::Relaxed)
    }

    /// The value that a call asks for, of which the policy is told now and then.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Value> {
        let found = self.look(key);
        run_deferred_drops();
        found
    }

    fn look(&self, key: &[u8]) -> Option<Value> {
        let reading = self.read()?;
        let Some((entry, known)) = self.find_alive(&reading, key) else {
            drop(reading);
            if self.policy.is_filling() {
                self.policy.asked_for(Name::of(key));
                self.take_out_gone();
            }
            return None;
        };
        let value = Arc::clone(entry.value());
        let stored = self.stored();
        let is_to_be_told = known.is_to_be_told(stored, self.told_after());
        if is_to_be_told {
            known.is_told(stored);
        }
        // moka may have much to do, and what goes meanwhile need not wait for that.
        drop(reading);
        if is_to_be_told {
            self.policy.asked_for(Name::of(key));
            self.take_out_gone();
        }
        Some(value)
    }

    /// Finds an entry that is alive, by the precise clock.
    fn find_alive<'r>(
        &self,
        reading: &'r ReadGuard<'_>,
        key: &[u8],
    ) -> Option<(&'r Entry, &'r Known)> {
        reading.find(&key).filter(|(entry, _)| entry.is_alive(self.now()))
    }

    /// The time by the precise clock.
    fn now(&self) -> CoarseInstant {
        self.due.now()
    }

    /// Finds the value of a key that was looked for and not found: the policy does not take that for
    /// another wish to have it. It admits what is asked for more often.
    pub(crate) fn peek(&self, key: &[u8]) -> Option<Value> {
        let reading = self.read()?;
        let (entry, _) = self.find_alive(&reading, key)?;
        Some(Arc::clone(entry.value()))
    }

    /// Does the same, and gives a fill token for what is to be published where nothing is found. For who
    /// leads a flight: no value is dropped here.
    pub(crate) fn peek_or_fill_token(&self, key: &[u8]) -> Result<Value, FillToken> {
        let fill_token = self.fill_token(key);
        self.peek(key).ok_or(fill_token)
    }

    /// Returns how far the entry of a key is in its life, if there is an entry.
    pub(crate) fn entry_age(&self, key: &[u8]) -> Option<EntryAge> {
        let reading = self.read()?;
        let (entry, _) = reading.find(&key)?;
        Some(EntryAge { remaining: entry.left(self.now()), ttl: entry.life() })
    }

    /// The value also where it has expired and is kept for a fetch that fails. For who leads a flight:
    /// no other value is dropped here.
    pub(crate) fn get_stale(&self, key: &[u8]) -> Option<Value> {
        let reading = self.read()?;
        let (entry, _) = reading.find(&key)?;
        (self.now() < entry.gone()).then(|| Arc::clone(entry.value()))
    }

    pub(crate) fn fill_token(&self, key: &[u8]) -> FillToken {
        let hash = KeyHeader::read(key).hash();
        let stripe = self.stripe(hash);
        let count = stripe.invalidated.load(Ordering::Acquire);
        FillToken { hash, sequence: stripe.fetches.now(), count }
    }

    /// Makes the fill token that of a fetch that begins now.
    pub(crate) fn assign_fetch_sequence(&self, fill_token: &mut FillToken) {
        fill_token.sequence = self.stripe(fill_token.hash).fetches.next();
    }

    /// Makes it that of what is read or given now.
    pub(crate) fn assign_read_sequence(&self, fill_token: &mut FillToken) {
        fill_token.sequence = self.stripe(fill_token.hash).fetches.now();
    }

    /// Whether nobody has changed the entry since.
    pub(crate) fn is_current(&self, fill_token: FillToken) -> bool {
        self.stripe(fill_token.hash).invalidated.load(Ordering::Acquire) == fill_token.count
    }

    fn stripe(&self, hash: u32) -> &Stripe {
        &self.stripes[hash as usize % STRIPES]
    }

    /// The right to change the store under this fill token; `None` where it is out of date.
    fn change(&self, fill_token: FillToken) -> Option<MutexGuard<'_, ()>> {
        let stripe = self.stripe(fill_token.hash);
        let changing = lock(&stripe.changing);
        (stripe.invalidated.load(Ordering::Relaxed) == fill_token.count).then_some(changing)
    }

    /// Stores `value` for its life, unless the fill token is out of date, or an entry is alive and the
    /// `write` may not replace it. Returns whether it is stored. Also for who leads a flight: what goes
    /// is put aside, until [`run_deferred_drops`].
    pub(crate) fn publish(
        &self,
        key: &[u8],
        fill_token: FillToken,
        mode: WriteMode,
        value: &Value,
        weight: usize,
        expiry: Expiry,
    ) -> bool {
        if expiry.ttl.is_zero() || self.policy.keeps_nothing() {
            return false;
        }
        let put = {
            let Some(reading) = self.read() else { return false };
            let Some(_changing) = self.change(fill_token) else { return false };
            let there = reading.find(&key).map(|(entry, _)| entry);
            if let Some(alive) = there.filter(|entry| entry.is_alive(self.now()))
                && (mode == WriteMode::Once || alive.sequence.is_after(fill_token.sequence))
            {
                return false;
            }
            let given =
                Given { value, weight: weigh(key.len(), weight), sequence: fill_token.sequence };
            self.put(&reading, key, given, expiry)
        };
        self.have_kept(&put);
        true
    }

    /// Puts an entry into the index, in the place of another.
    fn put(&self, reading: &ReadGuard<'_>, key: &[u8], given: Given<'_>, expiry: Expiry) -> Put {
        let is_admitted = self.policy.is_filling();
        let stored = if is_admitted { self.count_stored() } else { self.stored() };
        let id = EntryId::new(key);
        let entry = Entry::new(id, key, self.due.since(), given, expiry);
        let gone = entry.gone();
        let fills = self.policy.added(given.weight);
        let known = Known::new(given.weight, stored, is_admitted);
        if let Some(weight) = reading.insert(entry, known) {
            self.policy.removed(weight);
        }
        self.due.at(gone);
        Put { id, weight: given.weight, is_admitted, fills }
    }

    /// Lets the entry that holds just this `value`, which memcached has now, live for `life`, if it
    /// is still there. If what is there was read in memcached while the value was fetched or on its way,
    /// it goes: memcached has the value, or what has replaced it since.
    pub(crate) fn extend(&self, key: &[u8], fill_token: FillToken, value: &Value, expiry: Expiry) {
        match self.extended(key, fill_token, value, expiry) {
            Some(Ok(put)) => self.have_kept(&put),
            Some(Err(out)) => self.policy.dismiss(out),
            None => {}
        }
    }

    /// Returns what was put into the index, or taken out of it.
    fn extended(
        &self,
        key: &[u8],
        fill_token: FillToken,
        value: &Value,
        expiry: Expiry,
    ) -> Option<Result<Put, Name>> {
        let reading = self.read()?;
        let _changing = self.change(fill_token)?;
        let (entry, known) = reading.find(&key)?;
        if Arc::ptr_eq(entry.value(), value) {
            let is_longer = entry.left(self.now()) < expiry.left(self.clock.now());
            let given = Given { value, weight: known.weight, sequence: entry.sequence };
            is_longer.then(|| Ok(self.put(&reading, key, given, expiry)))
        } else if entry.sequence.is_after(fill_token.sequence) && !entry.sequence.is_fetch() {
            Some(Err(self.take_out(&reading, entry)))
        } else {
            None
        }
    }

    /// Takes out the entry of a key, and returns its name. `Err` at the end of a thread.
    fn take_out_key(&self, key: &[u8]) -> Result<Option<Name>, AtTheEnd> {
        let reading = self.read().ok_or(AtTheEnd)?;
        let found = reading.find(&key);
        let out = found.map(|(entry, _)| self.take_out(&reading, entry));
        if out.is_some() {
            reading.flush();
        }
        Ok(out)
    }

    /// Removes what has expired and is kept for a fetch that fails, unless the fill token is out of date.
    /// Also for who leads a flight: what goes is put aside, until [`run_deferred_drops`].
    pub(crate) fn remove_expired(&self, key: &[u8], fill_token: FillToken) {
        let out = || {
            let reading = self.read()?;
            let _changing = self.change(fill_token)?;
            let (entry, _) = reading.find(&key).filter(|(entry, _)| !entry.is_alive(self.now()))?;
            Some(self.take_out(&reading, entry))
        };
        if let Some(out) = out() {
            self.policy.dismiss(out);
        }
    }

    /// Removes the entry, and every publication under an earlier fill token. Returns the next fill token;
    /// `None` where `before` is out of date.
    pub(crate) fn invalidate(&self, key: &[u8], before: Option<FillToken>) -> Option<FillToken> {
        let hash = KeyHeader::read(key).hash();
        let stripe = self.stripe(hash);
        let changing = lock(&stripe.changing);
        let count = stripe.invalidated.load(Ordering::Relaxed);
        let in_time = before.is_none_or(|before| before.count == count);
        let count = count + 1;
        stripe.invalidated.store(count, Ordering::Release);
        let out = self.take_out_key(key).or_else(|AtTheEnd| {
            // The entry is to be gone all the same.
            thread::scope(|scope| {
                let elsewhere = thread::Builder::new();
                let elsewhere = elsewhere.spawn_scoped(scope, || self.take_out_key(key));
                elsewhere.map_or(Err(AtTheEnd), |out| out.join().unwrap_or(Err(AtTheEnd)))
            })
        });
        drop(changing);
        if let Ok(Some(out)) = out {
            self.policy.dismiss(out);
        }
        in_time.then_some(FillToken { hash, sequence: stripe.fetches.now(), count })
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        aside::run_all_deferred_drops();
    }
}

#[cfg(test)]
mod tests;
