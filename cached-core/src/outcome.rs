//! The outcome of a call: which tier had the value, whether the call ran the function, and how long
//! the answer stays fresh.
//!
//! Outcomes are recorded only where the program asks for them, with
//! [`with_outcome`](crate::with_outcome) or [`with_outcomes`](crate::with_outcomes). The module
//! `call/recording` creates an outcome at the end of each recorded call. The module `outcome`
//! itself depends neither on the cache nor on the code that answers calls.

mod recorder;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::declaration::Declaration;
#[cfg(feature = "memcached")]
use crate::key::{Digest, canonical_bytes};
use crate::tier::Tier;
pub use recorder::outcomes;
pub(crate) use recorder::{ActiveRecordersGuard, OutcomeRecorder, active_recorders, is_recording};

/// The largest number of single outcomes that [`Outcomes`] keeps.
const MAX_KEPT: usize = 64;

/// How a call of an annotated function got its answer.
///
/// `Display` writes one word in lower case, such as `hit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallResult {
    /// A tier of the cache (request, local or memcached) had the value.
    Hit,
    /// The call ran the function.
    Miss,
    /// The call returned an expired value (`stale_if_error`). The call's own fetch failed, the
    /// fetch that the call waited for failed, or another process was fetching.
    Stale,
    /// The call waited for the fetch of another call in this process, and returned the result of
    /// that fetch.
    Waited,
    /// The call ran the function without the cache. This happens, for example, if the cache is off,
    /// if two functions have the same cache name, if the key cannot be encoded, or if the function
    /// called itself with the same key.
    Bypassed,
    /// The call returned the error of an earlier fetch, without a fetch of its own (`error_ttl`).
    Paused,
}

impl CallResult {
    const ALL: [CallResult; 6] = [
        CallResult::Hit,
        CallResult::Miss,
        CallResult::Stale,
        CallResult::Waited,
        CallResult::Bypassed,
        CallResult::Paused,
    ];
}

impl fmt::Display for CallResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CallResult::Hit => "hit",
            CallResult::Miss => "miss",
            CallResult::Stale => "stale",
            CallResult::Waited => "waited",
            CallResult::Bypassed => "bypassed",
            CallResult::Paused => "paused",
        })
    }
}

/// The outcome of one call of an annotated function.
///
/// [`with_outcome`](crate::with_outcome) returns an outcome. An outcome does not contain the value,
/// and its `Debug` output does not show the arguments.
#[derive(Clone)]
pub struct Outcome {
    pub(crate) declaration: &'static Declaration,
    /// `None` if the call ran without the cache.
    pub(crate) key: Option<Arc<[u8]>>,
    pub(crate) began: Instant,
    pub(crate) result: CallResult,
    pub(crate) tier: Option<Tier>,
    pub(crate) age: Option<Duration>,
    pub(crate) time_left: Option<Duration>,
    pub(crate) fetch_time: Option<Duration>,
    pub(crate) waited: Option<Duration>,
    pub(crate) is_stored: bool,
    pub(crate) is_forced: bool,
}

impl Outcome {
    /// Returns an outcome with this result. All other parts are unknown.
    pub(crate) fn new(
        declaration: &'static Declaration,
        began: Instant,
        result: CallResult,
    ) -> Outcome {
        Outcome {
            declaration,
            key: None,
            began,
            result,
            tier: None,
            age: None,
            time_left: None,
            fetch_time: None,
            waited: None,
            is_stored: false,
            is_forced: false,
        }
    }

    /// Returns the cache name of the function.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.declaration.name()
    }

    /// Returns the digest of the call's key, or `None` if the call ran without the cache.
    ///
    /// Each call of this method computes the digest.
    #[cfg(feature = "memcached")]
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        let key = self.key.as_ref()?;
        Some(Digest::of(&canonical_bytes(self.name(), key)))
    }

    /// Returns how the call got its answer.
    #[must_use]
    pub fn result(&self) -> CallResult {
        self.result
    }

    /// Returns the tier that had the value, for a [`Hit`](CallResult::Hit) and for a
    /// [`Stale`](CallResult::Stale) answer.
    #[must_use]
    pub fn tier(&self) -> Option<Tier> {
        self.tier
    }

    /// Returns how long ago this process stored the value in its local tier, rounded to
    /// milliseconds. If this call fetched the value, the age is zero.
    ///
    /// Returns `None` for a hit in the request tier or in memcached, because these tiers do not
    /// know when the value was stored. Also returns `None` for a value that no tier keeps.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.age
    }

    /// Returns how long the tier that answered can still return the value. The duration is rounded
    /// to milliseconds, or to seconds for memcached. After a fetch, it is the time to live with
    /// which the value was stored. For an expired value, it is zero.
    ///
    /// While a value is being written to memcached, the local tier keeps it for at most 5 seconds,
    /// so a hit during the write reports at most 5 seconds.
    ///
    /// Returns `None` for a hit in the request tier, which does not know the time to live, and for
    /// an answer that no tier keeps.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.time_left
    }

    /// Returns how long the function ran, or `None` if this call did not run the function to its
    /// end.
    #[must_use]
    pub fn fetch_time(&self) -> Option<Duration> {
        self.fetch_time
    }

    /// Returns the time from the start of the call until it received the result of another call's
    /// fetch, or `None` if it received no such result.
    ///
    /// A call that cannot use the other call's result runs the function itself, and is then a
    /// [`Miss`](CallResult::Miss).
    #[must_use]
    pub fn waited(&self) -> Option<Duration> {
        self.waited
    }

    /// Returns true if this call stored a fetched value in a tier.
    ///
    /// A write to memcached counts as soon as it has begun. The write runs in the background after
    /// the call, and can still fail.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.is_stored
    }

    /// Returns true if the call skipped the local tier and memcached, because its
    /// [`RequestScope`](crate::RequestScope) forces misses.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.is_forced
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome")
            .field("name", &self.name())
            .field("result", &self.result)
            .field("tier", &self.tier)
            .field("age", &self.age)
            .field("time_left", &self.time_left)
            .field("fetch_time", &self.fetch_time)
            .field("waited", &self.waited)
            .field("is_stored", &self.is_stored)
            .finish_non_exhaustive()
    }
}

/// The outcomes of several calls: sums over all calls, and the single outcomes of the 64 calls that
/// ended first.
///
/// [`with_outcomes`](crate::with_outcomes) and [`outcomes`] return this type. `Display` writes one
/// line, such as `4 calls: 1 request hit, 2 local hits, 1 miss`.
#[derive(Debug, Clone, Default)]
pub struct Outcomes {
    /// The single outcomes, in the order in which the calls ended.
    kept: Vec<Outcome>,
    /// The number of calls with each result, in the order of [`CallResult::ALL`].
    results: [u64; CallResult::ALL.len()],
    request_hits: u64,
    local_hits: u64,
    remote_hits: u64,
    /// The number of calls that ran the function to its end, except those that bypassed the cache.
    fetches: u64,
    stored: u64,
    forced: u64,
    fetch_time: Duration,
    least_time_left: Option<Duration>,
    /// The number of calls whose time left is unknown, without the hits in the request tier.
    unknown_time_left: u64,
}

impl Outcomes {
    /// Adds the outcome of a call that has ended.
    fn add(&mut self, outcome: &Outcome) {
        self.results[outcome.result as usize] += 1;
        match (outcome.result, outcome.tier) {
            (CallResult::Hit, Some(Tier::Request)) => self.request_hits += 1,
            (CallResult::Hit, Some(Tier::Local)) => self.local_hits += 1,
            (CallResult::Hit, Some(Tier::Remote)) => self.remote_hits += 1,
            _ => {}
        }
        if let Some(took) = outcome.fetch_time {
            self.fetch_time += took;
            self.fetches += u64::from(outcome.result != CallResult::Bypassed);
        }
        self.stored += u64::from(outcome.is_stored);
        self.forced += u64::from(outcome.is_forced);
        match outcome.time_left {
            Some(left) => {
                self.least_time_left =
                    Some(self.least_time_left.map_or(left, |least| least.min(left)));
            }
            None => self.unknown_time_left += u64::from(outcome.tier != Some(Tier::Request)),
        }
        if self.kept.len() < MAX_KEPT {
            self.kept.push(outcome.clone());
        }
    }

    /// Returns the number of calls. A call counts once it has its answer, so a call that was
    /// dropped before that does not count.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.results.iter().sum()
    }

    /// Returns the number of calls with this result.
    #[must_use]
    pub fn count(&self, result: CallResult) -> u64 {
        self.results[result as usize]
    }

    /// Returns the number of hits in a tier.
    #[must_use]
    pub fn hits(&self, tier: Tier) -> u64 {
        match tier {
            Tier::Request => self.request_hits,
            Tier::Local => self.local_hits,
            Tier::Remote => self.remote_hits,
        }
    }

    /// Returns the total run time of the functions. If several functions ran at the same time, or
    /// one inside another, the time of each counts in full.
    #[must_use]
    pub fn fetch_time(&self) -> Duration {
        self.fetch_time
    }

    /// Returns the shortest [`time_left`](Outcome::time_left) of the calls, or `None` if any call's
    /// time left is unknown. Hits in the request tier do not count, because they repeat the answer
    /// of an earlier call.
    #[must_use]
    pub fn least_time_left(&self) -> Option<Duration> {
        self.least_time_left.filter(|_| self.unknown_time_left == 0)
    }

    /// Returns the outcomes of single calls, in the order in which the calls began. If there were
    /// more than 64 calls, only the 64 that ended first are returned. The sums still include every
    /// call.
    pub fn iter(&self) -> impl Iterator<Item = &Outcome> {
        let mut sorted: Vec<_> = self.kept.iter().collect();
        sorted.sort_by_key(|outcome| outcome.began);
        sorted.into_iter()
    }

    /// Returns the number of calls that ran the function to its end, except those that bypassed the
    /// cache.
    #[must_use]
    pub fn fetches(&self) -> u64 {
        self.fetches
    }

    /// Returns the number of calls whose fetched value a tier keeps; see [`Outcome::is_stored`].
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Returns the number of calls that skipped the local tier and memcached; see
    /// [`Outcome::is_forced`].
    #[must_use]
    pub fn forced(&self) -> u64 {
        self.forced
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |count: u64, one: &str, many: &str| match count {
            1 => format!("1 {one}"),
            _ => format!("{count} {many}"),
        };
        f.write_str(&counted(self.calls(), "call", "calls"))?;
        let mut separator = ": ";
        let mut part = |count: u64, one: &str, many: &str| match count {
            0 => Ok(()),
            _ => {
                write!(f, "{separator}{}", counted(count, one, many))?;
                separator = ", ";
                Ok(())
            }
        };
        part(self.request_hits, "request hit", "request hits")?;
        part(self.local_hits, "local hit", "local hits")?;
        part(self.remote_hits, "remote hit", "remote hits")?;
        part(self.count(CallResult::Miss), "miss", "misses")?;
        part(self.count(CallResult::Waited), "waited", "waited")?;
        part(self.count(CallResult::Stale), "stale", "stale")?;
        part(self.count(CallResult::Paused), "paused", "paused")?;
        part(self.count(CallResult::Bypassed), "bypassed", "bypassed")
    }
}
