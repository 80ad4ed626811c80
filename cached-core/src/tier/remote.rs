//! The remote tier: a store that the processes of a fleet share.
//!
//! [`RemoteStore`] is the contract between the cache and such a store. The cache knows keys, frames
//! (the bytes of a value), durations and [`WritePermit`]s. It does not know servers, connections,
//! protocols or how a store represents a lease. [`Store`] is the one store of this build.

// Without a remote tier nothing constructs most of these types.
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
/// A new kind of store implements this trait and [`WritePermit`], and passes `contract_tests`. A
/// build has one kind, [`Store`], so calls are dispatched statically.
///
/// # What a store must promise
///
/// - **Leases.** Of all processes that read a missing key with [`IfMissing::Lease`], one gets a
///   permit. The others wait, and get the value once it is written. If the permit's holder dies,
///   its lease ends within seconds and another process gets one.
/// - **Conditional writes.** A permit writes only if the key has not changed since the read that
///   gave the permit. A removal, an overwrite or another permit's write is such a change. This holds
///   across restarts of the store.
/// - **Removal.** When [`remove`](Self::remove) returns `Ok`, no process reads an older value from
///   the store, and no older permit can write. When it returns an error, this process does not read
///   the key until the store has removed it.
/// - **Builds.** During a rollout two builds may not read each other's frames. The store then keeps
///   an entry for each under one key. An overwrite and a removal replace or remove both.
/// - **Refresh claims.** Of all processes that read an item near the end of its life, one gets a
///   permit with [`ClaimOutcome::Won`] at a time.
/// - **Deadlines.** No method waits much longer than the configured timeout, except for a lease and
///   in the background. A store that is down costs the caller that timeout a few times, then
///   nothing.
/// - **Cancellation.** Every future may be dropped. A permit that nobody holds then is given back.
pub(crate) trait RemoteStore: Sized + Send + Sync + 'static {
    type Permit: WritePermit;

    const LIMITS: TtlLimits;

    /// Reads the entry of a key.
    ///
    /// # Errors
    /// The store did not answer or refused. The reader has heard of it through
    /// [`EntryDecoder::failed`].
    fn read<R: EntryDecoder>(
        self: &Arc<Self>,
        key: &Key,
        reader: &R,
        if_missing: IfMissing,
    ) -> impl Future<Output = Result<ReadOutcome<R::Value, Self::Permit>, RemoteError>> + Send;

    /// Reads several keys in as few exchanges as possible. Returns one result per key, in order; a
    /// key that could not be read counts as missing.
    fn read_many<R: EntryDecoder>(
        self: &Arc<Self>,
        keys: &[(Key, &R)],
    ) -> impl Future<Output = Vec<Option<Item<R::Value, Self::Permit>>>> + Send;

    /// Stores a frame whatever the key holds.
    ///
    /// See [`WritePermit::write`] for the durations and the errors.
    fn overwrite(
        self: &Arc<Self>,
        key: &Key,
        frame: Vec<u8>,
        ttl: Duration,
        keep_expired: Duration,
    ) -> impl Future<Output = Result<WriteOutcome, RemoteError>> + Send;

    /// Removes the entry. If the removal is part of a larger change, `started` is when that began,
    /// and the timeout counts from there.
    ///
    /// # Errors
    /// The store did not confirm the removal. This process repeats the removal once the store answers
    /// again. Until then other processes may read the old value.
    fn remove(
        self: &Arc<Self>,
        key: &Key,
        started: Option<Instant>,
    ) -> impl Future<Output = Result<(), RemoteError>> + Send;

    /// Runs a write of about `bytes` bytes off the caller's path. Returns false and drops the write
    /// if too many bytes are waiting already.
    fn run_in_background(&self, bytes: usize, write: BackgroundWrite) -> bool;

    /// Waits until no background write is pending, for about ten seconds at most.
    fn flush(&self) -> impl Future<Output = ()> + Send;
}

/// The right to store one value under one key, as long as nobody changes the key.
///
/// A permit that is dropped unused is given back in the background, so that another process can
/// take its place.
pub(crate) trait WritePermit: Send + Sync + 'static {
    /// Stores a frame for `ttl`, and for `keep_expired` beyond that.
    ///
    /// The caller may call this again if the first call was cut off.
    ///
    /// # Errors
    /// The store did not answer or refused, with [`RemoteErrorKind::TooLarge`] for a value that it
    /// will never take.
    fn write(
        &self,
        frame: Vec<u8>,
        ttl: Duration,
        keep_expired: Duration,
    ) -> impl Future<Output = Result<WriteOutcome, RemoteError>> + Send;

    /// Removes what the permit would have replaced, if it is unchanged, and ends the permit.
    fn discard(self);

    /// Gives the permit's write as much time as a background write has.
    #[must_use]
    fn in_background(self) -> Self;

    /// Ends a lease once the fetch that `leader` runs has stopped.
    fn hold_while(&self, leader: LeaderMonitor);

    /// Makes the running runtime renew a lease. The runtime that won it may have ended.
    fn renew_here(&self);

    /// Returns true if another process holds the refresh claim of the permit's item, and has had
    /// `within` or longer to replace that.
    fn is_claim_abandoned(&self, within: Duration) -> bool;
}

/// The caller's side of a read: it decodes what is found, and hears of failures.
pub(crate) trait EntryDecoder: Sync {
    type Value: Send;

    fn decode(&self, frame: &[u8]) -> DecodedFrame<Self::Value>;

    /// Called for each exchange that failed, also if another one succeeds afterwards.
    fn failed(&self, error: &RemoteError);

    /// Called once if another process holds the lease.
    fn lease_is_busy(&self);
}

/// The bytes of an item as this build sees them.
pub(crate) enum DecodedFrame<V> {
    Value(V),
    /// Another build can read it. The store keeps an entry for this build beside that one.
    Foreign,
    /// Garbled, truncated, or another key's.
    Corrupt,
}

/// The request of a read for the case that the key has no entry.
#[derive(Clone, Copy)]
pub(crate) enum IfMissing {
    Report,
    /// Gives a permit at once, also if another process holds the lease.
    PermitAdd,
    /// Takes the lease, or waits while another process holds it.
    Lease(LeaseOptions),
}

#[derive(Clone, Copy)]
pub(crate) struct LeaseOptions {
    /// How long a fetch of the value usually takes, if that is known.
    pub(crate) fetch_time: Option<Duration>,
    /// How long before its removal from the store an item is due for a refresh.
    pub(crate) refresh_before_removal: Duration,
    /// False if the read returns [`ReadOutcome::Busy`] at once while another process holds the lease.
    pub(crate) waits: bool,
}

pub(crate) enum ReadOutcome<V, P> {
    Item(Item<V, P>),
    /// There is no entry, and the caller may store one.
    Permit(P),
    /// There is no entry, and another process still holds the lease after the wait for it.
    Busy,
    /// There is no entry.
    Missing,
}

/// An item that a read found.
pub(crate) struct Item<V, P> {
    /// `None` if the bytes are of no use to this build. Any caller may replace such an item.
    pub(crate) value: Option<V>,
    /// The earliest time at which the store may remove the item.
    pub(crate) removed_at: Instant,
    /// False if the store removes the item at the end of its ttl, although its writer asked to keep
    /// it longer.
    pub(crate) is_kept_expired: bool,
    pub(crate) claim: ClaimOutcome,
    /// The permit to replace the item. If the claim was won, dropping the permit gives it back.
    pub(crate) permit: P,
}

impl<V, P> Item<V, P> {
    /// Returns how long the item remains fresh, or `None` if it has expired. `keep_expired` is how
    /// long its writer asked to keep it after its ttl.
    pub(crate) fn fresh_for(&self, now: Instant, keep_expired: Duration) -> Option<Duration> {
        let keep_expired = if self.is_kept_expired { keep_expired } else { Duration::ZERO };
        let expires = self.removed_at.checked_sub(keep_expired).unwrap_or(now);
        let left = expires.saturating_duration_since(now);
        // An item that is removed when it expires is fresh while it is there.
        (!left.is_zero() || keep_expired.is_zero()).then_some(left)
    }
}

/// The right to refresh an item that is near the end of its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClaimOutcome {
    /// The item is not due, or another process holds its claim.
    NotWon,
    /// The caller holds the claim.
    Won,
    /// The caller holds the claim, which an earlier holder gave back.
    WonAgain,
}

impl ClaimOutcome {
    pub(crate) fn is_won(self) -> bool {
        self != ClaimOutcome::NotWon
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    Stored,
    /// A stand-in for the key's own server stores the value, for a few seconds.
    StoredBriefly,
    /// The key has changed since the permit was given, or the ttl is too short for the store.
    NotStored,
}

/// The times that a store can count.
pub(crate) struct TtlLimits {
    /// The store rounds a ttl down to a multiple of this.
    pub(crate) ttl_granularity: Duration,
    /// The longest time that the store keeps an item.
    pub(crate) longest_ttl: Duration,
}

impl TtlLimits {
    /// Returns true if the store keeps an item of this ttl at all.
    pub(crate) fn allows(&self, ttl: Duration) -> bool {
        ttl >= self.ttl_granularity
    }

    /// Returns how long an item of this ttl is present for certain, or `None` if the store does not
    /// keep it. The store's clock ticks once per unit, so the first unit may be over at once.
    pub(crate) fn guaranteed(&self, ttl: Duration) -> Option<Duration> {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let excess = nanos(ttl).checked_rem(nanos(self.ttl_granularity)).unwrap_or(0);
        let rounded = ttl.saturating_sub(Duration::from_nanos(excess));
        self.allows(ttl).then(|| rounded.saturating_sub(self.ttl_granularity))
    }
}

/// A write that nobody waits for. The store may start it again after it was cut off, so a second run
/// must change nothing.
pub(crate) type BackgroundWrite =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A failed exchange with the remote tier. `Display` names the server and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteError {
    kind: RemoteErrorKind,
    message: String,
}

/// The ways in which an exchange with the remote tier fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RemoteErrorKind {
    /// The server did not answer, or it is ejected because it did not answer before.
    Unreachable,
    /// The server refuses every command: it wants a password, it is too old, or it is not a
    /// memcached.
    Unusable,
    /// The server works, and refused this command.
    Refused,
    /// The server works, and does not store an item of this size.
    TooLarge,
    /// No server was asked.
    NotAsked,
}

impl RemoteError {
    pub(crate) fn new(kind: RemoteErrorKind, message: impl Into<String>) -> RemoteError {
        RemoteError { kind, message: message.into() }
    }

    /// Returns the way in which the exchange failed.
    #[must_use]
    pub fn kind(&self) -> RemoteErrorKind {
        self.kind
    }
}

impl std::error::Error for RemoteError {}

impl RemoteErrorKind {
    /// Returns true if the store answers and refuses. If it refuses a read, nothing can be shared
    /// through it.
    pub(crate) fn is_refusal(self) -> bool {
        matches!(self, RemoteErrorKind::Unusable | RemoteErrorKind::Refused)
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
