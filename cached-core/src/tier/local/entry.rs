//! An entry of the local tier, which is the cache in this process's memory. An index finds the
//! entries by their keys. Next to each entry, the index stores some state for the eviction policy.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::deferred_drops::DeferredDrop;
use super::policy::KeyFingerprint;
use super::sequence::FetchSequenceNumber;
use crate::clock::{Clock, CoarseInstant};
use crate::key::{KeyHeader, KeyQuery, key_body};
use crate::value::Value;

/// A lookup first reads the coarse clock, which lags by one tick of the system's timer: a few
/// milliseconds. If the entry expires within this margin, the lookup reads the precise clock too.
const COARSE_CLOCK_MARGIN: Duration = Duration::from_secs(1);

/// The bytes that the index and the policy use for an entry, in addition to the key and the value.
/// To measure this number, the memory of a process with 200,000 entries was divided by 200,000.
const ENTRY_OVERHEAD: usize = 540;

/// The unique id of an entry. A later entry with the same key has another id.
///
/// The number wraps around after 2³⁰ insertions. A new entry can then get the id of an earlier
/// entry with the same key. A removal that is meant for the earlier entry then removes the new one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryId {
    fingerprint: KeyFingerprint,
    /// The number of ids that this process created before this one, modulo 2³⁰.
    number: u32,
}

impl EntryId {
    /// The two highest bits of the number are always zero. The eviction policy stores two bits of
    /// its own there; see [`with_bits`](Self::with_bits).
    const NUMBER_MASK: u32 = u32::MAX >> 2;

    pub(super) fn new(key: &[u8]) -> EntryId {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed) & EntryId::NUMBER_MASK;
        EntryId { fingerprint: KeyFingerprint::of(key), number }
    }

    /// Returns this id with `bits` in its two highest bits. `bits` must be less than 4. Unless
    /// `bits` is 0, the result is not the id of an entry; [`split_bits`](Self::split_bits) restores
    /// the id.
    pub(super) fn with_bits(self, bits: u8) -> EntryId {
        EntryId { number: self.number | u32::from(bits) << 30, ..self }
    }

    /// Splits the result of [`with_bits`](Self::with_bits) into the id and the bits.
    pub(super) fn split_bits(self) -> (EntryId, u8) {
        let id = EntryId { number: self.number & EntryId::NUMBER_MASK, ..self };
        (id, (self.number >> 30) as u8)
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

/// The start and the length of an entry's ttl, and the length of the *stale period* that follows.
/// In the stale period, a call whose fetch fails can return the expired value.
#[derive(Clone, Copy)]
pub(crate) struct Expiry {
    /// The time at which the ttl starts to run.
    pub(crate) start: Instant,
    pub(crate) ttl: Duration,
    /// The length of the stale period.
    pub(crate) stale_ttl: Duration,
}

impl Expiry {
    /// Returns the time until the expiry; zero after the expiry.
    pub(super) fn time_left(&self, now: Instant) -> Duration {
        (self.start + self.ttl).saturating_duration_since(now)
    }
}

/// Converts an [`Instant`] of the precise clock into a [`CoarseInstant`]. An entry stores coarse
/// times, which take half the memory of an [`Instant`]. A hit only compares two integers.
pub(super) struct ClockConverter {
    // The readings of both clocks at one moment.
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

/// The bytes of a key after its [`KeyHeader`].
pub(super) type KeyBody = SmallVec<[u8; 24]>;

/// A key with its value and its expiry. An entry with a short key takes one allocation in addition
/// to its value, and a hit reads two cache lines of this allocation.
pub(super) struct LocalEntry {
    header: KeyHeader,
    body: KeyBody,
    value: DeferredDrop,
    expires: CoarseInstant,
    id: EntryId,
    stale_ttl_millis: u32,
    ttl_millis: u32,
    /// The position of the value's fetch in the order in which fetches began.
    pub(super) sequence: FetchSequenceNumber,
    /// Keys are grouped into stripes, and each invalidation raises the *epoch* of a stripe. This is
    /// the epoch at the time when the value was obtained: when the
    /// [`FillToken`](super::FillToken) of its first fill was created.
    pub(super) epoch: u64,
}

/// The state of an entry that concerns the eviction policy. The index stores it next to the entry.
pub(super) struct EntryPolicyState {
    pub(super) weight: u32,
    /// The insertion count (`HitReportThrottle::insertions`) when the policy was last told of a hit
    /// on this entry. Until the first such report, it is the count at this entry's insertion.
    reported_at: AtomicU32,
    /// True if the policy has admitted this entry, or if a thread is about to make it do so.
    is_admission_claimed: AtomicBool,
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

/// The value, the weight, the sequence number and the epoch of an entry to be created.
#[derive(Clone, Copy)]
pub(super) struct EntryContent<'v> {
    pub(super) value: &'v Value,
    pub(super) weight: u32,
    pub(super) sequence: FetchSequenceNumber,
    pub(super) epoch: u64,
}

/// Converts a duration to milliseconds, rounded down. The result is at most [`u32::MAX`], which is
/// about 49.7 days.
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
        new: EntryContent<'_>,
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
            epoch: new.epoch,
        }
    }

    pub(super) fn header(&self) -> KeyHeader {
        self.header
    }

    pub(super) fn id(&self) -> EntryId {
        self.id
    }

    /// Returns the whole key: the header and the body.
    #[cfg(all(feature = "console", feature = "memcached"))]
    pub(super) fn key(&self) -> std::sync::Arc<[u8]> {
        self.header.to_bytes().iter().chain(&self.body).copied().collect()
    }

    #[cfg(all(feature = "console", feature = "memcached"))]
    pub(super) fn event_subject(&self) -> crate::event::EventSubject<'_> {
        crate::event::EventSubject::from_parts(self.header, &self.body)
    }

    /// Returns a copy of the header and the body of the key.
    pub(super) fn split_key(&self) -> (KeyHeader, KeyBody) {
        (self.header, self.body.clone())
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn has_key(&self, key: &impl KeyQuery) -> bool {
        self.header == key.header() && key.matches(&self.body)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn value(&self) -> &Value {
        self.value.get()
    }

    /// Returns true if the entry has certainly not expired: by the coarse clock, it has more than
    /// [`COARSE_CLOCK_MARGIN`] left.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn is_surely_live(&self, coarse: CoarseInstant) -> bool {
        coarse + COARSE_CLOCK_MARGIN < self.expires
    }

    /// Returns true if the entry has not expired. `now` must be a precise time that a
    /// [`ClockConverter`] has converted.
    pub(super) fn is_live(&self, now: CoarseInstant) -> bool {
        now < self.expires
    }

    /// Returns the time until the entry expires; zero if the entry has expired. `now` must be a
    /// precise time that a [`ClockConverter`] has converted.
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
    pub(super) fn new(
        weight: u32,
        insertions: u32,
        is_admission_claimed: bool,
    ) -> EntryPolicyState {
        EntryPolicyState {
            weight,
            reported_at: AtomicU32::new(insertions),
            is_admission_claimed: AtomicBool::new(is_admission_claimed),
        }
    }

    /// Returns true if the policy has admitted this entry, or if a thread is about to make it do
    /// so.
    pub(super) fn is_admission_claimed(&self) -> bool {
        self.is_admission_claimed.load(Ordering::SeqCst)
    }

    /// Claims the admission of the entry. Returns true if the claim was free; the caller must then
    /// make the policy admit the entry.
    pub(super) fn claim_admission(&self) -> bool {
        !self.is_admission_claimed.swap(true, Ordering::SeqCst)
    }

    /// Returns true if at least `interval` entries were inserted since the last report. The caller
    /// should then report a hit on this entry to the policy.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn is_report_due(&self, insertions: u32, interval: u32) -> bool {
        insertions.wrapping_sub(self.reported_at.load(Ordering::Relaxed)) >= interval
    }

    /// Records that the policy has been told of a hit on this entry.
    pub(super) fn set_reported(&self, insertions: u32) {
        self.reported_at.store(insertions, Ordering::Relaxed);
    }
}
