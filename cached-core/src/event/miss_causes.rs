//! Remembers why entries are missing: because they were evicted, for example, or because the fetch
//! failed. When a call misses such an entry, its log line can state the cause.
//!
//! Events are remembered only while the log or a `tracing` subscriber accepts the level `debug`.

use std::fmt;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::{Event, EvictionReason, FetchOutcome, FillRefusal, UncachedReason};
use crate::key::KeyHeader;
use crate::sync::lock;
use crate::telemetry::accepts_debug;

/// The number of entries whose last cause is remembered. Each takes 32 bytes.
const SLOTS: usize = 4096;

/// The event that left an entry missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MissCause {
    Evicted(EvictionReason),
    NotCached(UncachedReason),
    FetchFailed,
    FillRefused(FillRefusal),
}

/// The latest [`MissCause`] of each entry, in a fixed number of slots. If two entries share a slot,
/// the later cause replaces the earlier one.
#[derive(Default)]
pub(super) struct MissCauses {
    slots: OnceLock<Mutex<Box<[Option<RememberedCause>]>>>,
}

#[derive(Clone, Copy)]
struct RememberedCause {
    header: KeyHeader,
    cause: MissCause,
    at: Instant,
}

impl MissCauses {
    /// Remembers the event if the entry is missing after it. If the event stores a value, forgets
    /// the entry's earlier cause.
    ///
    /// Some events are reported while the local tier frees memory. This method therefore must not
    /// call the program's logger.
    #[inline]
    pub(super) fn note(&self, event: &Event<'_>) {
        if accepts_debug() {
            self.remember(event);
        }
    }

    #[cold]
    fn remember(&self, event: &Event<'_>) {
        let (entry, cause) = match event {
            Event::Evicted { reason: EvictionReason::Replaced, .. } => return,
            Event::Evicted { entry, reason } => (entry, Some(MissCause::Evicted(*reason))),
            Event::Invalidated { entry } => {
                (entry, Some(MissCause::Evicted(EvictionReason::Invalidated)))
            }
            Event::NotCached { entry, reason } => (entry, Some(MissCause::NotCached(*reason))),
            Event::FillRefused { entry, reason } => (entry, Some(MissCause::FillRefused(*reason))),
            Event::FetchEnded { entry, outcome: FetchOutcome::Error, .. } => {
                (entry, Some(MissCause::FetchFailed))
            }
            Event::FetchEnded { entry, outcome: FetchOutcome::Value, .. }
            | Event::Filled { entry }
            | Event::Overwritten { entry } => (entry, None),
            _ => return,
        };
        let header = entry.header;
        let mut slots = lock(self.slots.get_or_init(|| Mutex::new(vec![None; SLOTS].into())));
        let slot = &mut slots[slot_of(header)];
        match cause {
            Some(cause) => *slot = Some(RememberedCause { header, cause, at: Instant::now() }),
            None if slot.is_some_and(|remembered| remembered.header == header) => *slot = None,
            None => {}
        }
    }

    /// Returns the last cause of the entry whose key begins with this header, and how long ago the
    /// event was.
    pub(super) fn last(&self, header: KeyHeader) -> Option<(MissCause, Duration)> {
        let slots = lock(self.slots.get()?);
        let remembered = slots[slot_of(header)].filter(|found| found.header == header)?;
        Some((remembered.cause, remembered.at.elapsed()))
    }
}

fn slot_of(header: KeyHeader) -> usize {
    header.spread() as usize % SLOTS
}

impl fmt::Display for MissCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MissCause::Evicted(EvictionReason::Size) => "the local tier needed the entry's room",
            MissCause::Evicted(EvictionReason::Expired) => "the entry was removed after its ttl",
            MissCause::Evicted(EvictionReason::Replaced) => "the entry was replaced",
            MissCause::Evicted(EvictionReason::Invalidated) => "the entry was invalidated",
            MissCause::Evicted(EvictionReason::Cleared) => {
                "`clear` or `invalidate_all` removed the entry"
            }
            MissCause::NotCached(reason) => {
                return write!(f, "the value was not cached because {reason}");
            }
            MissCause::FetchFailed => "the fetch failed",
            MissCause::FillRefused(reason) => {
                return write!(f, "memcached did not take the value because {reason}");
            }
        })
    }
}

impl fmt::Display for FillRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FillRefusal::QueueFull => "too many values were waiting to be written",
            FillRefusal::NotStorable => "it would not read back as it was written",
            FillRefusal::TtlTooShort => "its ttl is under a second",
            FillRefusal::Overtaken => "the lease had ended",
            FillRefusal::Failed => "the exchange failed",
        })
    }
}
