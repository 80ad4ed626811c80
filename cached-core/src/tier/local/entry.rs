//! An entry of the local tier: its key, and a value, its life and its weight, in as few bytes as they
//! need, and in one piece, of which a hit reads two lines.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::aside::Stored;
use super::order::Sequence;
use super::policy::Name;
use crate::clock::{Clock, CoarseInstant};
use crate::key::{KeyHeader, KeyQuery, key_body};
use crate::value::Value;

/// In the last bit of its life an entry is looked up with the precise clock. The coarse one may be
/// behind by a tick of the system's timer, which is some milliseconds.
const LAST_BIT: Duration = Duration::from_secs(1);

/// The cost of an entry beside its value and a longer key: what the index and the policy keep of it.
/// It was measured, as the memory of a process that keeps 200,000 entries.
const OVERHEAD: usize = 540;

/// Tells an entry from others that its index had or has, also of the same key. Where so many were
/// stored between two that the numbers began anew, one may go in the place of the other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryId {
    name: Name,
    number: u32,
}

impl EntryId {
    pub(super) fn new(key: &[u8]) -> EntryId {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        EntryId { name: Name::of(key), number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    pub(super) fn name(self) -> Name {
        self.name
    }
}

impl Hash for EntryId {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        Hash::hash(&self.name, hasher);
    }
}

/// How long an entry answers.
#[derive(Clone, Copy)]
pub(crate) struct Expiry {
    pub(crate) start: Instant,
    pub(crate) ttl: Duration,
    /// How long it is kept after that, for a fetch that fails.
    pub(crate) stale_ttl: Duration,
}

impl Expiry {
    /// How long it answers yet.
    pub(super) fn left(&self, now: Instant) -> Duration {
        (self.start + self.ttl).saturating_duration_since(now)
    }
}

/// Times by the precise clock, put down as the coarse one counts: half of what an [`Instant`] takes, and a
/// hit compares two numbers.
pub(super) struct Since {
    began: Instant,
    coarse: CoarseInstant,
}

impl Since {
    pub(super) fn new(clock: &Clock) -> Since {
        Since { began: clock.now(), coarse: clock.coarse() }
    }

    pub(super) fn time(&self, time: Instant) -> CoarseInstant {
        self.coarse + time.saturating_duration_since(self.began)
    }
}

pub(super) struct Entry {
    head: KeyHeader,
    /// What follows the key's head: here where it is short, so that a hit looks nowhere else.
    body: SmallVec<[u8; 24]>,
    value: Stored,
    expires: CoarseInstant,
    id: EntryId,
    /// In milliseconds, 49 days at most.
    kept: u32,
    /// How long it answers in all, in milliseconds, 49 days at most.
    life: u32,
    pub(super) sequence: Sequence,
}

/// What the policy knows of an entry.
pub(super) struct Known {
    pub(super) weight: u32,
    /// How many entries had been stored when it was told last that this one is asked for.
    told: AtomicU32,
    /// Whether it has the entry.
    admitted: AtomicBool,
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u32(self.head.hash());
    }
}

/// By their keys.
impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.head == other.head && self.body == other.body
    }
}

impl Eq for Entry {}

/// Of which a value the entry is, and how it came.
#[derive(Clone, Copy)]
pub(super) struct Given<'v> {
    pub(super) value: &'v Value,
    pub(super) weight: u32,
    pub(super) sequence: Sequence,
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// With a key and a value of so many bytes.
pub(super) fn weigh(key: usize, value: usize) -> u32 {
    u32::try_from(value.saturating_add(key + OVERHEAD)).unwrap_or(u32::MAX)
}

impl Entry {
    pub(super) fn new(
        id: EntryId,
        key: &[u8],
        since: &Since,
        given: Given<'_>,
        expiry: Expiry,
    ) -> Entry {
        let Given { value, sequence, .. } = given;
        Entry {
            head: KeyHeader::read(key),
            body: SmallVec::from_slice(key_body(key)),
            id,
            value: Stored::new(value),
            expires: since.time(expiry.start) + expiry.ttl,
            kept: millis(expiry.stale_ttl),
            life: millis(expiry.ttl),
            sequence,
        }
    }

    pub(super) fn id(&self) -> EntryId {
        self.id
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn is_of(&self, key: &impl KeyQuery) -> bool {
        self.head == key.header() && key.matches(&self.body)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn value(&self) -> &Value {
        self.value.get()
    }

    /// Whether it is alive, without a look at the precise clock: in the last bit of its life it is not
    /// known.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn is_surely_alive(&self, coarse: CoarseInstant) -> bool {
        coarse + LAST_BIT < self.expires
    }

    pub(super) fn is_alive(&self, now: CoarseInstant) -> bool {
        now < self.expires
    }

    /// How long it answers yet; zero where it has expired.
    pub(super) fn left(&self, now: CoarseInstant) -> Duration {
        self.expires.since(now)
    }

    pub(super) fn life(&self) -> Duration {
        Duration::from_millis(self.life.into())
    }

    /// When it is of no use any more.
    pub(super) fn gone(&self) -> CoarseInstant {
        self.expires + Duration::from_millis(self.kept.into())
    }
}

impl Known {
    pub(super) fn new(weight: u32, stored: u32, admitted: bool) -> Known {
        Known { weight, told: AtomicU32::new(stored), admitted: AtomicBool::new(admitted) }
    }

    /// Whether the policy has the entry.
    pub(super) fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::SeqCst)
    }

    /// Returns true once: for who is to have the policy admit the entry.
    pub(super) fn is_to_be_admitted(&self) -> bool {
        !self.admitted.swap(true, Ordering::SeqCst)
    }

    /// Whether the policy is to be told of this hit, where so many have been `stored`.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn is_to_be_told(&self, stored: u32, often: u32) -> bool {
        stored.wrapping_sub(self.told.load(Ordering::Relaxed)) >= often
    }

    pub(super) fn is_told(&self, stored: u32) {
        self.told.store(stored, Ordering::Relaxed);
    }
}
