//! The local tier: this process's memory, bounded by bytes.

mod entry;
pub(crate) mod mirror;
mod order;
mod refresh;
mod store;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use entry::{ByEntry, LocalEntry, Since, StoredKey, Wanted};
use mirror::{InHand, Kept};
use order::{Sequence, Sequences};
use refresh::Refreshing;
use store::{Inside, Store};

use crate::clock::Clock;
use crate::key::{ByHead, Head, Sought};
use crate::value::Value;

pub(crate) use entry::Life;
pub(crate) use refresh::{Refresh, ahead_of};
pub(crate) use store::drop_aside;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The part of its capacity that the mirrors may keep alive: one in so many bytes.
const MIRRORED: u64 = 16;
/// In the last bit of its life an entry is looked up in the store, with the precise clock. The
/// coarse one may be behind by a tick of the system's timer, which is some milliseconds.
const LAST_BIT: Duration = Duration::from_secs(1);

/// A hit of an entry is passed on to the store when so many others were stored since the last one
/// was: often enough for the store to see that the entry is in use, long before it is its turn to
/// go. While nothing is stored nothing has to go.
const PASSED_ON: u64 = 16;

/// Keys share so many marks; see [`mirror`]. Few, so that they stay in the processor's first cache: a
/// change makes each thread look up one in 256 of what it keeps once more.
const MARKS: usize = 256;

/// Apart from what every hit reads and nobody writes.
#[derive(Default)]
#[repr(align(128))]
struct Apart(AtomicU64);

/// Keys that share a mark.
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

pub(crate) struct Local {
    /// Tells this store's entries in a mirror from every other's.
    id: u64,
    entries: Store,
    /// What the mirrors may keep alive, in bytes.
    mirrored: u64,
    marks: Box<[AtomicU64; MARKS]>,
    /// How often something was stored.
    stored: Apart,
    since: Since,
    refreshing: Arc<Refreshing>,
    stripes: Vec<Stripe>,
    clock: Clock,
}

/// What the local tier was like before a fetch or a remote read began: publishing under it does
/// nothing if the key was invalidated or overwritten since. Keys share stripes, so a publication
/// may be given up for another key's sake; that costs a fetch, never a wrong value.
#[derive(Clone, Copy)]
pub(crate) struct Ticket {
    hash: u32,
    /// When what is published under it was asked for.
    sequence: Sequence,
    count: u64,
    /// The key's mark, where the key was looked for under it and not found: while the mark stands,
    /// the key is not there. See [`mirror`].
    absent: Option<Mark>,
}

/// What a key's mark was before it was looked for and not found. While it is the same, the key is
/// not there. See [`mirror`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64);

/// Whether a publication may replace an entry that is still alive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    Once,
    /// One that was not asked for later.
    Replace,
}

impl Local {
    pub(crate) fn new(capacity: u64, clock: Clock) -> Local {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let since = Since(clock.now());
        let entries = Cache::builder()
            .max_capacity(capacity)
            .weigher(|key: &StoredKey, entry: &LocalEntry| entry.weigh(key.len()))
            .expire_after(ByEntry(since))
            .build_with_hasher(ByHead);
        Local {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            entries: Store::new(entries),
            mirrored: capacity / MIRRORED,
            stored: Apart::default(),
            since,
            refreshing: Refreshing::new(clock.clone()),
            marks: Box::new([const { AtomicU64::new(0) }; MARKS]),
            stripes: (0..MARKS).map(|_| Stripe::default()).collect(),
            clock,
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Value, Mark> {
        // Not held where the store is asked, which keeps anew what it has.
        let kept = InHand::take().and_then(|in_hand| self.find_kept(&in_hand, &key).cloned());
        kept.map_or_else(|| self.get_from_store(key), Ok)
    }

    /// The value, if this thread keeps it.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn find_kept<'h>(
        &self,
        in_hand: &'h InHand,
        key: &impl Sought,
    ) -> Option<&'h Value> {
        let slot = in_hand.find(self.id, key)?;
        self.answers(key.head(), slot).then_some(&slot.value)
    }

    /// Whether what the thread keeps is served: it is what the store has, alive, and not to be
    /// passed on.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn answers(&self, head: Head, slot: &mirror::Slot) -> bool {
        slot.mark == self.mark(head.hash()).load(Ordering::Acquire)
            && self.stored().wrapping_sub(slot.stored) < PASSED_ON
            && self.clock.coarse() < slot.until
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn stored(&self) -> u64 {
        self.stored.0.load(Ordering::Relaxed)
    }

    /// The same without a look at what this thread keeps.
    pub(crate) fn get_from_store(&self, key: &[u8]) -> Result<Value, Mark> {
        let found = self.find_in_store(key);
        drop_aside();
        found
    }

    fn find_in_store(&self, key: &[u8]) -> Result<Value, Mark> {
        mirror::tidy();
        let mark = self.mark(Head::of(key).hash()).load(Ordering::Acquire);
        let entry = self.entries.enter().get(&Wanted(key)).ok_or(Mark(mark))?;
        // moka expires on its own clock's ticks; the promise is on ours.
        let left = entry.left(self.since, self.clock.now());
        let weight = entry.weigh(key.len());
        let value = entry.value.take().filter(|_| !left.is_zero()).ok_or(Mark(mark))?;
        if left > LAST_BIT {
            let until = self.clock.coarse() + (left - LAST_BIT);
            let kept = Kept { mark, until, stored: self.stored(), value: &value, weight };
            mirror::keep(self.id, key, kept, self.mirrored);
        }
        Ok(value)
    }

    /// The same for a key that was looked for and not found: if it is not there yet, the store does
    /// not take that for another wish to have it. It admits what is asked for more often.
    pub(crate) fn get_again(&self, key: &[u8]) -> Option<Value> {
        let is_there = self.entries.enter().contains_key(&Wanted(key));
        is_there.then(|| self.get_from_store(key).ok())?
    }

    /// The same, and a ticket for what is to be published where nothing is found. Nothing has to be
    /// looked for where it was `looked` for already and nothing has changed since. For who leads a
    /// flight: no value is dropped here, see [`store`], and none taken into a mirror, which may let go
    /// of others.
    pub(crate) fn get_or_ticket(&self, key: &[u8], looked: Option<Mark>) -> Result<Value, Ticket> {
        let ticket = self.ticket(key);
        let mark = Mark(self.mark(ticket.hash).load(Ordering::Acquire));
        let ticket = Ticket { absent: Some(mark), ..ticket };
        if looked == Some(mark) {
            return Err(ticket);
        }
        self.find_again(key).ok_or(ticket)
    }

    /// Apart, as it is rare.
    #[cold]
    fn find_again(&self, key: &[u8]) -> Option<Value> {
        let entries = self.entries.enter();
        self.find_alive(&entries, key)?.value.take()
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn mark(&self, hash: u32) -> &AtomicU64 {
        &self.marks[hash as usize % MARKS]
    }

    /// To be called after each change of the store, with the stripe locked; see [`mirror`]. So nobody
    /// else counts this mark, and what another did before happened before this.
    fn changed(&self, hash: u32) {
        let mark = self.mark(hash);
        mark.store(mark.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// The duty to refresh the entry, for one caller in the last `ahead` of its life; see
    /// [`ahead_of`].
    pub(crate) fn refresh(
        &self,
        key: &[u8],
        ahead: Duration,
        fetch_time: Option<Duration>,
    ) -> Option<Refresh> {
        if !self.is_due(key, ahead) {
            return None;
        }
        let refresh = self.refreshing.take(key, fetch_time)?;
        // Another may have refreshed it since.
        self.is_due(key, ahead).then_some(refresh)
    }

    fn is_due(&self, key: &[u8], ahead: Duration) -> bool {
        let Some(entry) = self.entries.enter().get(&Wanted(key)) else { return false };
        let left = entry.left(self.since, self.clock.now());
        let ahead = ahead_of(entry.life(), ahead);
        // A hit puts nothing aside: its caller has the value, mostly.
        drop(entry.value.take());
        left < ahead
    }

    /// The value also where it has expired and is kept for a fetch that fails. For who leads a flight:
    /// no other value is dropped here.
    pub(crate) fn get_stale(&self, key: &[u8]) -> Option<Value> {
        let entries = self.entries.enter();
        let is_kept = |entry: &LocalEntry| !entry.rest(self.since, self.clock.now()).is_zero();
        entries.get(&Wanted(key)).filter(is_kept)?.value.take()
    }

    pub(crate) fn ticket(&self, key: &[u8]) -> Ticket {
        let hash = Head::of(key).hash();
        let stripe = self.stripe(hash);
        let count = stripe.invalidated.load(Ordering::Acquire);
        Ticket { hash, sequence: stripe.fetches.now(), count, absent: None }
    }

    /// Makes the ticket that of a fetch that begins now.
    pub(crate) fn number_fetch(&self, ticket: &mut Ticket) {
        ticket.sequence = self.stripe(ticket.hash).fetches.next();
    }

    /// Makes it that of what is read or given now.
    pub(crate) fn number_given(&self, ticket: &mut Ticket) {
        ticket.sequence = self.stripe(ticket.hash).fetches.now();
    }

    /// Whether nobody has changed the entry since.
    pub(crate) fn is_current(&self, ticket: Ticket) -> bool {
        self.stripe(ticket.hash).invalidated.load(Ordering::Acquire) == ticket.count
    }

    fn stripe(&self, hash: u32) -> &Stripe {
        &self.stripes[hash as usize % MARKS]
    }

    /// The right to change the store under this ticket; `None` where it is out of date.
    fn change(&self, ticket: Ticket) -> Option<MutexGuard<'_, ()>> {
        let stripe = self.stripe(ticket.hash);
        let changing = lock(&stripe.changing);
        (stripe.invalidated.load(Ordering::Relaxed) == ticket.count).then_some(changing)
    }

    /// Stores `value` for its life, unless the ticket is out of date, or an entry is alive and the
    /// `write` may not replace it. Returns whether it is stored. Also for who leads a flight: what goes
    /// is put aside, until [`drop_aside`].
    pub(crate) fn publish(
        &self,
        key: &Arc<[u8]>,
        ticket: Ticket,
        write: Write,
        value: &Value,
        weight: usize,
        life: Life,
    ) -> bool {
        if life.fresh.is_zero() {
            return false;
        }
        let entries = self.entries.enter();
        let Some(_changing) = self.change(ticket) else { return false };
        let mark = Mark(self.mark(ticket.hash).load(Ordering::Acquire));
        let absent = ticket.absent == Some(mark);
        if !absent
            && let Some(alive) = self.find_alive(&entries, key)
            && (write == Write::Once || alive.sequence.is_after(ticket.sequence))
        {
            return false;
        }
        let entry = LocalEntry::new(self.since, ticket.sequence, value, weight, life);
        entries.insert(StoredKey::new(key), value, entry);
        self.changed(ticket.hash);
        self.stored.0.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// The entry, where it is alive. Takes it into no mirror, which may let go of values: a stripe is
    /// locked, or a flight led. To be dropped inside.
    fn find_alive(&self, entries: &Inside<'_>, key: &[u8]) -> Option<LocalEntry> {
        let is_there = entries.contains_key(&Wanted(key));
        let entry = is_there.then(|| entries.get(&Wanted(key)))??;
        (!entry.left(self.since, self.clock.now()).is_zero()).then_some(entry)
    }

    /// Lets the entry that holds just this `value`, which memcached has now, live for `life`, if it
    /// is still there. If what is there was read in memcached while the value was fetched or on its way,
    /// it goes: memcached has the value, or what has replaced it since.
    pub(crate) fn extend(&self, key: &Arc<[u8]>, ticket: Ticket, value: &Value, life: Life) {
        let entries = self.entries.enter();
        let Some(_changing) = self.change(ticket) else { return };
        let now = self.clock.now();
        let Some(entry) = entries.get(&Wanted(key)) else { return };
        if entry.value.is(value) {
            let longer = entry.with_life(self.since, value, life);
            if entry.left(self.since, now) < longer.left(self.since, now) {
                entries.insert(StoredKey::new(key), value, longer);
                self.changed(ticket.hash);
            }
        } else if entry.sequence.is_after(ticket.sequence) && !entry.sequence.is_fetch() {
            entries.invalidate(&Wanted(key));
            self.changed(ticket.hash);
        }
    }

    /// Removes what has expired and is kept for a fetch that fails, unless the ticket is out of date.
    /// Also for who leads a flight: what goes is put aside, until [`drop_aside`].
    pub(crate) fn remove_expired(&self, key: &[u8], ticket: Ticket) {
        let entries = self.entries.enter();
        let Some(_changing) = self.change(ticket) else { return };
        if self.find_alive(&entries, key).is_none() {
            entries.invalidate(&Wanted(key));
            self.changed(ticket.hash);
        }
    }

    /// Removes the entry, and every publication under an earlier ticket. Returns the next ticket;
    /// `None` where `before` is out of date.
    pub(crate) fn invalidate(&self, key: &[u8], before: Option<Ticket>) -> Option<Ticket> {
        let hash = Head::of(key).hash();
        let stripe = self.stripe(hash);
        let entries = self.entries.enter();
        let _changing = lock(&stripe.changing);
        let count = stripe.invalidated.load(Ordering::Relaxed);
        let in_time = before.is_none_or(|before| before.count == count);
        let count = count + 1;
        stripe.invalidated.store(count, Ordering::Release);
        entries.invalidate(&Wanted(key));
        self.changed(hash);
        in_time.then_some(Ticket { hash, sequence: stripe.fetches.now(), count, absent: None })
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        mirror::forget_store();
    }
}

#[cfg(test)]
mod tests;
