//! The report of one call that neither the request tier (the values of the current request) nor
//! the local tier (this process's memory) could answer.
//!
//! A report answers the question "why does this miss?", and becomes one log line. It is collected
//! only while the log, or a `tracing` subscriber, accepts the level `debug` for [`MISS_TARGET`]. It
//! contains neither the cached value nor the key.
//!
//! The remote tier is memcached. An *item* is its copy of an entry, and a *lease* is the right to
//! fill an entry.

use std::fmt;
use std::time::{Duration, Instant};

use super::miss_causes::MissCause;
use super::{BypassReason, FetchOutcome, UncachedReason};
use crate::tier::Tier;
use crate::tier::remote::RemoteError;

/// The `log` target of the lines that say why a call missed.
pub(crate) const MISS_TARGET: &str = "cached_core::miss";

/// The report of one call: what each tier had for the call, and how the call ended. `Display`
/// writes one line.
#[derive(Debug)]
pub(crate) struct MissReport {
    pub(crate) began: Instant,
    pub(crate) request: RequestLookupResult,
    pub(crate) local: LocalLookupResult,
    /// The findings of the read of the remote tier, in order.
    pub(crate) remote: Vec<RemoteFinding>,
    pub(crate) remote_took: Option<Duration>,
    /// How long the call waited for another call with the same key in this process, and what the
    /// other call returned.
    pub(crate) waited: Option<(Duration, AwaitedResult)>,
    /// The tier in which the awaited call found the answer, if that call did not fetch.
    pub(crate) found: Option<Tier>,
    pub(crate) fetch_began: Option<Instant>,
    pub(crate) fetched: Option<(Duration, FetchOutcome)>,
    /// The reason why the fetched value is not cached.
    pub(crate) uncached: Option<UncachedReason>,
    /// The tier whose expired value is the answer.
    pub(crate) served_stale: Option<Tier>,
    /// True if the answer is the error of an earlier fetch. The option `error_ttl` lets calls
    /// return such an error for a while without a new fetch.
    pub(crate) is_earlier_error: bool,
    /// True if the call ran the function without the cache.
    pub(crate) is_bypassed: bool,
    /// How long the answer stays fresh, if it came from the remote tier or from a fetch.
    pub(crate) time_left: Option<Duration>,
    /// True if the call stored the fetched value in a tier.
    pub(crate) is_stored: bool,
    /// True once the call has an answer. Stays false if the caller drops the call first.
    pub(crate) is_answered: bool,
    /// The last known event of the entry, and how long ago it happened.
    pub(crate) before: Option<(MissCause, Duration)>,
}

/// The result of the lookup in the request tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestLookupResult {
    NoRequest,
    Absent,
}

/// The result of the lookup in the local tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LocalLookupResult {
    /// The function declares `local = false`.
    NotUsed,
    /// The lookup was skipped, because the call's request is set to force misses.
    Skipped,
    Absent,
    /// The entry had expired. The field is the ttl that the entry was stored with.
    Expired(Duration),
    /// Another call stored a value after the first lookup of this call.
    JustFilled,
}

/// One thing that a read of the remote tier found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RemoteFinding {
    /// The function declares `remote = false`.
    NotUsed,
    /// The remote tier does not keep values with so short a ttl.
    TtlTooShort,
    /// Another call of this process had won the lease and was cancelled. This call took over the
    /// lease.
    LeaseInherited,
    /// This process has stopped using the server of the key for now, so the read went to another
    /// server.
    GutterAsked,
    Failed(RemoteError),
    /// Another build of the program, whose value type differs, has stored the item.
    OtherBuild,
    /// The item's checksum or key is wrong.
    Damaged,
    /// The entry was removed after this item was stored, and the server might have missed the
    /// removal.
    Untrusted,
    LeaseWon,
    LeaseBusy,
    /// The call stopped waiting for the process that holds the lease.
    LeaseTimedOut,
    /// The call did not wait for the process that holds the lease, because the request forces a
    /// miss.
    LeaseNotAwaited,
    /// There is no item, and the call got no lease.
    Absent,
    Hit,
    /// The request forces a miss, so the value was not used.
    HitIgnored,
    /// The value had expired, and this call refreshes it.
    ExpiredClaimed,
    /// The value had expired. Another process claimed the refresh, but has not done it in time.
    ExpiredAbandoned,
    /// The value had expired, and another process is refreshing it.
    ExpiredRefreshedElsewhere,
}

/// The answer of another call of this process, which this call waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AwaitedResult {
    /// The other call found a value in a tier.
    FoundValue,
    /// The other call did not fetch. It returned the error of an earlier fetch (`error_ttl`).
    EarlierError,
    Value,
    ExpiredValue,
    Error,
    /// The fetch of the other call failed, and its error cannot be passed on to this call.
    UnsharedError,
}

impl MissReport {
    pub(crate) fn new(
        request: RequestLookupResult,
        local: LocalLookupResult,
        before: Option<(MissCause, Duration)>,
    ) -> MissReport {
        MissReport {
            began: Instant::now(),
            request,
            local,
            remote: Vec::new(),
            remote_took: None,
            waited: None,
            found: None,
            fetch_began: None,
            fetched: None,
            uncached: None,
            served_stale: None,
            is_earlier_error: false,
            is_bypassed: false,
            time_left: None,
            is_stored: false,
            is_answered: false,
            before,
        }
    }

    /// Records that the annotated function has returned. The call thus has its answer.
    pub(crate) fn end_fetch(&mut self, outcome: FetchOutcome) {
        self.is_answered = true;
        self.fetched = self.fetch_began.map(|began| (began.elapsed(), outcome));
    }

    /// Records that the answer is an expired value from this tier.
    pub(crate) fn serve_stale(&mut self, tier: Tier) {
        self.served_stale = Some(tier);
        self.time_left = Some(Duration::ZERO);
    }
}

impl fmt::Display for MissReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.request == RequestLookupResult::Absent {
            f.write_str("request tier: absent; ")?;
        }
        write!(f, "local tier: {}", self.local)?;
        for (index, finding) in self.remote.iter().enumerate() {
            write!(f, "{}{finding}", if index == 0 { "; memcached: " } else { ", then " })?;
        }
        if let Some(took) = self.remote_took {
            write!(f, " ({took:.1?})")?;
        }
        if let Some((waited, result)) = self.waited {
            write!(f, "; waited {waited:.1?} for another call{result}")?;
        }
        match (self.fetched, self.fetch_began) {
            (Some((took, FetchOutcome::Value)), _) => write!(f, "; fetch: a value in {took:.1?}")?,
            (Some((took, FetchOutcome::Error)), _) => write!(f, "; fetch: an error in {took:.1?}")?,
            (None, Some(began)) if !self.is_answered => {
                write!(f, "; fetch: cancelled by the caller after {:.1?}", began.elapsed())?;
            }
            (None, None) if !self.is_answered => {
                write!(f, "; cancelled by the caller after {:.1?}", self.began.elapsed())?;
            }
            (None, _) => {}
        }
        if let Some(reason) = self.uncached {
            write!(f, ", which is not cached because {reason}")?;
        }
        if self.served_stale.is_some() {
            f.write_str("; answer: the expired value")?;
        }
        if self.is_earlier_error {
            f.write_str("; answer: the error of the last fetch (`error_ttl`)")?;
        }
        if let Some((event, ago)) = self.before {
            write!(f, "; {ago:.1?} before: {event}")?;
        }
        Ok(())
    }
}

impl fmt::Display for BypassReason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BypassReason::CacheOff => "the cache is off",
            BypassReason::NotRegistered => "`ledger().audit()` says why the function is not cached",
            BypassReason::Key(_) => {
                "the key could not be encoded, because the `Serialize` of an argument failed"
            }
            BypassReason::Recursion => "the function called itself with the same key",
            BypassReason::OtherType => "the value of its key has another type of the same path",
            BypassReason::InObserver => "an observer of events made the call",
        })
    }
}

impl fmt::Display for LocalLookupResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalLookupResult::NotUsed => f.write_str("not used (`local = false`)"),
            LocalLookupResult::Skipped => {
                f.write_str("not read, because the request forces a miss")
            }
            LocalLookupResult::Absent => f.write_str("absent"),
            LocalLookupResult::Expired(ttl) => write!(f, "expired (its ttl was {ttl:?})"),
            LocalLookupResult::JustFilled => {
                f.write_str("absent, until another call stored the value")
            }
        }
    }
}

impl fmt::Display for RemoteFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RemoteFinding::NotUsed => "not used (`remote = false`)",
            RemoteFinding::TtlTooShort => "not used, because the ttl is under a second",
            RemoteFinding::LeaseInherited => "absent, with the lease of the caller that gave up",
            RemoteFinding::GutterAsked => "the key's server is out of rotation",
            RemoteFinding::Failed(error) => return write!(f, "failed ({error})"),
            RemoteFinding::OtherBuild => "a value of another build's type",
            RemoteFinding::Damaged => "a damaged value",
            RemoteFinding::Untrusted => "a value from before a removal that the server missed",
            RemoteFinding::LeaseWon => "absent, lease won",
            RemoteFinding::LeaseBusy => "absent, another process holds the lease",
            RemoteFinding::LeaseTimedOut => "gave up waiting for that process",
            RemoteFinding::LeaseNotAwaited => "did not wait, because the request forces a miss",
            RemoteFinding::Absent => "absent, no lease",
            RemoteFinding::Hit => "hit",
            RemoteFinding::HitIgnored => "a value, not used because the request forces a miss",
            RemoteFinding::ExpiredClaimed => "expired, this call refreshes it",
            RemoteFinding::ExpiredAbandoned => {
                "expired, the process that should have refreshed it did not"
            }
            RemoteFinding::ExpiredRefreshedElsewhere => "expired, another process refreshes it",
        })
    }
}

impl fmt::Display for AwaitedResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AwaitedResult::FoundValue => ", which found a value",
            AwaitedResult::EarlierError => ", which did not fetch",
            AwaitedResult::Value => "'s fetch, which returned a value",
            AwaitedResult::ExpiredValue => "'s fetch, which returned no newer value",
            AwaitedResult::Error => "'s fetch, which returned an error",
            AwaitedResult::UnsharedError => {
                "'s fetch, which returned an error that calls cannot share"
            }
        })
    }
}

impl fmt::Display for UncachedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UncachedReason::AbsentValue => "it is `None` and `none_ttl` is not declared",
            UncachedReason::ErrorValue => "it is an `Err`",
            UncachedReason::CacheIf => "`cache_if` refused it",
            UncachedReason::ZeroTtl => "its ttl is zero",
        })
    }
}
