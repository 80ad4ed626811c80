//! The remote tier: a store of values that several processes share.
//!
//! [`RemoteStore`] is the contract between the cache and the store. The cache knows keys, *frames*
//! (the stored bytes of a value), durations and [`WritePermit`]s. The store alone chooses the
//! servers, speaks their protocol, and decides how to represent a lease. [`Store`] is the store
//! type of this build.
//!
//! These words are used here and in the modules below:
//!
//! - A *fetch* is a run of the annotated function.
//! - An *item* or *entry* is a value that the store holds under a key.
//! - A *permit* is the right to store one value under one key.
//! - A *lease* is the right to fetch a missing value. Only one process at a time holds the lease of
//!   a key.
//! - A *refresh claim* is the right to fetch a value again while the old item is still in the
//!   store. A read can win the claim shortly before the store removes the item.
//! - A *build* is one compiled version of the program. During a rollout, processes of two builds
//!   share the store.

// In a build without memcached, nothing constructs most of these types.
#![cfg_attr(not(feature = "memcached"), allow(dead_code))]

#[cfg(all(test, feature = "memcached"))]
mod contract_tests;
#[cfg(feature = "memcached")]
mod memcached;
#[cfg(not(feature = "memcached"))]
pub(crate) mod no_remote;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::flight::LeaderMonitor;
use crate::key::Key;
use crate::stats::ServerStats;
#[cfg(feature = "memcached")]
pub(crate) use memcached::MemcachedStore as Store;
#[cfg(all(feature = "memcached", feature = "testing"))]
pub(crate) use memcached::memory;
#[cfg(not(feature = "memcached"))]
pub(crate) use no_remote::NoRemote as Store;

/// The write permit of this build's store.
pub(crate) type Permit = <Store as RemoteStore>::Permit;

/// A store that several processes share.
///
/// To add a kind of store, implement this trait and [`WritePermit`], and make `contract_tests`
/// pass. A build has only one kind of store, [`Store`], so method calls are dispatched statically.
///
/// # What a store must promise
///
/// - **Leases.** If several processes read a missing key with [`IfMissing::Lease`], one process
///   gets the lease, as a permit. With [`LeaseOptions::waits`] the other processes wait, and get
///   the value once the holder of the lease has written it. If the holder dies, the lease ends
///   within seconds, and another process gets a lease.
/// - **Conditional writes.** A permit does not write if the key's entry has changed since the read
///   that gave the permit. A removal, an overwrite, or a write under another permit changes the
///   entry. This promise holds across restarts of the store.
/// - **Removal.** When [`remove`](Self::remove) returns `Ok`, no process reads the removed value
///   from the key's own server, and no older permit can write. A server that stands in for the
///   key's own server can serve the removed value for a few seconds. Even when `remove` returns an
///   error, this process no longer reads the old value. Other processes might still read it.
/// - **Builds.** During a rollout, one build may be unable to decode the other build's frames. The
///   store then keeps two entries under one key, one for each build. An overwrite leaves only the
///   new entry, and a removal leaves none.
/// - **Refresh claims.** If several processes read an item shortly before the store removes the
///   item, only one process at a time holds the refresh claim ([`RefreshClaimOutcome`]).
/// - **Deadlines.** No method takes much longer than the configured timeout. The exceptions are the
///   wait for another process's lease, background writes and [`flush`](Self::flush). If the store
///   is down, a few reads take as long as the timeout, and later reads fail at once.
/// - **Cancellation.** The caller may drop each future at any point. If the dropped future has won
///   a lease or a refresh claim, the store gives the lease or claim back.
pub(crate) trait RemoteStore: Sized + Send + Sync + 'static {
    type Permit: WritePermit;

    const LIMITS: TtlLimits;

    /// Reads the entry of a key.
    ///
    /// # Errors
    /// The store did not answer, or refused the read. Each failure was also passed to
    /// [`ReadHandler::read_failed`].
    fn read<H: ReadHandler>(
        self: &Arc<Self>,
        key: &Key,
        handler: &H,
        if_missing: IfMissing,
    ) -> impl Future<Output = Result<ReadOutcome<H::Decoded, Self::Permit>, RemoteError>> + Send;

    /// Reads several keys in as few exchanges as possible. Returns one result per key, in order.
    /// The result is `None` if the key has no entry or could not be read.
    fn read_many<H: ReadHandler>(
        self: &Arc<Self>,
        keys: &[(Key, &H)],
    ) -> impl Future<Output = Vec<Option<Item<H::Decoded, Self::Permit>>>> + Send;

    /// Stores a frame, and replaces the key's entry if there is one.
    ///
    /// See [`WritePermit::write`] for the durations and the errors.
    fn overwrite(
        self: &Arc<Self>,
        key: &Key,
        frame: Vec<u8>,
        ttl: Duration,
        keep_expired: Duration,
    ) -> impl Future<Output = Result<WriteOutcome, RemoteError>> + Send;

    /// Removes the key's entry. If this removal is one step of a longer operation, `started` is the
    /// time at which the operation began. The timeout counts from `started`, or from now if it is
    /// `None`.
    ///
    /// # Errors
    /// The store did not confirm the removal. This process repeats the removal once the store
    /// answers again. Other processes may read the old value until the repeated removal succeeds.
    fn remove(
        self: &Arc<Self>,
        key: &Key,
        started: Option<Instant>,
    ) -> impl Future<Output = Result<(), RemoteError>> + Send;

    /// Queues a write of about `bytes` bytes, and returns without waiting for the write. If the
    /// queue already holds too many bytes, drops the write and returns false.
    fn run_in_background(&self, bytes: usize, write: BackgroundWriteFn) -> bool;

    /// Waits until no background write is pending, for about ten seconds at most.
    fn flush(&self) -> impl Future<Output = ()> + Send;

    /// Returns the state and the counters of each server, in the order of the configuration.
    fn servers(&self) -> Vec<ServerStats>;
}

/// The right to store one value under one key. The right is lost when another caller changes the
/// key's entry.
///
/// Dropping a permit that has stored nothing gives back its lease or refresh claim in the
/// background. Another process can then win the lease or claim.
pub(crate) trait WritePermit: Send + Sync + 'static {
    /// Stores a frame. The value expires after `ttl`. The store then keeps the value for
    /// `keep_expired`, so that the cache can serve it if a fetch fails.
    ///
    /// The caller may call `write` again if the first call's future was dropped before it
    /// completed.
    ///
    /// # Errors
    /// The store did not answer, or refused the write. The error's kind is
    /// [`RemoteErrorKind::TooLarge`] if the value is larger than the store allows.
    fn write(
        &self,
        frame: Vec<u8>,
        ttl: Duration,
        keep_expired: Duration,
    ) -> impl Future<Output = Result<WriteOutcome, RemoteError>> + Send;

    /// Removes the item that the permit may replace, unless the item has changed. The removal runs
    /// in the background.
    fn remove_item(self);

    /// Gives the permit's write the longer timeout of a background write.
    #[must_use]
    fn in_background(self) -> Self;

    /// Ties the permit's lease to a fetch: the store renews the lease only until the fetch that
    /// `leader` monitors has stopped.
    fn renew_while(&self, leader: LeaderMonitor);

    /// From now on, renews the permit's lease on the current async runtime. The runtime on which
    /// the lease was won might have shut down.
    fn renew_here(&self);

    /// Returns true if the store answers, but has not kept any value of this permit's annotated
    /// function for a while, for example because the store has no memory left.
    fn is_store_full(&self) -> bool;

    /// Returns true if another process has held the item's refresh claim for longer than `limit`,
    /// as far as this process has seen. Only one caller gets true: the time is then measured anew.
    ///
    /// The item must be close enough to its removal for a claim
    /// ([`LeaseOptions::refresh_before_removal`]). The read that gave this permit must not have won
    /// the claim.
    fn is_claim_abandoned(&self, limit: Duration) -> bool;
}

/// The caller's part of a read. It decodes the frames, and receives reports about the read.
pub(crate) trait ReadHandler: Sync {
    /// A value that was decoded from a frame.
    type Decoded: Send;

    fn decode(&self, frame: &[u8]) -> DecodedFrame<Self::Decoded>;

    /// Called for each exchange that failed, even if a later exchange of the same read succeeds.
    fn read_failed(&self, error: &RemoteError);

    /// Called once if another process holds the lease.
    fn lease_held_elsewhere(&self);

    /// Called when the read begins, if another server stands in for the key's own server.
    fn gutter_asked(&self) {}
}

/// The result of decoding a frame in this build.
pub(crate) enum DecodedFrame<V> {
    Value(V),
    /// Another build can decode the frame, but this build cannot. The store keeps a second entry
    /// for this build.
    Foreign,
    /// The frame is garbled, truncated, or belongs to another key.
    Corrupt,
}

/// Tells a read what to do if it finds no entry for the key.
#[derive(Clone, Copy)]
pub(crate) enum IfMissing {
    /// Returns [`ReadOutcome::Missing`].
    Report,
    /// Returns a permit at once, even while another process holds the lease. This permit needs the
    /// identity of that lease. If the store's reply lacks it, the read returns
    /// [`ReadOutcome::Busy`].
    PermitWithoutLease,
    /// Takes the lease, or waits while another process holds the lease.
    Lease(LeaseOptions),
}

/// A read's request for a lease, or for the refresh claim of an item that the read finds.
#[derive(Clone, Copy)]
pub(crate) struct LeaseOptions {
    /// How long a fetch of the value usually takes, if known.
    pub(crate) fetch_time: Option<Duration>,
    /// An item is due for a refresh if the store is certain to remove the item within this time.
    /// Zero means that no item is due.
    pub(crate) refresh_before_removal: Duration,
    /// True if the read waits while another process holds the lease. If false, the read returns
    /// [`ReadOutcome::Busy`] at once.
    pub(crate) waits: bool,
}

/// The outcome of a read: the item that was found or, if there is none, whether the caller may
/// store one.
pub(crate) enum ReadOutcome<V, P> {
    Item(Item<V, P>),
    /// There is no entry, and the caller may store one.
    Permit(P),
    /// There is no entry, and another process holds the lease. A read that waits for the lease
    /// returns this outcome when it gives up waiting.
    Busy,
    /// There is no entry, and the caller gets no permit.
    Missing,
}

/// An item that a read found.
pub(crate) struct Item<V, P> {
    /// `None` if this build cannot decode the item's frame. Such an item can be replaced without a
    /// refresh claim.
    pub(crate) value: Option<V>,
    /// The earliest time at which the store may remove the item.
    pub(crate) removable_from: Instant,
    /// The latest time at which the store removes the item.
    pub(crate) removed_by: Instant,
    /// True if the store keeps the item after its ttl, for as long as the item's writer asked.
    /// False on a server that stands in for the key's own server.
    pub(crate) is_kept_expired: bool,
    pub(crate) claim: RefreshClaimOutcome,
    /// The permit to replace the item. If the read won the refresh claim, dropping the permit gives
    /// the claim back.
    pub(crate) permit: P,
}

impl<V, P> Item<V, P> {
    /// Returns how long the item is certain to remain fresh, or `None` if it has expired.
    /// `keep_expired` is how long the item's writer asked to keep the item after its ttl.
    ///
    /// The store knows only in its own unit of time when it will remove an item. So an item may be
    /// fresh although the returned time is zero.
    pub(crate) fn fresh_for(&self, now: Instant, keep_expired: Duration) -> Option<Duration> {
        let left = |expires: Option<Instant>| {
            expires.map_or(Duration::ZERO, |expires| expires.saturating_duration_since(now))
        };
        // Without `keep_expired`, the store removes the item when it expires, so an item that was
        // read is fresh.
        let kept = self.keeps_expired_for(keep_expired);
        let is_fresh = kept.is_zero() || !left(self.expires_by(keep_expired)).is_zero();
        is_fresh.then(|| left(self.removable_from.checked_sub(kept)))
    }

    /// Returns the latest time at which the item expires. `keep_expired` is how long the item's
    /// writer asked to keep the item after its ttl.
    pub(crate) fn expires_by(&self, keep_expired: Duration) -> Option<Instant> {
        self.removed_by.checked_sub(self.keeps_expired_for(keep_expired))
    }

    /// Returns how long the store keeps the item after its ttl.
    fn keeps_expired_for(&self, keep_expired: Duration) -> Duration {
        match self.is_kept_expired {
            true => Store::LIMITS.round_down(keep_expired),
            false => Duration::ZERO,
        }
    }
}

/// The outcome of a read's attempt to claim the refresh of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefreshClaimOutcome {
    /// The item is not due for a refresh, or another process holds the claim.
    NotWon,
    /// The caller holds the claim.
    Won,
    /// The caller holds the claim. An earlier holder has given the claim back.
    WonAfterReturn,
}

impl RefreshClaimOutcome {
    pub(crate) fn is_won(self) -> bool {
        self != RefreshClaimOutcome::NotWon
    }
}

/// The store's answer to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    Stored,
    /// The key's own server is out of reach. Another server stores the value for a few seconds.
    StoredBriefly,
    /// Nothing is stored: the key has changed since the read that gave the permit, or the ttl is
    /// too short for the store.
    NotStored,
}

/// The unit and the upper bound of the ttls that a store supports.
pub(crate) struct TtlLimits {
    /// The store rounds a ttl down to a multiple of this duration.
    pub(crate) ttl_granularity: Duration,
    /// The longest time that the store keeps an item.
    pub(crate) longest_ttl: Duration,
}

impl TtlLimits {
    /// Returns true if `ttl` is long enough for the store.
    pub(crate) fn allows(&self, ttl: Duration) -> bool {
        ttl >= self.ttl_granularity
    }

    /// Returns the shortest time after which an item with this ttl can expire, or `None` if the ttl
    /// is too short for the store. The store's clock ticks once per unit of `ttl_granularity`, so
    /// an item may expire up to one unit early.
    pub(crate) fn guaranteed(&self, ttl: Duration) -> Option<Duration> {
        self.allows(ttl).then(|| self.round_down(ttl).saturating_sub(self.ttl_granularity))
    }

    /// Returns the longest multiple of the granularity that is not longer than `duration`.
    pub(crate) fn round_down(&self, duration: Duration) -> Duration {
        // Most functions have neither a stale time nor a refresh window.
        if duration.is_zero() {
            return duration;
        }
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let excess = nanos(duration).checked_rem(nanos(self.ttl_granularity)).unwrap_or(0);
        duration.saturating_sub(Duration::from_nanos(excess))
    }

    /// Rounds a refresh window up to a multiple of the granularity. `shortest_ttl` is a lower bound
    /// of the items' ttls. The result is shorter than every item's ttl in the store, so an item is
    /// not due for a refresh while the store's clock has not ticked since the item was stored.
    pub(crate) fn refresh_window(&self, window: Duration, shortest_ttl: Duration) -> Duration {
        if window.is_zero() {
            return window;
        }
        let rounded_down = self.round_down(window);
        let rounded_up = match rounded_down == window {
            true => window,
            false => rounded_down.saturating_add(self.ttl_granularity),
        };
        rounded_up.min(self.round_down(shortest_ttl).saturating_sub(self.ttl_granularity))
    }
}

/// Starts a write that no caller waits for. The store may call this function again if the first
/// write was interrupted, so two writes must have the same effect as one.
pub(crate) type BackgroundWriteFn =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The reason why a command to the remote tier failed or was not sent. `Display` gives the reason,
/// and in most cases the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteError {
    kind: RemoteErrorKind,
    message: String,
    /// False if no command was sent to a server.
    was_sent: bool,
}

/// The kind of a [`RemoteError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RemoteErrorKind {
    /// The server did not answer in time or broke the protocol, or it is not used for now because
    /// of earlier failures.
    Unreachable,
    /// The server refuses every command: it requires a password, is too old, or is not a memcached
    /// server.
    Unusable,
    /// The server works, but refused this command.
    Refused,
    /// The server works, but does not store an item of this size.
    TooLarge,
    /// No command was sent, for example because no server is configured.
    NotAsked,
}

impl RemoteError {
    pub(crate) fn new(kind: RemoteErrorKind, message: impl Into<String>) -> RemoteError {
        RemoteError { kind, message: message.into(), was_sent: kind != RemoteErrorKind::NotAsked }
    }

    /// Returns this error, for a command that was not sent because of the state of its server.
    pub(crate) fn without_command(self) -> RemoteError {
        RemoteError { was_sent: false, ..self }
    }

    /// Returns true if a command was sent to a server and the exchange failed.
    pub(crate) fn was_sent(&self) -> bool {
        self.was_sent
    }

    /// Returns the kind of the failure.
    #[must_use]
    pub fn kind(&self) -> RemoteErrorKind {
        self.kind
    }
}

impl std::error::Error for RemoteError {}

impl RemoteErrorKind {
    /// Returns true if the server answers, but refuses commands for a reason other than the size of
    /// the item. A call whose read is refused keeps its value in the local tier only.
    pub(crate) fn is_refusal(self) -> bool {
        matches!(self, RemoteErrorKind::Unusable | RemoteErrorKind::Refused)
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
