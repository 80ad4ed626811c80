//! The local tier: this process's memory, bounded by bytes.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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

pub(crate) struct Local {
    entries: Cache<Arc<[u8]>, LocalEntry>,
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
        let entries = Cache::builder()
            .max_capacity(capacity)
            .weigher(|key: &Arc<[u8]>, entry: &LocalEntry| {
                entry.weight.saturating_add(u32::try_from(key.len() + OVERHEAD).unwrap_or(u32::MAX))
            })
            .expire_after(ByEntry)
            .build();
        Local {
            entries,
            stripes: (0..256).map(|_| Mutex::new(0)).collect(),
            hasher: RandomState::new(),
            clock,
        }
    }

    #[inline]
    pub(crate) fn get(&self, key: &[u8]) -> Option<Value> {
        let entry = self.entries.get(key)?;
        // moka expires on its own clock's ticks; the promise is on ours.
        (self.clock.now() < entry.life.expires).then_some(entry.value)
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
        if *count != ticket.count || (write == Write::Once && self.get(key).is_some()) {
            return false;
        }
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let refreshing = Arc::default();
        let entry = LocalEntry { value: Arc::clone(value), life, weight, refreshing };
        self.entries.insert(Arc::clone(key), entry);
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
        in_time.then_some(Ticket { stripe, count: *count })
    }
}
