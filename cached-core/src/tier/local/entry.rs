//! An entry of the local tier: its key, and a value, its life and its weight, in as few bytes as they
//! need.

use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use moka::{Equivalent, Expiry};

use super::order::Sequence;
use super::store::Stored;
use crate::key::{Head, body};
use crate::value::Value;

/// A key of an entry. Its head is where the store looks: what that passes on the way to another key,
/// and all that it looks at when it grows, is mostly in none of the processor's caches.
#[derive(PartialEq, Eq)]
pub(super) struct StoredKey {
    head: Head,
    body: Box<[u8]>,
}

impl StoredKey {
    pub(super) fn new(key: &[u8]) -> StoredKey {
        StoredKey { head: Head::of(key), body: Box::from(body(key)) }
    }

    pub(super) fn len(&self) -> usize {
        size_of::<Head>() + self.body.len()
    }
}

impl Hash for StoredKey {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        Hash::hash(&self.head, hasher);
    }
}

/// A key that the store is asked for.
pub(super) struct Wanted<'k>(pub(super) &'k [u8]);

impl Hash for Wanted<'_> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        Hash::hash(&Head::of(self.0), hasher);
    }
}

impl Equivalent<StoredKey> for Wanted<'_> {
    fn equivalent(&self, key: &StoredKey) -> bool {
        key.head == Head::of(self.0) && *key.body == *body(self.0)
    }
}

/// How long an entry answers.
#[derive(Clone, Copy)]
pub(crate) struct Life {
    pub(crate) from: Instant,
    pub(crate) fresh: Duration,
    /// How long it is kept after that, for a fetch that fails.
    pub(crate) kept: Duration,
}

/// Times as nanoseconds since a store began, which is half of what an [`Instant`] takes.
#[derive(Clone, Copy)]
pub(super) struct Since(pub(super) Instant);

impl Since {
    fn nanos(self, time: Instant) -> u64 {
        nanos(time.saturating_duration_since(self.0))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct LocalEntry {
    pub(super) value: Stored,
    expires: u64,
    /// In milliseconds, 49 days at most.
    kept: u32,
    /// How long it answers in all, in 2^20 nanoseconds, 52 days at most.
    life: u32,
    weight: u32,
    pub(super) sequence: Sequence,
}

/// A millisecond, nearly: a shift takes less than a division.
const LIFE_UNIT: u32 = 20;
/// The cost of an entry beside its key and value: the store's own records of it, each an allocation. It was measured,
/// as the memory of a process that keeps 200,000 entries.
const OVERHEAD: usize = 400;

impl LocalEntry {
    pub(super) fn new(
        since: Since,
        sequence: Sequence,
        value: &Value,
        weight: usize,
        life: Life,
    ) -> LocalEntry {
        let fresh = nanos(life.fresh);
        LocalEntry {
            value: Stored::new(value),
            expires: since.nanos(life.from).saturating_add(fresh),
            kept: u32::try_from(life.kept.as_millis()).unwrap_or(u32::MAX),
            life: u32::try_from(fresh >> LIFE_UNIT).unwrap_or(u32::MAX),
            weight: u32::try_from(weight).unwrap_or(u32::MAX),
            sequence,
        }
    }

    /// The same `value` for another life.
    pub(super) fn with_life(&self, since: Since, value: &Value, life: Life) -> LocalEntry {
        LocalEntry::new(since, self.sequence, value, self.weight as usize, life)
    }

    /// With a key of this length.
    pub(super) fn weigh(&self, key: usize) -> u32 {
        self.weight.saturating_add(u32::try_from(key + OVERHEAD).unwrap_or(u32::MAX))
    }

    /// How long it answers yet; zero where it has expired.
    pub(super) fn left(&self, since: Since, now: Instant) -> Duration {
        Duration::from_nanos(self.expires.saturating_sub(since.nanos(now)))
    }

    pub(super) fn life(&self) -> Duration {
        Duration::from_nanos(u64::from(self.life) << LIFE_UNIT)
    }

    /// How long it is kept yet.
    pub(super) fn rest(&self, since: Since, now: Instant) -> Duration {
        let gone = self.expires.saturating_add(u64::from(self.kept) * 1_000_000);
        Duration::from_nanos(gone.saturating_sub(since.nanos(now)))
    }
}

/// Tells moka when an entry is of no use any more.
pub(super) struct ByEntry(pub(super) Since);

impl Expiry<StoredKey, LocalEntry> for ByEntry {
    fn expire_after_create(
        &self,
        _: &StoredKey,
        entry: &LocalEntry,
        now: Instant,
    ) -> Option<Duration> {
        Some(entry.rest(self.0, now))
    }

    fn expire_after_update(
        &self,
        _: &StoredKey,
        entry: &LocalEntry,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.rest(self.0, now))
    }
}
