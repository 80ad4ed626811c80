//! Events: reports about the calls, the entries and the memcached servers of a cache.
//!
//! Each event is reported once, with [`EventDispatcher::emit`], by the code that causes the event. The
//! counters of the cache, the log and every [`Observer`] receive every event. The `Debug` output of an
//! event shows no value and no identifier.
//!
//! The lookup that is inlined into an annotated function emits no event for a hit. It only adds 1 to a
//! counter, because a call of an observer would take longer than the hit.
//!
//! In this module, a *fetch* is a run of the annotated function, and a *lease* is the right to fill an
//! entry in the remote tier, which one process of the fleet holds at a time.

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

/// A receiver of every event of a cache.
pub(crate) trait Observer: Send + Sync {
    /// Receives an event, on the thread that reports the event. The method must not block.
    fn event(&self, event: &Event<'_>);
}

/// One report about a call, an entry or a server.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
#[allow(dead_code, reason = "observers alone read some fields, and no public one exists yet")]
pub(crate) enum Event<'e> {
    /// A call, or a lookup with `CacheEntry::get` or `first_found`, found its value in a tier.
    Hit { entry: EventSubject<'e>, tier: Tier },
    /// A call did not find its value in the request tier and the local tier, or its request forces a miss.
    Miss { entry: EventSubject<'e> },
    /// A call waited for another call of this process with the same key, and received the outcome of the
    /// other call.
    Waited { entry: EventSubject<'e> },
    /// A call runs the function without the cache.
    Bypassed { declaration: &'static Declaration, reason: BypassReason<'e> },
    /// A call or a refresh starts to run the function.
    FetchStarted { entry: EventSubject<'e> },
    /// The function returned. `took` is `None` if the fetch was not timed: without a remote tier, only
    /// refreshes and fetches of more than 15 s are timed.
    FetchEnded { entry: EventSubject<'e>, outcome: FetchResultKind, took: Option<Duration> },
    /// A call won the lease to fill an entry that the remote tier does not have.
    LeaseWon { entry: EventSubject<'e> },
    /// A call found that another process holds the lease. This is reported at most once for each call.
    LeaseBusy { entry: EventSubject<'e> },
    /// A call fetches although another process holds the lease. The call has waited long enough, or its
    /// request forces a miss.
    LeaseTimedOut { entry: EventSubject<'e> },
    /// The remote tier stored a fetched value.
    Filled { entry: EventSubject<'e> },
    /// The remote tier did not store a fetched value.
    FillRefused { entry: EventSubject<'e>, reason: FillRefusal },
    /// A call returns an expired value.
    StaleServed { entry: EventSubject<'e>, reason: StaleReason },
    /// A refresh of an entry that has not expired starts in the background.
    RefreshStarted { entry: EventSubject<'e> },
    /// `CacheEntry::overwrite` starts to replace the entry.
    Overwritten { entry: EventSubject<'e> },
    /// `CacheEntry::invalidate` starts to remove the entry.
    Invalidated { entry: EventSubject<'e> },
    /// The local tier removed the entry.
    Evicted { entry: EventSubject<'e>, reason: EvictionReason },
    /// An exchange with a server failed or took too long.
    RemoteFailed { entry: EventSubject<'e>, error: &'e RemoteError },
    /// A value of a function cannot be stored in the remote tier. This is reported for the first such value
    /// of each function.
    NotStorable { declaration: &'static Declaration, why: &'static str },
    /// A server failed several times in a row, and is not used until it answers again.
    #[cfg(feature = "memcached")]
    ServerEjected { address: &'e str, error: &'e RemoteError },
    /// An ejected server answers and is used again.
    #[cfg(feature = "memcached")]
    ServerBack { address: &'e str },
    /// The items that a server has stored so far are no longer trusted.
    #[cfg(feature = "memcached")]
    ServerFenced { address: &'e str },
}

/// The reason why a call runs the function without the cache.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub(crate) enum BypassReason<'e> {
    /// The cache is off, or the function is not cached, for example because another function has the same
    /// cache name.
    NotCached,
    /// The arguments could not be encoded as a key.
    Key(&'e KeyError),
    /// The function called itself with the same key.
    Recursion,
}

/// Says whether the function returned a value or an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum FetchResultKind {
    Value,
    Error,
}

/// The reason why the remote tier did not store a fetched value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum FillRefusal {
    /// Too many bytes were already waiting to be written.
    QueueFull,
    /// The value cannot be encoded as bytes that decode to the same value.
    NotStorable,
    /// The lease was lost, the entry was changed during the fetch, or the value's ttl is too short.
    Overtaken,
    /// The exchange with the server failed.
    Failed,
}

/// The reason why a call returns an expired value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum StaleReason {
    /// The fetch failed.
    FetchFailed,
    /// Another process is fetching a new value.
    FetchedElsewhere,
}

/// The reason why the local tier removed an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum EvictionReason {
    /// The tier's capacity was reached.
    Size,
    /// The entry's ttl had ended.
    Expired,
    /// A newer entry of the same key took the entry's place.
    Replaced,
    /// The key was invalidated or overwritten.
    Invalidated,
}

/// The entry that an event is about. Observers learn the entry's declaration and the digest of its key.
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
    /// Returns the subject for an entry with this key.
    pub(crate) fn of(key: &'e [u8]) -> EventSubject<'e> {
        EventSubject::from_parts(KeyHeader::read(key), key_body(key))
    }

    /// Returns the subject for an entry whose key is stored in two parts: the header, which has the key's
    /// hash and the index of the declaration, and the body, which is the rest of the key.
    pub(crate) fn from_parts(header: KeyHeader, body: &'e [u8]) -> EventSubject<'e> {
        EventSubject { header, body }
    }

    pub(crate) fn declaration(&self) -> &'static Declaration {
        &DECLARATIONS[self.header.index()]
    }

    fn name(&self) -> &'static str {
        DECLARATIONS.get(self.header.index()).map_or("unknown", Declaration::name)
    }

    /// Computes the digest of the key. Memcached keys and log lines contain the digest.
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

/// Passes each event of one cache to the counters of the cache, to the log and to the observers of the
/// cache. Clones share the counters and the observers.
#[derive(Clone)]
pub(crate) struct EventDispatcher {
    counters: Arc<[Counters]>,
    observers: Arc<[Arc<dyn Observer>]>,
}

impl EventDispatcher {
    pub(crate) fn new(observers: Vec<Arc<dyn Observer>>) -> EventDispatcher {
        EventDispatcher { counters: all_counters().into(), observers: observers.into() }
    }

    /// Returns the counters of all declarations. The index of a declaration is also its index here.
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
