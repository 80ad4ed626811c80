//! Events: reports about the calls, the entries and the memcached servers of a cache.
//!
//! The code that causes an event reports it once, with [`EventDispatcher::emit`]. The counters of
//! the cache, the log and every [`Observer`] then receive the event. The `Debug` output of an event
//! shows neither a cached value nor the arguments of a call.
//!
//! Every annotated function contains an inlined lookup. A hit in this lookup emits no event and
//! only adds 1 to a counter, because a call of an observer would take longer than the hit.
//!
//! In this module, a *fetch* is a run of the annotated function. A *lease* is the right to fill an
//! entry in the remote tier, and one process at a time holds the lease of an entry.

mod counting;
mod logging;
mod miss_report;
mod past_events;

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
use crate::unstorable::UnstorableValue;
pub(crate) use miss_report::{
    AwaitedResult, FetchOutcome, LocalLookup, MissReport, RemoteFinding, RequestLookup,
    UncachedReason, logs_misses,
};
pub(crate) use past_events::PastEvent;
use past_events::PastEvents;

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
    /// A call found its value in a tier, outside the inlined lookup. Lookups with `CacheEntry::get`
    /// and `first_found` emit this event too.
    Hit { entry: EventSubject<'e>, tier: Tier },
    /// A call found its value in neither the request tier nor the local tier, or skipped the local
    /// tier because its request forces a miss.
    Miss { entry: EventSubject<'e> },
    /// A call that was reported as a [`Miss`](Event::Miss) has ended, or its caller dropped it. The
    /// event is emitted only while the log asks for it.
    MissEnded { entry: EventSubject<'e>, report: &'e MissReport },
    /// A call waited for another call of this process with the same key, and received the other
    /// call's outcome.
    Waited { entry: EventSubject<'e> },
    /// A call runs the function without the cache.
    Bypassed { declaration: &'static Declaration, reason: BypassReason<'e> },
    /// A call or a refresh starts to run the function.
    FetchStarted { entry: EventSubject<'e> },
    /// The function returned. `took` is the duration of the fetch. Without a remote tier, `took` is
    /// reported only for refreshes and for fetches of more than 15 s.
    FetchEnded { entry: EventSubject<'e>, outcome: FetchOutcome, took: Option<Duration> },
    /// The function returned a value that is not cached.
    NotCached { entry: EventSubject<'e>, reason: UncachedReason },
    /// A call won the lease to fill an entry that the remote tier does not have.
    LeaseWon { entry: EventSubject<'e> },
    /// A call found that another process holds the lease. A call emits this event at most once.
    LeaseBusy { entry: EventSubject<'e> },
    /// A call fetches although another process holds the lease. The call has waited for the lease
    /// in vain, or fetches at once because its request forces a miss.
    LeaseTimedOut { entry: EventSubject<'e> },
    /// The remote tier stored a fetched value. If the key's own server is out of reach, another
    /// server stores the value for a few seconds.
    Filled { entry: EventSubject<'e> },
    /// The remote tier did not store a fetched value.
    FillRefused { entry: EventSubject<'e>, reason: FillRefusal },
    /// A call returns an expired value.
    StaleServed { entry: EventSubject<'e>, reason: StaleReason },
    /// A call returns the error of an earlier fetch, because the option `error_ttl` holds off the
    /// next fetches of the key. If an expired value is kept for errors, the call emits
    /// `StaleServed` instead.
    FetchPaused { entry: EventSubject<'e> },
    /// A refresh of an entry that has not expired starts in the background.
    RefreshStarted { entry: EventSubject<'e> },
    /// `CacheEntry::overwrite` was called. The entry is replaced after this event.
    Overwritten { entry: EventSubject<'e> },
    /// `CacheEntry::invalidate` was called. The entry is removed after this event.
    Invalidated { entry: EventSubject<'e> },
    /// The local tier removed the entry.
    Evicted { entry: EventSubject<'e>, reason: EvictionReason },
    /// An exchange with a server failed or took too long.
    RemoteFailed { entry: EventSubject<'e>, error: &'e RemoteError },
    /// A value of a function cannot be stored in the remote tier. Each function emits this event
    /// once, for its first such value.
    NotStorable { declaration: &'static Declaration, value: &'static UnstorableValue },
    /// `Cache::invalidate_all` has removed the local entries of a function, or `Cache::clear` those
    /// of all functions. `entries` is the number of entries.
    Cleared { function: Option<&'static Declaration>, entries: usize },
    /// A call outside of every `Cache::scope` fell back to the built-in cache and missed, although
    /// the program uses scopes. Only builds with debug assertions emit this event.
    ScopeLost { declaration: &'static Declaration },
    /// A server failed several times in a row, and is not used until it answers again.
    #[cfg(feature = "memcached")]
    ServerEjected { address: &'e str, error: &'e RemoteError },
    /// An ejected server answers and is used again.
    #[cfg(feature = "memcached")]
    ServerBack { address: &'e str },
    /// A recovery attempt of an ejected server failed.
    #[cfg(feature = "memcached")]
    RecoveryFailed { error: &'e RemoteError },
    /// This process could not renew its lease of an entry, and will try again.
    #[cfg(feature = "memcached")]
    LeaseNotRenewed { error: &'e RemoteError },
    /// A tokio runtime lacks its timer or its I/O driver, so calls on this runtime do not use
    /// memcached. Emitted once for each runtime, by the first cache that is used on it.
    #[cfg(feature = "memcached")]
    RuntimeWithoutDriver { missing: &'static str },
    /// A server's address now reaches a different memcached process. That one was running already
    /// when this process last changed an entry, so it may have missed the change. The items of the
    /// new process are no longer trusted.
    #[cfg(feature = "memcached")]
    ServerReplaced { address: &'e str },
    /// A server answers, but has not stored values of a function for a while. `function` is the
    /// part of the function's keys before their digest. Emitted once for each server, and again
    /// only after a write has succeeded in between.
    #[cfg(feature = "memcached")]
    ServerStoresNothing { function: &'e str, error: &'e RemoteError },
    /// A server may have missed changes, so the items that it has stored so far are no longer
    /// trusted.
    #[cfg(feature = "memcached")]
    ServerFenced { address: &'e str },
}

/// The reason why a call runs the function without the cache.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub(crate) enum BypassReason<'e> {
    /// The cache is off.
    CacheOff,
    /// The function is not cached, for example because another function has the same cache name.
    NotCached,
    /// The arguments could not be encoded as a key.
    Key(&'e KeyError),
    /// The function called itself with the same key.
    Recursion,
    /// The value or the error that was found for the key has another type than the call returns.
    /// Two types can share a path, for example in two versions of a crate, and keys contain only
    /// the path.
    OtherType,
}

/// The reason why the remote tier did not store a fetched value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum FillRefusal {
    /// Too many bytes were already waiting to be written.
    QueueFull,
    /// The value cannot be encoded as bytes that decode to the same value.
    NotStorable,
    /// The value's ttl is too short for the remote tier.
    TtlTooShort,
    /// The lease was lost, or the entry was changed during the fetch.
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
    FetchRunsElsewhere,
}

/// The reason why the local tier removed an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum EvictionReason {
    /// The tier's capacity was reached.
    Size,
    /// The entry's ttl had ended.
    Expired,
    /// A newer value of the same key was stored in the local tier or in memcached.
    Replaced,
    /// The key was invalidated or overwritten.
    Invalidated,
    /// `Cache::clear` or `Cache::invalidate_all` was called.
    Cleared,
}

/// The entry that an event is about. Observers can read the entry's declaration and the digest of
/// the entry's key, but not the key itself.
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
    /// Returns the subject of an event about the entry with this key.
    pub(crate) fn of(key: &'e [u8]) -> EventSubject<'e> {
        EventSubject::from_parts(KeyHeader::read(key), key_body(key))
    }

    /// Returns the subject of an event about an entry whose key is given in two parts. The header
    /// contains the key's hash and the index of the declaration. The body is the rest of the key.
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

/// Passes each event of one cache to the counters of the cache, to the log and to the observers of
/// the cache. Clones share the counters and the observers.
#[derive(Clone)]
pub(crate) struct EventDispatcher {
    counters: Arc<[Counters]>,
    past_events: Arc<PastEvents>,
    observers: Arc<[Arc<dyn Observer>]>,
}

impl EventDispatcher {
    pub(crate) fn new(observers: Vec<Arc<dyn Observer>>) -> EventDispatcher {
        EventDispatcher {
            counters: all_counters().into(),
            past_events: Arc::default(),
            observers: observers.into(),
        }
    }

    /// Returns the counters of all declarations. Each declaration's counters are at the
    /// declaration's index.
    #[inline]
    pub(crate) fn counters(&self) -> &[Counters] {
        &self.counters
    }

    /// Returns what last happened to the entry, and how long ago, if that is known.
    pub(crate) fn last_event(&self, entry: &EventSubject<'_>) -> Option<(PastEvent, Duration)> {
        self.past_events.last(entry.header)
    }

    pub(crate) fn emit(&self, event: &Event<'_>) {
        counting::count(&self.counters, event);
        self.past_events.note(event);
        logging::log(event);
        self.observers.iter().for_each(|observer| observer.event(event));
    }
}

#[cfg(test)]
mod tests;
