//! An entry of the local tier, and the eviction policy's view of it.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::deferred_drops::DeferredDrop;
use super::policy::KeyFingerprint;
use super::sequence::SequenceNumber;
use crate::clock::{Clock, CoarseInstant};
use crate::event::EventSubject;
use crate::key::{KeyHeader, KeyQuery, key_body};
use crate::value::Value;

/// An entry that expires sooner than this is checked with the precise clock. The coarse clock lags by
/// a tick of the system's timer, which is some milliseconds.
const COARSE_CLOCK_MARGIN: Duration = Duration::from_secs(1);

/// The bytes that the index and the policy use for an entry, beside its key and its value. This was
/// measured: it is the memory of a process with 200,000 entries, divided by their number.
const ENTRY_OVERHEAD: usize = 540;

/// Identifies one entry among all that its index has held, also for the same key.
///
/// The number wraps around after 2³² insertions. An entry that is as old as that may be taken for a
/// new one with the same key, and is then removed in its place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryId {
    fingerprint: KeyFingerprint,
    number: u32,
}

impl EntryId {
    pub(super) fn new(key: &[u8]) -> EntryId {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        EntryId { fingerprint: KeyFingerprint::of(key), number }
    }

    pub(super) fn fingerprint(self) -> KeyFingerprint {
        self.fingerprint
    }
}

impl Hash for EntryId {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        Hash::hash(&self.fingerprint, hasher);
    }
}

/// The time at which an entry expires, and how long it is kept after that.
#[derive(Clone, Copy)]
pub(crate) struct Expiry {
    pub(crate) start: Instant,
    pub(crate) ttl: Duration,
    /// How long an expired value is kept for a fetch that fails.
    pub(crate) stale_ttl: Duration,
}

impl Expiry {
    pub(super) fn time_left(&self, now: Instant) -> Duration {
        (self.start + self.ttl).saturating_duration_since(now)
    }
}

/// Converts precise times into coarse ones. An entry stores the coarse ones: they take half of the
/// memory of an [`Instant`], and a hit compares two numbers.
pub(super) struct ClockConverter {
    precise: Instant,
    coarse: CoarseInstant,
}

impl ClockConverter {
    pub(super) fn new(clock: &Clock) -> ClockConverter {
        ClockConverter { precise: clock.now(), coarse: clock.coarse() }
    }

    pub(super) fn to_coarse(&self, time: Instant) -> CoarseInstant {
        self.coarse + time.saturating_duration_since(self.precise)
    }
}

/// A key, its value and its times. All of it is one allocation, unless the key is long; a hit reads two
/// cache lines of it.
pub(super) struct LocalEntry {
    header: KeyHeader,
    /// The rest of the key.
    body: SmallVec<[u8; 24]>,
    value: DeferredDrop,
    expires: CoarseInstant,
    id: EntryId,
    stale_ttl_millis: u32,
    ttl_millis: u32,
    pub(super) sequence: SequenceNumber,
}

/// The eviction policy's view of an entry.
pub(super) struct EntryPolicyState {
    pub(super) weight: u32,
    /// The number of insertions when the policy was last told of a hit on this entry.
    reported_at: AtomicU32,
    /// True if the policy holds a record of this entry, or a caller is about to give it one.
    is_admitted: AtomicBool,
}

impl Hash for LocalEntry {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u32(self.header.hash());
    }
}

/// Two entries are equal if their keys are.
impl PartialEq for LocalEntry {
    fn eq(&self, other: &LocalEntry) -> bool {
        self.header == other.header && self.body == other.body
    }
}

impl Eq for LocalEntry {}

/// A value that is to become an entry.
#[derive(Clone, Copy)]
pub(super) struct NewEntry<'v> {
    pub(super) value: &'v Value,
    pub(super) weight: u32,
    pub(super) sequence: SequenceNumber,
}

/// Rounds down to milliseconds, and to 49 days at most.
fn to_millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Returns the weight of an entry whose key and value have these sizes in bytes.
pub(super) fn entry_weight(key: usize, value: usize) -> u32 {
    u32::try_from(value.saturating_add(key + ENTRY_OVERHEAD)).unwrap_or(u32::MAX)
}

impl LocalEntry {
    pub(super) fn new(
        id: EntryId,
        key: &[u8],
        converter: &ClockConverter,
        new: NewEntry<'_>,
        expiry: Expiry,
    ) -> LocalEntry {
        LocalEntry {
            header: KeyHeader::read(key),
            body: SmallVec::from_slice(key_body(key)),
            id,
            value: DeferredDrop::new(new.value),
            expires: converter.to_coarse(expiry.start) + expiry.ttl,
            stale_ttl_millis: to_millis(expiry.stale_ttl),
            ttl_millis: to_millis(expiry.ttl),
            sequence: new.sequence,
        }
    }

    pub(super) fn id(&self) -> EntryId {
        self.id
    }

    pub(super) fn event_subject(&self) -> EventSubject<'_> {
        EventSubject::from_parts(self.header, &self.body)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn has_key(&self, key: &impl KeyQuery) -> bool {
        self.header == key.header() && key.matches(&self.body)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn value(&self) -> &Value {
        self.value.get()
    }

    /// Returns true if the entry is live by the coarse clock, however much that clock lags.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn is_surely_live(&self, coarse: CoarseInstant) -> bool {
        coarse + COARSE_CLOCK_MARGIN < self.expires
    }

    pub(super) fn is_live(&self, now: CoarseInstant) -> bool {
        now < self.expires
    }

    /// Returns the time until the entry expires; zero if it has.
    pub(super) fn time_left(&self, now: CoarseInstant) -> Duration {
        self.expires.since(now)
    }

    /// Returns the whole time to live of the entry.
    pub(super) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_millis.into())
    }

    /// Returns the end of the stale period, after which the entry can be removed.
    pub(super) fn removable_at(&self) -> CoarseInstant {
        self.expires + Duration::from_millis(self.stale_ttl_millis.into())
    }
}

impl EntryPolicyState {
    pub(super) fn new(weight: u32, insertions: u32, is_admitted: bool) -> EntryPolicyState {
        EntryPolicyState {
            weight,
            reported_at: AtomicU32::new(insertions),
            is_admitted: AtomicBool::new(is_admitted),
        }
    }

    pub(super) fn is_admitted(&self) -> bool {
        self.is_admitted.load(Ordering::SeqCst)
    }

    /// Returns true to the one caller that must have the policy admit the entry.
    pub(super) fn claim_admission(&self) -> bool {
        !self.is_admitted.swap(true, Ordering::SeqCst)
    }

    /// Returns true if the policy should be told of a hit, because `interval` entries were inserted
    /// since it was last told of one.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn is_report_due(&self, insertions: u32, interval: u32) -> bool {
        insertions.wrapping_sub(self.reported_at.load(Ordering::Relaxed)) >= interval
    }

    pub(super) fn set_reported(&self, insertions: u32) {
        self.reported_at.store(insertions, Ordering::Relaxed);
    }
}
