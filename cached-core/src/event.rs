//! Events: reports about the calls, the entries and the memcached servers of a cache.
//!
//! An [`Observer`] receives the events of a cache. Pass it to
//! [`CacheBuilder::observer`](crate::CacheBuilder::observer). An event contains neither cached
//! values nor arguments of calls. Its [`EventSubject`] contains the function and the digest of the
//! key.
//!
//! **Most hits in this process are not events.** Every annotated function contains an inlined
//! lookup in the request tier and the local tier. A hit in this lookup only adds 1 to a counter,
//! because calling an observer would take longer than the hit.
//! [`Cache::stats`](crate::Cache::stats) has the number of these hits.
//!
//! In this module, a *fetch* is a run of the annotated function. A *fill* stores the fetched value
//! in memcached. A *lease* is the right to fill an entry, and only one process at a time has the
//! lease of an entry. The guide lists [every event and every counter](crate::guide::events).
//!
//! # Examples
//! Log why entries leave the local tier:
//!
//! ```
//! use std::sync::Arc;
//! use cached_core::event::{Event, Observer};
//! use cached_core::{Cache, coordinator_cached};
//!
//! struct LogEvictions;
//!
//! impl Observer for LogEvictions {
//!     fn event(&self, event: &Event<'_>) {
//!         if let Event::Evicted { entry, reason, .. } = event {
//!             println!("an entry of `{}` was removed: {reason}", entry.name());
//!         }
//!     }
//! }
//!
//! #[coordinator_cached(name = "eviction_doc", version = edition, entry = course_entry)]
//! async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
//!     Ok(format!("course {id}, edition {edition}"))
//! }
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let cache = Cache::builder().observer(Arc::new(LogEvictions)).build().await.unwrap();
//! cache.scope(async {
//!     course(1, 2).await?;
//!     // Prints: an entry of `eviction_doc` was removed: invalidated
//!     course_entry(1, 2).invalidate().await.expect("the cache has no memcached");
//!     Ok::<(), std::io::Error>(())
//! }).await?;
//! assert_eq!(cache.stats().local().evictions_invalidated, 1);
//! # Ok::<(), std::io::Error>(())
//! # }).unwrap();
//! ```
//!
//! Count the fetches of each tenant. A call reports its events in its own task, so the observer can
//! read a task-local:
//!
//! ```
//! use std::collections::HashMap;
//! use std::sync::{Arc, Mutex};
//! use cached_core::event::{Event, Observer};
//! use cached_core::{Cache, coordinator_cached};
//!
//! tokio::task_local! { static TENANT: &'static str; }
//!
//! #[derive(Default)]
//! struct FetchesByTenant(Mutex<HashMap<&'static str, u64>>);
//!
//! impl Observer for FetchesByTenant {
//!     fn event(&self, event: &Event<'_>) {
//!         if let Event::FetchStarted { .. } = event {
//!             let tenant = TENANT.try_with(|tenant| *tenant).unwrap_or("none");
//!             *self.0.lock().unwrap().entry(tenant).or_default() += 1;
//!         }
//!     }
//! }
//!
//! #[coordinator_cached(name = "tenant_event_doc", version = edition)]
//! async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
//!     Ok(format!("course {id}, edition {edition}"))
//! }
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let fetches = Arc::new(FetchesByTenant::default());
//! let cache = Cache::builder().observer(fetches.clone()).build().await.unwrap();
//! cache.scope(TENANT.scope("school", course(1, 2))).await?;
//! cache.scope(TENANT.scope("shop", course(3, 2))).await?;
//! cache.scope(TENANT.scope("shop", course(3, 2))).await?; // a hit
//! assert_eq!(fetches.0.lock().unwrap()["shop"], 1);
//! // An observer that is too slow misses events, and its counts are then too low.
//! assert_eq!(cache.stats().observers()[0].missed, 0);
//! # Ok::<(), std::io::Error>(())
//! # }).unwrap();
//! ```

// The code that causes an event calls `EventDispatcher::emit` once. The dispatcher passes the event
// to the counters of the cache, to the log and to every observer.

mod counting;
mod logging;
mod miss_causes;
mod miss_report;
mod observer;
mod reasons;
mod subject;

use std::sync::Arc;
use std::time::Duration;

use crate::declaration::Declaration;
use crate::stats::{Counters, ObserverStats, all_counters};
use crate::telemetry::CacheLabels;
use crate::tier::Tier;
use crate::tier::remote::RemoteError;
pub use crate::unstorable::UnstorableValue;
pub(crate) use miss_causes::MissCause;
use miss_causes::MissCauses;
pub(crate) use miss_report::{
    AwaitedResult, LocalLookupResult, MISS_TARGET, MissReport, RemoteFinding, RequestLookupResult,
};
pub use observer::Observer;
use observer::ObserverGuard;
pub(crate) use observer::{ObserverList, is_in_observer};
pub use reasons::{
    BypassReason, EvictionReason, FetchOutcome, FillRefusal, StaleServedReason, UncachedReason,
};
pub use subject::EventSubject;

/// One report about a call, an entry or a server.
///
/// Later versions may add variants and fields, so match with `..` and with a last arm `_`.
/// The [module](self) has examples.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'e> {
    /// A call's inlined lookup missed. The full lookup of this call, or of another call that it
    /// waited for, then found the value in a tier. Lookups with `CacheEntry::get` and `first_found`
    /// emit this event too.
    #[non_exhaustive]
    Hit {
        /// The entry that was found.
        entry: EventSubject<'e>,
        /// The tier that had the value.
        tier: Tier,
    },
    /// A call did not find its value in the request tier or the local tier. A call also emits this
    /// event if it skips the local tier because of `RequestScope::force_miss`. The call goes on:
    /// memcached or another call's fetch might still answer it.
    #[non_exhaustive]
    LocalMiss {
        /// The entry that was looked up.
        entry: EventSubject<'e>,
    },
    /// A call waited for the fetch of another call in this process with the same key, and returned
    /// the value or the error of that fetch.
    #[non_exhaustive]
    Waited {
        /// The entry that both calls need.
        entry: EventSubject<'e>,
    },
    /// A call runs the function without the cache.
    #[non_exhaustive]
    Bypassed {
        /// The function.
        declaration: &'static Declaration,
        /// The reason why the call does not use the cache.
        reason: BypassReason<'e>,
    },
    /// A call ended without an answer: its caller dropped it, or the function panicked.
    #[non_exhaustive]
    Cancelled {
        /// The entry that the call needed.
        entry: EventSubject<'e>,
        /// How long the function had run. `None` if the call had not begun to run the function.
        took: Option<Duration>,
    },
    /// A call or a refresh starts to run the function.
    #[non_exhaustive]
    FetchStarted {
        /// The entry that is fetched.
        entry: EventSubject<'e>,
    },
    /// The function returned.
    #[non_exhaustive]
    FetchEnded {
        /// The entry that was fetched.
        entry: EventSubject<'e>,
        /// Says whether the function returned a value or an error.
        outcome: FetchOutcome,
        /// How long the function ran.
        took: Duration,
        /// True if a call returns the function's result, which makes the call a miss.
        ///
        /// False if the function ran for a refresh in the background. Also false if the function
        /// failed and the call returns an expired value instead.
        is_answer: bool,
    },
    /// A run of the function ended without a result, or its result was not used. The call or the
    /// refresh was dropped, the function panicked, or the fetch of another call was faster.
    #[non_exhaustive]
    FetchCancelled {
        /// The entry that was fetched.
        entry: EventSubject<'e>,
        /// How long the function had run.
        took: Duration,
    },
    /// The function returned a value that is not cached.
    #[non_exhaustive]
    NotCached {
        /// The entry that was fetched.
        entry: EventSubject<'e>,
        /// The reason why the value is not cached.
        reason: UncachedReason,
    },
    /// A call won the lease to fill an entry that the remote tier does not have.
    #[non_exhaustive]
    LeaseWon {
        /// The entry to fill.
        entry: EventSubject<'e>,
    },
    /// A call found that another process has the lease. A call emits this event at most once.
    #[non_exhaustive]
    LeaseBusy {
        /// The entry whose lease is held.
        entry: EventSubject<'e>,
    },
    /// A call fetches although another process has the lease. The call has waited too long for that
    /// process, or does not wait because of `RequestScope::force_miss`.
    #[non_exhaustive]
    LeaseTimedOut {
        /// The entry whose lease is held.
        entry: EventSubject<'e>,
    },
    /// The remote tier stored a fetched value. If the key's own server is out of reach, another
    /// server stores the value for a few seconds.
    #[non_exhaustive]
    Filled {
        /// The entry that was stored.
        entry: EventSubject<'e>,
    },
    /// The remote tier did not store a fetched value.
    #[non_exhaustive]
    FillRefused {
        /// The entry that was fetched.
        entry: EventSubject<'e>,
        /// The reason why the value was not stored.
        reason: FillRefusal,
    },
    /// A call is answered with an expired value.
    #[non_exhaustive]
    StaleServed {
        /// The expired entry.
        entry: EventSubject<'e>,
        /// The reason why the call has no newer value.
        reason: StaleServedReason,
    },
    /// A call returns the error of an earlier fetch, because the option `error_ttl` delays the next
    /// fetch of the key. If a tier has kept an expired value for `stale_if_error`, the call emits
    /// `StaleServed` instead.
    #[non_exhaustive]
    FetchPaused {
        /// The entry whose fetches are paused.
        entry: EventSubject<'e>,
    },
    /// A background refresh starts, although the entry has not expired yet.
    #[non_exhaustive]
    RefreshStarted {
        /// The entry that is refreshed.
        entry: EventSubject<'e>,
    },
    /// `CacheEntry::overwrite` was called. The entry is replaced after this event.
    #[non_exhaustive]
    Overwritten {
        /// The entry to replace.
        entry: EventSubject<'e>,
    },
    /// `CacheEntry::invalidate` was called. The entry is removed after this event.
    #[non_exhaustive]
    Invalidated {
        /// The entry to remove.
        entry: EventSubject<'e>,
    },
    /// The local tier removed the entry.
    #[non_exhaustive]
    Evicted {
        /// The entry that was removed.
        entry: EventSubject<'e>,
        /// The reason why the entry was removed.
        reason: EvictionReason,
    },
    /// An exchange with a server failed or took too long.
    #[non_exhaustive]
    RemoteFailed {
        /// The entry that the exchange was about.
        entry: EventSubject<'e>,
        /// The error. It names the server in most cases.
        error: &'e RemoteError,
    },
    /// A function returned a value that cannot be stored in the remote tier. The cache emits this
    /// event only for the first such value of each function.
    #[non_exhaustive]
    NotStorable {
        /// The function.
        declaration: &'static Declaration,
        /// The type of the value, and the reason.
        value: &'static UnstorableValue,
    },
    /// `Cache::invalidate_all` has removed a function's entries from the local tier, or
    /// `Cache::clear` has removed the entries of all functions.
    #[non_exhaustive]
    Cleared {
        /// The function, or `None` for all functions.
        function: Option<&'static Declaration>,
        /// How many entries were removed.
        entries: usize,
    },
    /// The program uses `Cache::scope`, but a call outside of every scope used the built-in cache
    /// and missed. Only builds with debug assertions emit this event.
    #[non_exhaustive]
    ScopeLost {
        /// The function.
        declaration: &'static Declaration,
    },
    /// A server failed several times in a row. It is *ejected*: the cache does not use it until it
    /// answers again.
    #[cfg(feature = "memcached")]
    #[non_exhaustive]
    ServerEjected {
        /// The server's address, as it was configured.
        address: &'e str,
        /// The last failure.
        error: &'e RemoteError,
    },
    /// An ejected server answers and is used again.
    #[cfg(feature = "memcached")]
    #[non_exhaustive]
    ServerBack {
        /// The server's address, as it was configured.
        address: &'e str,
    },
    /// An attempt to use an ejected server again failed.
    #[cfg(feature = "memcached")]
    #[non_exhaustive]
    RecoveryFailed {
        /// The failure. It names the server.
        error: &'e RemoteError,
    },
    /// This process could not renew its lease of an entry, and will try again.
    #[cfg(feature = "memcached")]
    #[non_exhaustive]
    LeaseNotRenewed {
        /// The failure. It names the server.
        error: &'e RemoteError,
    },
    /// A tokio runtime lacks its timer or its I/O driver, so calls on this runtime do not use
    /// memcached. Emitted once for each runtime, by the first cache that is used on it.
    #[cfg(feature = "memcached")]
    #[non_exhaustive]
    RuntimeWithoutDriver {
        /// The driver that is missing.
        missing: &'static str,
    },
    /// A server's address now leads to a different memcached. The new memcached was already running
    /// when this cache last changed an entry, but the change might have gone to the earlier one.
    /// The cache therefore ignores the items that the new memcached has stored so far.
    #[cfg(feature = "memcached")]
    #[non_exhaustive]
    ServerReplaced {
        /// The server's address, as it was configured.
        address: &'e str,
    },
    /// A server answers, but for a while all writes of a function's values have failed. The event
    /// is emitted once. It is emitted again only if a write succeeds and later writes fail again.
    #[cfg(feature = "memcached")]
    #[non_exhaustive]
    ServerStoresNothing {
        /// The start of the function's keys in memcached, such as `shop:payment`.
        function: &'e str,
        /// The failure of the last write. It names the server.
        error: &'e RemoteError,
    },
    /// A server may have missed changes, so the cache ignores the items that the server has stored
    /// so far. Until the cache can tell these items from newer ones, it does not use the server at
    /// all.
    #[cfg(feature = "memcached")]
    #[non_exhaustive]
    ServerFenced {
        /// The server's address, as it was configured.
        address: &'e str,
    },
}

impl<'e> Event<'e> {
    /// Returns the entry that the event is about, or `None` for an event about a function or a
    /// server.
    ///
    /// ```
    /// use cached_core::event::{Event, Observer};
    ///
    /// struct PrintFailures;
    ///
    /// impl Observer for PrintFailures {
    ///     fn event(&self, event: &Event<'_>) {
    ///         if let (Event::RemoteFailed { error, .. }, Some(entry)) = (event, event.subject()) {
    ///             eprintln!("{entry:?}: {error}");
    ///         }
    ///     }
    /// }
    /// # let _ = PrintFailures;
    /// ```
    #[must_use]
    pub fn subject(&self) -> Option<EventSubject<'e>> {
        match *self {
            Event::Hit { entry, .. }
            | Event::LocalMiss { entry }
            | Event::Waited { entry }
            | Event::Cancelled { entry, .. }
            | Event::FetchStarted { entry }
            | Event::FetchEnded { entry, .. }
            | Event::FetchCancelled { entry, .. }
            | Event::NotCached { entry, .. }
            | Event::LeaseWon { entry }
            | Event::LeaseBusy { entry }
            | Event::LeaseTimedOut { entry }
            | Event::Filled { entry }
            | Event::FillRefused { entry, .. }
            | Event::StaleServed { entry, .. }
            | Event::FetchPaused { entry }
            | Event::RefreshStarted { entry }
            | Event::Overwritten { entry }
            | Event::Invalidated { entry }
            | Event::Evicted { entry, .. }
            | Event::RemoteFailed { entry, .. } => Some(entry),
            _ => None,
        }
    }
}

/// Passes each event of one cache to the counters of the cache, to the log and to the observers of
/// the cache. Clones share the counters and the observers.
#[derive(Clone)]
pub(crate) struct EventDispatcher {
    counters: Arc<[Counters]>,
    miss_causes: Arc<MissCauses>,
    observers: Arc<[ObserverGuard]>,
    labels: CacheLabels,
}

impl EventDispatcher {
    pub(crate) fn new(observers: &ObserverList) -> EventDispatcher {
        EventDispatcher {
            counters: all_counters().into(),
            miss_causes: Arc::default(),
            observers: observers.guards(),
            labels: CacheLabels::new(None),
        }
    }

    /// Sets the labels with which the dispatcher records events as metrics.
    pub(crate) fn with_labels(self, labels: CacheLabels) -> EventDispatcher {
        EventDispatcher { labels, ..self }
    }

    /// Returns the counters of all declarations. Each declaration's counters are at the
    /// declaration's index.
    #[inline]
    pub(crate) fn counters(&self) -> &[Counters] {
        &self.counters
    }

    /// Returns each observer's counters. The observers are in the order in which the program gave
    /// them to the builder.
    pub(crate) fn observer_stats(&self) -> Vec<ObserverStats> {
        self.observers.iter().map(ObserverGuard::stats).collect()
    }

    /// Returns the last known event of the entry, and how long ago it was.
    pub(crate) fn last_miss_cause(
        &self,
        entry: &EventSubject<'_>,
    ) -> Option<(MissCause, Duration)> {
        self.miss_causes.last(entry.header)
    }

    pub(crate) fn emit(&self, event: &Event<'_>) {
        counting::count(&self.counters, event);
        self.miss_causes.note(event);
        self.labels.record(event);
        logging::log(event);
        if !self.observers.is_empty() {
            self.deliver(event);
        }
    }

    #[cold]
    fn deliver(&self, event: &Event<'_>) {
        self.observers.iter().for_each(|observer| observer.deliver(event));
    }

    /// Logs a call that neither the request tier nor the local tier could answer. The report is not
    /// an event, because only the log needs it.
    pub(crate) fn log_miss(&self, entry: EventSubject<'_>, report: &MissReport) {
        logging::log_miss(entry, report);
    }
}

#[cfg(test)]
mod tests;
