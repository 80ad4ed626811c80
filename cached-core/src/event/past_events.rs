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

/// The number of entries whose last event is remembered. Each takes 32 bytes.
const SLOTS: usize = 4096;

/// An event after which the entry is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PastEvent {
    Evicted(EvictionReason),
    NotCached(UncachedReason),
    FetchFailed,
    FillRefused(FillRefusal),
}

/// The last event of each entry, in a fixed number of slots. If two entries share a slot, the later
/// event replaces the earlier one.
#[derive(Default)]
pub(super) struct PastEvents {
    slots: OnceLock<Mutex<Box<[Option<RememberedEvent>]>>>,
}

#[derive(Clone, Copy)]
struct RememberedEvent {
    header: KeyHeader,
    event: PastEvent,
    at: Instant,
}

impl PastEvents {
    /// Remembers the event if the entry is missing after it. If the event stores a value, forgets
    /// the entry's earlier event.
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
        let (entry, past) = match event {
            Event::Evicted { reason: EvictionReason::Replaced, .. } => return,
            Event::Evicted { entry, reason } => (entry, Some(PastEvent::Evicted(*reason))),
            Event::Invalidated { entry } => {
                (entry, Some(PastEvent::Evicted(EvictionReason::Invalidated)))
            }
            Event::NotCached { entry, reason } => (entry, Some(PastEvent::NotCached(*reason))),
            Event::FillRefused { entry, reason } => (entry, Some(PastEvent::FillRefused(*reason))),
            Event::FetchEnded { entry, outcome: FetchOutcome::Error, .. } => {
                (entry, Some(PastEvent::FetchFailed))
            }
            Event::FetchEnded { entry, outcome: FetchOutcome::Value, .. }
            | Event::Filled { entry }
            | Event::Overwritten { entry } => (entry, None),
            _ => return,
        };
        let header = entry.header;
        let mut slots = lock(self.slots.get_or_init(|| Mutex::new(vec![None; SLOTS].into())));
        let slot = &mut slots[slot_of(header)];
        match past {
            Some(event) => *slot = Some(RememberedEvent { header, event, at: Instant::now() }),
            None if slot.is_some_and(|remembered| remembered.header == header) => *slot = None,
            None => {}
        }
    }

    /// Returns the last event of the entry whose key begins with this header, and how long ago the
    /// event was.
    pub(super) fn last(&self, header: KeyHeader) -> Option<(PastEvent, Duration)> {
        let slots = lock(self.slots.get()?);
        let remembered = slots[slot_of(header)].filter(|found| found.header == header)?;
        Some((remembered.event, remembered.at.elapsed()))
    }
}

fn slot_of(header: KeyHeader) -> usize {
    header.spread() as usize % SLOTS
}

impl fmt::Display for PastEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PastEvent::Evicted(EvictionReason::Size) => "the local tier needed the entry's room",
            PastEvent::Evicted(EvictionReason::Expired) => "the entry was removed after its ttl",
            PastEvent::Evicted(EvictionReason::Replaced) => "the entry was replaced",
            PastEvent::Evicted(EvictionReason::Invalidated) => "the entry was invalidated",
            PastEvent::Evicted(EvictionReason::Cleared) => {
                "`clear` or `invalidate_all` removed the entry"
            }
            PastEvent::NotCached(reason) => {
                return write!(f, "the value was not cached because {reason}");
            }
            PastEvent::FetchFailed => "the fetch failed",
            PastEvent::FillRefused(reason) => {
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
