//! Events: what happens to a call, to an entry and to a server of a cache.
//!
//! The code that does something reports it once, with [`EventDispatcher::emit`]. The cache's counters, the log
//! and every [`Observer`] receive each event. No event holds a value or an identifier.
//!
//! One thing is not an event: a hit that is inlined into the annotated function only adds to its
//! counter, because a call to an observer would cost more than the hit.

mod counting;
mod logging;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::declaration::{DECLARATIONS, Declaration};
#[cfg(feature = "memcached")]
use crate::key::{Digest, canonical_bytes_of_body};
use crate::key::{KeyError, KeyHeader, key_body};
use crate::stats::{Counters, all_counters};
use crate::tier::Tier;
use crate::tier::remote::RemoteError;

/// Receives every event of a cache, on the thread that reports it. It must not block.
pub(crate) trait Observer: Send + Sync {
    fn event(&self, event: &Event<'_>);
}

/// One thing that happened in a cache.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
#[allow(dead_code, reason = "observers alone read some fields, and no public one exists yet")]
pub(crate) enum Event<'e> {
    /// A tier had the value that a call or a lookup of an entry asked for.
    Hit { entry: EventSubject<'e>, tier: Tier },
    /// The request tier and the local tier did not have the value.
    Miss { entry: EventSubject<'e> },
    /// A call received the outcome of a fetch that another call of this process led.
    Waited { entry: EventSubject<'e> },
    /// A call ran the function without the cache.
    Bypassed { declaration: &'static Declaration, reason: BypassReason<'e> },
    /// A call or a refresh began to run the function.
    FetchStarted { entry: EventSubject<'e> },
    /// The function returned. Without a remote tier only a fetch of many seconds is timed.
    FetchEnded { entry: EventSubject<'e>, outcome: FetchResultKind, took: Option<Duration> },
    /// A call won the lease to fill an absent entry, or to replace one that has expired.
    LeaseWon { entry: EventSubject<'e> },
    /// A call found that another process holds the lease. It is reported once a call.
    LeaseBusy { entry: EventSubject<'e> },
    /// A call stopped waiting for another process's lease and fetches for itself.
    LeaseTimedOut { entry: EventSubject<'e> },
    /// The remote tier stored a fetched value.
    Filled { entry: EventSubject<'e> },
    /// The remote tier did not store a fetched value.
    FillRefused { entry: EventSubject<'e>, reason: FillRefusal },
    /// A call was answered with an expired value.
    StaleServed { entry: EventSubject<'e>, reason: StaleReason },
    /// A refresh of an entry that is still alive began in the background.
    RefreshStarted { entry: EventSubject<'e> },
    /// `overwrite` began to replace the entry.
    Overwritten { entry: EventSubject<'e> },
    /// `invalidate` began to remove the entry.
    Invalidated { entry: EventSubject<'e> },
    /// The local tier removed the entry.
    Evicted { entry: EventSubject<'e>, reason: EvictionReason },
    /// An exchange with a server failed or was late.
    RemoteFailed { entry: EventSubject<'e>, error: &'e RemoteError },
    /// The first value of a declaration was found that cannot be written as bytes and read back.
    NotStorable { declaration: &'static Declaration, why: &'static str },
    /// A server left the rotation after several failures in a row.
    #[cfg(feature = "memcached")]
    ServerEjected { address: &'e str, error: &'e RemoteError },
    /// A server answers again and is back in rotation.
    #[cfg(feature = "memcached")]
    ServerBack { address: &'e str },
    /// Items that a server stored before now are no longer trusted.
    #[cfg(feature = "memcached")]
    ServerFenced { address: &'e str },
}

/// Why a call ran the function without the cache.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub(crate) enum BypassReason<'e> {
    /// The cache is off, or the function shares its cache name with another function.
    NotCached,
    /// The arguments could not be encoded as a key.
    Key(&'e KeyError),
    /// The function called itself with the same key.
    Recursion,
}

/// How a fetch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum FetchResultKind {
    Value,
    Error,
}

/// Why the remote tier did not store a fetched value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum FillRefusal {
    /// Too many bytes were waiting to be written.
    QueueFull,
    /// The value cannot be written as bytes and read back.
    NotStorable,
    /// The lease was lost, or somebody changed the entry after it was won.
    Overtaken,
    /// The exchange with the server failed.
    Failed,
}

/// Why a call was answered with an expired value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum StaleReason {
    /// The fetch failed.
    FetchFailed,
    /// Another process is fetching a new value.
    FetchedElsewhere,
}

/// Why the local tier removed an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum EvictionReason {
    /// The tier's capacity was reached.
    Size,
    /// The entry's time to live was over.
    Expired,
    /// Another value of the same key took its place.
    Replaced,
    /// The key was invalidated or overwritten.
    Invalidated,
}

/// The entry that an event is about: its declaration, and its key as a digest.
#[derive(Clone, Copy)]
pub(crate) struct EventSubject<'e> {
    header: KeyHeader,
    #[cfg_attr(
        not(feature = "memcached"),
        expect(dead_code, reason = "the digest alone needs it")
    )]
    body: &'e [u8],
}

impl<'e> EventSubject<'e> {
    /// Names the entry of a key of this process.
    pub(crate) fn of(key: &'e [u8]) -> EventSubject<'e> {
        EventSubject::from_parts(KeyHeader::read(key), key_body(key))
    }

    /// Names the entry of a key that is stored in two pieces, its header and what follows it.
    pub(crate) fn from_parts(header: KeyHeader, body: &'e [u8]) -> EventSubject<'e> {
        EventSubject { header, body }
    }

    pub(crate) fn declaration(&self) -> &'static Declaration {
        &DECLARATIONS[self.header.index()]
    }

    fn name(&self) -> &'static str {
        DECLARATIONS.get(self.header.index()).map_or("unknown", Declaration::name)
    }

    /// Computes the digest under which the entry is known outside of this process.
    #[cfg(feature = "memcached")]
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&canonical_bytes_of_body(self.name(), self.body))
    }
}

impl fmt::Debug for EventSubject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        #[cfg(feature = "memcached")]
        write!(f, ":{}", self.digest())?;
        Ok(())
    }
}

/// Passes the events of one cache on to its counters, the log and its observers. A clone passes them
/// on to the same.
#[derive(Clone)]
pub(crate) struct EventDispatcher {
    counters: Arc<[Counters]>,
    observers: Arc<[Arc<dyn Observer>]>,
}

impl EventDispatcher {
    pub(crate) fn new(observers: Vec<Arc<dyn Observer>>) -> EventDispatcher {
        EventDispatcher { counters: all_counters().into(), observers: observers.into() }
    }

    /// The counters of every declaration, by its index.
    #[inline]
    pub(crate) fn counters(&self) -> &[Counters] {
        &self.counters
    }

    pub(crate) fn emit(&self, event: &Event<'_>) {
        counting::count(&self.counters, event);
        logging::log(event);
        self.observers.iter().for_each(|observer| observer.event(event));
    }
}

#[cfg(test)]
mod tests;
