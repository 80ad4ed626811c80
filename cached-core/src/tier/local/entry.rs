//! An entry of the local tier, and the state that the index stores with an entry for the eviction policy.

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

/// A lookup uses the precise clock if the entry expires within this time by the coarse clock. The coarse
/// clock lags by a tick of the system's timer, which is some milliseconds.
const COARSE_CLOCK_MARGIN: Duration = Duration::from_secs(1);

/// The bytes that the index and the policy use for an entry, in addition to the key and the value. The
/// number was measured: the memory of a process with 200,000 entries was divided by 200,000.
const ENTRY_OVERHEAD: usize = 540;

/// The unique id of an entry. A later entry with the same key has another id.
///
/// The number wraps around after 2³² insertions. A new entry with the same key may then have the id of an
/// earlier entry, and may be removed in place of the earlier entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryId {
    fingerprint: KeyFingerprint,
    /// The number of the insertion in this process.
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

/// The time at which an entry expires, and the length of the stale period after this time.
#[derive(Clone, Copy)]
pub(crate) struct Expiry {
    /// The time at which the ttl begins.
    pub(crate) start: Instant,
    pub(crate) ttl: Duration,
    /// How long an expired value is kept, so that calls can return it if a fetch fails.
    pub(crate) stale_ttl: Duration,
}

impl Expiry {
    /// Returns the time until the expiry; zero after the expiry.
    pub(super) fn time_left(&self, now: Instant) -> Duration {
        (self.start + self.ttl).saturating_duration_since(now)
    }
}

/// Converts times of the precise clock into times of the coarse clock. An entry stores coarse times: they
/// take half the memory of an [`Instant`], and a hit only compares two integers.
pub(super) struct ClockConverter {
    // The times of the two clocks at the same moment.
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

/// A key with its value and its expiry. An entry with a short key is one allocation, and a hit reads two
/// cache lines of this allocation.
pub(super) struct LocalEntry {
    header: KeyHeader,
    /// The rest of the key.
    body: SmallVec<[u8; 24]>,
    value: DeferredDrop,
    expires: CoarseInstant,
    id: EntryId,
    stale_ttl_millis: u32,
    ttl_millis: u32,
    /// The position of the value in the order of fetches.
    pub(super) sequence: SequenceNumber,
}

/// The state that the index stores with an entry for the eviction policy.
pub(super) struct EntryPolicyState {
    pub(super) weight: u32,
    /// The number of insertions, by `HitReportThrottle::insertions`, when this entry was inserted or when
    /// the policy was last told of a hit on this entry.
    reported_at: AtomicU32,
    /// True if the policy has a record of this entry, or if a caller is about to create the record.
    is_admitted: AtomicBool,
}

impl Hash for LocalEntry {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u32(self.header.hash());
    }
}

/// Two entries are equal if their keys are equal.
impl PartialEq for LocalEntry {
    fn eq(&self, other: &LocalEntry) -> bool {
        self.header == other.header && self.body == other.body
    }
}

impl Eq for LocalEntry {}

/// The value, the weight and the sequence number of an entry to be created.
#[derive(Clone, Copy)]
pub(super) struct NewEntry<'v> {
    pub(super) value: &'v Value,
    pub(super) weight: u32,
    pub(super) sequence: SequenceNumber,
}

/// Converts to milliseconds, rounded down. A duration of more than 49 days becomes 49 days.
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

    /// Returns true if the entry is certainly live: the time left by the coarse clock is longer than the
    /// coarse clock can lag.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn is_surely_live(&self, coarse: CoarseInstant) -> bool {
        coarse + COARSE_CLOCK_MARGIN < self.expires
    }

    /// Returns true if the entry has not expired. `now` must be a time of the precise clock.
    pub(super) fn is_live(&self, now: CoarseInstant) -> bool {
        now < self.expires
    }

    /// Returns the time until the entry expires; zero if the entry has expired.
    pub(super) fn time_left(&self, now: CoarseInstant) -> Duration {
        self.expires.since(now)
    }

    /// Returns the time to live that the entry was inserted with.
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

    /// Returns true if the caller must now make the policy admit the entry. Only the first call returns
    /// true.
    pub(super) fn claim_admission(&self) -> bool {
        !self.is_admitted.swap(true, Ordering::SeqCst)
    }

    /// Returns true if the policy should be told of a hit on this entry, because `interval` entries were
    /// inserted since the last report.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn is_report_due(&self, insertions: u32, interval: u32) -> bool {
        insertions.wrapping_sub(self.reported_at.load(Ordering::Relaxed)) >= interval
    }

    /// Records that the policy is told of a hit on this entry.
    pub(super) fn set_reported(&self, insertions: u32) {
        self.reported_at.store(insertions, Ordering::Relaxed);
    }
}
