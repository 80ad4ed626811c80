//! The local tier: this process's memory, bounded by bytes.
//!
//! Every hit reads the [`index`]; which entries have to go is the [`policy`]'s to say, and what has
//! expired is taken out by the [`sweeper`]. Whoever changes the entry of a key holds the lock of its
//! stripe, and changes the index before the policy: an entry that the policy lets go of at once is
//! found there. Taking an entry out needs no lock, for it is told from every other.

mod aside;
mod entry;
pub(crate) mod index;
mod order;
mod policy;
mod refresh;
mod sweeper;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use entry::{Entry, EntryId, Given, Known, weigh};
use index::{Index, Reading};
use order::{Sequence, Sequences};
use policy::{Name, Policy};
use refresh::Refreshing;
use sweeper::Due;

use crate::clock::{Clock, Coarse};
use crate::key::{Head, Sought};
use crate::value::Value;

pub(crate) use aside::drop_aside;
pub(crate) use entry::Life;
pub(crate) use refresh::{Refresh, ahead_of};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The policy is told of a hit when one in so many entries was replaced since it was told of that entry
/// last: often enough to see that the entry is in use, long before it is its turn to go. While nothing is
/// stored nothing has to go.
const TOLD_IN_ALL: usize = 2;
/// How often the entries are counted for that.
const COUNTED_AFTER: u32 = 256;

/// So many entries are taken out by one sweep, so that it takes a bounded time and memory,
const SWEPT_AT_ONCE: usize = 1 << 16;
/// and so many while other garbage waits.
const AT_ONCE: usize = 1 << 8;

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

pub(crate) struct Local {
    here: Weak<Local>,
    index: Index,
    policy: Policy,
    filling: Filling,
    due: Arc<Due>,
    refreshing: Arc<Refreshing>,
    stripes: Vec<Stripe>,
    clock: Clock,
    /// Dropped after the entries.
    _rest: Rest,
}

/// Drops what the entries leave behind, which was put aside like anything else.
struct Rest;

/// What the local tier was like before a fetch or a remote read began: publishing under it does
/// nothing if the key was invalidated or overwritten since. Keys share stripes, so a publication
/// may be given up for another key's sake; that costs a fetch, never a wrong value.
#[derive(Clone, Copy)]
pub(crate) struct Ticket {
    hash: u32,
    /// When what is published under it was asked for.
    sequence: Sequence,
    count: u64,
}

/// Whether a publication may replace an entry that is still alive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    Once,
    /// One that was not asked for later.
    Replace,
}

impl Local {
    pub(crate) fn new(capacity: u64, clock: Clock) -> Arc<Local> {
        let due = Due::new(clock.clone());
        let local = Arc::new_cyclic(|here| Local {
            here: here.clone(),
            index: Index::new(),
            policy: Policy::new(capacity),
            filling: Filling { told_after: AtomicU32::new(u32::MAX), ..Filling::default() },
            due: Arc::clone(&due),
            refreshing: Refreshing::new(clock.clone()),
            stripes: (0..STRIPES).map(|_| Stripe::default()).collect(),
            clock,
            _rest: Rest,
        });
        sweeper::watch(&local, &due);
        local
    }

    /// To be held while something is found. `None` at the end of a thread.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn read(&self) -> Option<Reading<'_>> {
        self.index.read()
    }

    /// The value, where it is served as it is: the entry is surely alive, and the policy need not be
    /// told.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn find<'r>(
        &self,
        reading: &'r Reading<'_>,
        key: &impl Sought,
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
        drop_aside();
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

    /// What is alive, by the precise clock.
    fn find_alive<'r>(
        &self,
        reading: &'r Reading<'_>,
        key: &[u8],
    ) -> Option<(&'r Entry, &'r Known)> {
        reading.find(&key).filter(|(entry, _)| entry.is_alive(self.now()))
    }

    /// The time by the precise clock.
    fn now(&self) -> Coarse {
        self.due.now()
    }

    /// The same for a key that was looked for and not found: the policy does not take that for another
    /// wish to have it. It admits what is asked for more often.
    pub(crate) fn get_again(&self, key: &[u8]) -> Option<Value> {
        let reading = self.read()?;
        let (entry, _) = self.find_alive(&reading, key)?;
        Some(Arc::clone(entry.value()))
    }

    /// The same, and a ticket for what is to be published where nothing is found. For who leads a
    /// flight: no value is dropped here.
    pub(crate) fn get_or_ticket(&self, key: &[u8]) -> Result<Value, Ticket> {
        let ticket = self.ticket(key);
        self.get_again(key).ok_or(ticket)
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
        let Some(reading) = self.read() else { return false };
        let Some((entry, _)) = reading.find(&key) else { return false };
        entry.left(self.now()) < ahead_of(entry.life(), ahead)
    }

    /// The value also where it has expired and is kept for a fetch that fails. For who leads a flight:
    /// no other value is dropped here.
    pub(crate) fn get_stale(&self, key: &[u8]) -> Option<Value> {
        let reading = self.read()?;
        let (entry, _) = reading.find(&key)?;
        (self.now() < entry.gone()).then(|| Arc::clone(entry.value()))
    }

    pub(crate) fn ticket(&self, key: &[u8]) -> Ticket {
        let hash = Head::of(key).hash();
        let stripe = self.stripe(hash);
        let count = stripe.invalidated.load(Ordering::Acquire);
        Ticket { hash, sequence: stripe.fetches.now(), count }
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
        &self.stripes[hash as usize % STRIPES]
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
        key: &[u8],
        ticket: Ticket,
        write: Write,
        value: &Value,
        weight: usize,
        life: Life,
    ) -> bool {
        if life.fresh.is_zero() {
            return false;
        }
        let Some(reading) = self.read() else { return false };
        let fills;
        {
            let Some(_changing) = self.change(ticket) else { return false };
            let there = reading.find(&key).map(|(entry, _)| entry);
            if let Some(alive) = there.filter(|entry| entry.is_alive(self.now()))
                && (write == Write::Once || alive.sequence.is_after(ticket.sequence))
            {
                return false;
            }
            let given =
                Given { value, weight: weigh(key.len(), weight), sequence: ticket.sequence };
            fills = self.put(&reading, key, given, life);
        }
        drop(reading);
        if fills {
            self.admit_all();
        }
        self.take_out_gone();
        true
    }

    /// Puts an entry into the index, in the place of another, and has it kept. Returns true where the policy
    /// is to know of all entries from now on.
    #[must_use]
    fn put(&self, reading: &Reading<'_>, key: &[u8], given: Given<'_>, life: Life) -> bool {
        let is_filling = self.policy.is_filling();
        let stored = if is_filling { self.count_stored() } else { self.stored() };
        let id = EntryId::new(Head::of(key));
        let entry = Entry::new(id, key, self.due.since(), given, life);
        let gone = entry.gone();
        let fills = self.policy.added(given.weight);
        let known = Known::new(given.weight, stored, is_filling);
        if let Some(weight) = reading.insert(entry, known) {
            self.policy.removed(weight);
        }
        if is_filling {
            self.policy.admit(Name::of(key), id, given.weight);
        } else {
            // Who begins to fill looks for what is in the index after that was said.
            fence(Ordering::SeqCst);
            if self.policy.is_filling() {
                self.admit(reading, id);
            }
        }
        self.due.at(gone);
        fills
    }

    fn count_stored(&self) -> u32 {
        let stored = self.filling.stored.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        if stored % COUNTED_AFTER == 1 {
            let told_after = u32::try_from(self.index.len() / TOLD_IN_ALL).unwrap_or(u32::MAX);
            self.filling.told_after.store(told_after, Ordering::Relaxed);
        }
        stored
    }

    /// Has the policy know of all that was put into the index before, on a thread of its own: there may be
    /// a million.
    fn admit_all(&self) {
        let all = |local: &Local| {
            fence(Ordering::SeqCst);
            let ids = |reading: Reading<'_>| {
                let before = reading.entries().filter(|(_, known)| !known.is_admitted());
                before.map(|(entry, _)| entry.id()).collect::<Vec<_>>()
            };
            let ids = local.read().map(ids).unwrap_or_default();
            for ids in ids.chunks(AT_ONCE) {
                if let Some(reading) = local.read() {
                    for id in ids {
                        let _changing = lock(&local.stripe(id.hash()).changing);
                        local.admit(&reading, *id);
                    }
                }
                local.take_out_gone();
            }
        };
        let here = self.here.clone();
        let thread = move || {
            if let Some(local) = here.upgrade() {
                all(&local);
            }
        };
        if thread::Builder::new().name("cached-filling".to_owned()).spawn(thread).is_err() {
            all(self);
        }
    }

    /// Has the policy know of an entry, unless it does, with its stripe locked.
    fn admit(&self, reading: &Reading<'_>, id: EntryId) {
        if let Some((entry, known)) = reading.find_by_id(id)
            && known.is_to_be_admitted()
        {
            self.policy.admit(entry.name(), id, known.weight);
        }
    }

    /// Takes out what the policy has let go of.
    fn take_out_gone(&self) {
        let gone = self.policy.gone();
        if !gone.is_empty()
            && let Some(reading) = self.read()
        {
            gone.into_iter().for_each(|id| self.remove(&reading, id));
        }
    }

    /// Lets the entry that holds just this `value`, which memcached has now, live for `life`, if it
    /// is still there. If what is there was read in memcached while the value was fetched or on its way,
    /// it goes: memcached has the value, or what has replaced it since.
    pub(crate) fn extend(&self, key: &[u8], ticket: Ticket, value: &Value, life: Life) {
        if self.extended(key, ticket, value, life) {
            self.admit_all();
        }
    }

    /// Returns what [`put`](Self::put) does.
    fn extended(&self, key: &[u8], ticket: Ticket, value: &Value, life: Life) -> bool {
        let Some(reading) = self.read() else { return false };
        let Some(_changing) = self.change(ticket) else { return false };
        let Some((entry, known)) = reading.find(&key) else { return false };
        if Arc::ptr_eq(entry.value(), value) {
            let now = self.now();
            if entry.left(now) < life.left(self.clock.now()) {
                let given = Given { value, weight: known.weight, sequence: entry.sequence };
                return self.put(&reading, key, given, life);
            }
        } else if entry.sequence.is_after(ticket.sequence) && !entry.sequence.is_fetch() {
            self.take_out(&reading, entry);
        }
        false
    }

    /// Takes out what is of no use any more.
    fn sweep(&self) {
        let now = self.now();
        if !self.due.is_over(now) {
            return;
        }
        let mut next = Coarse::NEVER;
        let gone = self.read().map(|reading| {
            let is_gone = |&(entry, _): &(&Entry, &Known)| {
                let is_gone = entry.gone() <= now;
                next = if is_gone { next } else { next.min(entry.gone()) };
                is_gone
            };
            let gone = reading.entries().filter(is_gone).take(SWEPT_AT_ONCE);
            gone.map(|(entry, _)| entry.id()).collect::<Vec<_>>()
        });
        let gone = gone.unwrap_or_default();
        let next = if gone.len() < SWEPT_AT_ONCE { next } else { now };
        self.due.at(next);
        for ids in gone.chunks(AT_ONCE) {
            if let Some(reading) = self.read() {
                for id in ids {
                    let _changing = lock(&self.stripe(id.hash()).changing);
                    if let Some((entry, _)) = reading.find_by_id(*id) {
                        self.take_out(&reading, entry);
                    }
                }
                reading.flush();
            }
        }
        self.take_out_gone();
    }

    /// `None` at the end of a thread.
    fn take_out_key(&self, key: &[u8]) -> Option<()> {
        let reading = self.read()?;
        if let Some((entry, _)) = reading.find(&key) {
            self.take_out(&reading, entry);
            reading.flush();
        }
        Some(())
    }

    /// With its stripe locked.
    fn take_out(&self, reading: &Reading<'_>, entry: &Entry) {
        self.remove(reading, entry.id());
        self.policy.dismiss(entry.name());
    }

    fn remove(&self, reading: &Reading<'_>, id: EntryId) {
        if let Some(weight) = reading.remove(id) {
            self.policy.removed(weight);
        }
    }

    /// Removes what has expired and is kept for a fetch that fails, unless the ticket is out of date.
    /// Also for who leads a flight: what goes is put aside, until [`drop_aside`].
    pub(crate) fn remove_expired(&self, key: &[u8], ticket: Ticket) {
        let Some(reading) = self.read() else { return };
        let Some(_changing) = self.change(ticket) else { return };
        if let Some((entry, _)) = reading.find(&key)
            && !entry.is_alive(self.now())
        {
            self.take_out(&reading, entry);
        }
    }

    /// Removes the entry, and every publication under an earlier ticket. Returns the next ticket;
    /// `None` where `before` is out of date.
    pub(crate) fn invalidate(&self, key: &[u8], before: Option<Ticket>) -> Option<Ticket> {
        let hash = Head::of(key).hash();
        let stripe = self.stripe(hash);
        let _changing = lock(&stripe.changing);
        let count = stripe.invalidated.load(Ordering::Relaxed);
        let in_time = before.is_none_or(|before| before.count == count);
        let count = count + 1;
        stripe.invalidated.store(count, Ordering::Release);
        if self.take_out_key(key).is_none() {
            // The thread ends, and the entry is to be gone all the same.
            thread::scope(|scope| {
                let _ = scope.spawn(|| self.take_out_key(key)).join();
            });
        }
        in_time.then_some(Ticket { hash, sequence: stripe.fetches.now(), count })
    }
}

impl Drop for Rest {
    /// Not while a value panics that was dropped: another that panics would end the program.
    fn drop(&mut self) {
        if !thread::panicking() {
            aside::drop_all_aside();
        }
    }
}

#[cfg(test)]
mod tests;
