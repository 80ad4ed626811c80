//! The local tier: this process's memory, bounded by bytes.

mod mirror;

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use mirror::{Kept, Place};
use moka::Expiry;
use moka::sync::Cache;

use crate::clock::Clock;
use crate::value::Value;

/// An entry of the local tier; cheap to clone.
#[derive(Clone)]
struct LocalEntry {
    value: Value,
    life: Life,
    weight: u32,
    /// Whether somebody refreshes it.
    refreshing: Arc<AtomicBool>,
}

/// The duty to refresh an entry of the local tier; another caller gets it when this is dropped.
pub(crate) struct Refresh(Arc<AtomicBool>);

impl Drop for Refresh {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// How long an entry answers.
#[derive(Clone, Copy)]
pub(crate) struct Life {
    pub(crate) expires: Instant,
    /// How long it is kept after that, for a fetch that fails.
    pub(crate) kept: Duration,
}

impl Life {
    fn rest(&self, now: Instant) -> Duration {
        (self.expires + self.kept).saturating_duration_since(now)
    }
}

/// What an entry costs beside its key and value, roughly.
const OVERHEAD: usize = 64;

/// The part of its capacity that the mirrors may keep alive: one in so many bytes.
const MIRRORED: u64 = 16;
/// In the last bit of its life an entry is looked up in the store, with the precise clock. The
/// coarse one may be behind by a tick of the system's timer, which is some milliseconds.
const LAST_BIT: Duration = Duration::from_secs(1);

/// Keys share so many marks; see [`mirror`].
const MARKS: usize = 2048;

pub(crate) struct Local {
    /// Tells this store's entries in a mirror from every other's.
    id: u64,
    entries: Cache<Arc<[u8]>, LocalEntry, RandomState>,
    marks: Box<[AtomicU64]>,
    /// Counts the invalidations of the keys of a stripe. A publication holds its stripe's lock, so
    /// that none can slip in behind the invalidation that overtook it.
    stripes: Vec<Mutex<u64>>,
    hasher: RandomState,
    clock: Clock,
}

/// What the local tier was like before a fetch or a remote read began: publishing under it does
/// nothing if the key was invalidated or overwritten since. Keys share stripes, so a publication
/// may be given up for another key's sake; that costs a fetch, never a wrong value.
#[derive(Clone, Copy)]
pub(crate) struct Ticket {
    stripe: usize,
    count: u64,
}

/// Whether a publication may replace an entry that is still alive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    Once,
    Replace,
}

fn weigh(key: &[u8], entry: &LocalEntry) -> u32 {
    entry.weight.saturating_add(u32::try_from(key.len() + OVERHEAD).unwrap_or(u32::MAX))
}

struct ByEntry;

impl Expiry<Arc<[u8]>, LocalEntry> for ByEntry {
    fn expire_after_create(
        &self,
        _: &Arc<[u8]>,
        entry: &LocalEntry,
        now: Instant,
    ) -> Option<Duration> {
        Some(entry.life.rest(now))
    }

    fn expire_after_update(
        &self,
        _: &Arc<[u8]>,
        entry: &LocalEntry,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.life.rest(now))
    }
}

impl Local {
    pub(crate) fn new(capacity: u64, clock: Clock) -> Local {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let hasher = RandomState::default();
        let entries = Cache::builder()
            .max_capacity(capacity)
            .weigher(|key: &Arc<[u8]>, entry: &LocalEntry| weigh(key, entry))
            .expire_after(ByEntry)
            .build_with_hasher(hasher.clone());
        Local {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            entries,
            marks: (0..MARKS).map(|_| AtomicU64::new(0)).collect(),
            stripes: (0..256).map(|_| Mutex::new(0)).collect(),
            hasher,
            clock,
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Value> {
        self.serve(key, Value::clone)
    }

    /// What `serve` makes of the value, if there is one.
    #[inline]
    pub(crate) fn serve<T>(&self, key: &[u8], mut serve: impl FnMut(&Value) -> T) -> Option<T> {
        let place = self.place(key);
        let answers = |slot: &mirror::Slot| {
            slot.mark == self.mark(place).load(Ordering::Acquire)
                && self.clock.coarse() < slot.until
        };
        match mirror::look(place, answers, &mut serve) {
            Some(served) => Some(served),
            None => self.get_from_store(place).map(|value| serve(&value)),
        }
    }

    fn get_from_store(&self, place: Place<'_>) -> Option<Value> {
        mirror::tidy();
        let mark = self.mark(place).load(Ordering::Acquire);
        let entry = self.entries.get(place.key)?;
        // moka expires on its own clock's ticks; the promise is on ours.
        let left = entry.life.expires.checked_duration_since(self.clock.now())?;
        if left > LAST_BIT {
            let until = self.clock.coarse() + (left - LAST_BIT);
            let weight = weigh(place.key, &entry);
            let kept = Kept { mark, until, value: &entry.value, weight };
            let allowed = self.entries.policy().max_capacity().unwrap_or(0) / MIRRORED;
            mirror::keep(place, kept, allowed);
        }
        (!left.is_zero()).then_some(entry.value)
    }

    fn is_alive(&self, key: &[u8]) -> bool {
        self.entries.get(key).is_some_and(|entry| self.clock.now() < entry.life.expires)
    }

    fn place<'k>(&self, key: &'k [u8]) -> Place<'k> {
        let mut hasher = self.hasher.build_hasher();
        // Not `hash_one`, which hashes a length too.
        hasher.write(key);
        Place { store: self.id, hash: hasher.finish(), key }
    }

    fn mark(&self, place: Place<'_>) -> &AtomicU64 {
        &self.marks[place.hash as usize % MARKS]
    }

    /// To be called after each change of the store; see [`mirror`].
    fn changed(&self, key: &[u8]) {
        self.mark(self.place(key)).fetch_add(1, Ordering::Release);
    }

    /// The duty to refresh the entry, for one caller in the last `ahead` of its life.
    pub(crate) fn refresh(&self, key: &[u8], ahead: Duration) -> Option<Refresh> {
        let entry = self.entries.get(key)?;
        let due = entry.life.expires.saturating_duration_since(self.clock.now()) < ahead;
        (due && !entry.refreshing.swap(true, Ordering::AcqRel)).then(|| Refresh(entry.refreshing))
    }

    /// The value also where it has expired and is kept for a fetch that fails.
    pub(crate) fn get_stale(&self, key: &[u8]) -> Option<Value> {
        let entry = self.entries.get(key)?;
        (!entry.life.rest(self.clock.now()).is_zero()).then_some(entry.value)
    }

    pub(crate) fn ticket(&self, key: &[u8]) -> Ticket {
        let stripe = self.hasher.hash_one(key) as usize % self.stripes.len();
        Ticket { stripe, count: *self.lock(stripe) }
    }

    fn lock(&self, stripe: usize) -> MutexGuard<'_, u64> {
        self.stripes[stripe].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores `value` for its life, unless the ticket is out of date, or `Once` finds an entry
    /// alive. Returns whether it is stored.
    pub(crate) fn publish(
        &self,
        key: &Arc<[u8]>,
        ticket: Ticket,
        write: Write,
        value: &Value,
        weight: usize,
        life: Life,
    ) -> bool {
        if life.expires <= self.clock.now() {
            return false;
        }
        let count = self.lock(ticket.stripe);
        if *count != ticket.count || (write == Write::Once && self.is_alive(key)) {
            return false;
        }
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let refreshing = Arc::default();
        let entry = LocalEntry { value: Arc::clone(value), life, weight, refreshing };
        self.entries.insert(Arc::clone(key), entry);
        self.changed(key);
        true
    }

    /// Lets the entry that holds just this `value` live for `life`, if it is still there.
    pub(crate) fn extend(&self, key: &Arc<[u8]>, ticket: Ticket, value: &Value, life: Life) {
        let count = self.lock(ticket.stripe);
        if *count != ticket.count {
            return;
        }
        if let Some(mut entry) = self.entries.get(key)
            && Arc::ptr_eq(&entry.value, value)
            && entry.life.expires < life.expires
        {
            entry.life = life;
            self.entries.insert(Arc::clone(key), entry);
        }
    }

    /// Removes the entry, and every publication under an earlier ticket. Returns the next ticket;
    /// `None` where `before` is out of date.
    pub(crate) fn invalidate(&self, key: &[u8], before: Option<Ticket>) -> Option<Ticket> {
        let stripe = self.hasher.hash_one(key) as usize % self.stripes.len();
        let mut count = self.lock(stripe);
        let in_time = before.is_none_or(|before| before.count == *count);
        *count += 1;
        self.entries.invalidate(key);
        self.changed(key);
        in_time.then_some(Ticket { stripe, count: *count })
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        mirror::forget_store();
    }
}
