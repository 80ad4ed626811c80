//! Access to one entry in the local tier (this process's memory) and in the remote tier
//! (memcached). Calls, refreshes and [`CacheEntry`](crate::CacheEntry) use it.
//!
//! An entry is one key in one cache. Its *declaration* holds the options that the attribute of the
//! annotated function declares. To *fetch* is to run the annotated function. A *fill token* lets a
//! caller store a value in the local tier, unless the entry was changed after the token was taken.
//! The token contains a sequence number. Of two fetches or reads, the later one has the higher
//! number.

mod frames;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::Cache;
use crate::declaration::Declaration;
use crate::event::{BypassReason, Event, EventSubject, UncachedReason};
use crate::key::Key;
use crate::round_trip::RoundTripCheck;
use crate::stats::Counters;
use crate::tier::Tier;
use crate::tier::local::{Expiry, FillToken, LocalTier, WriteMode, run_deferred_drops};
use crate::tier::remote::{RemoteError, Store};
use crate::ttl::{EntryTtls, TtlInputs};
use crate::value::{CachingDecision, Value, ValueOperations, WeightFn};

/// The weight, in bytes, of a value that serde cannot serialize and whose function has no option
/// `weight`.
const UNKNOWN_WEIGHT: usize = 4096;

/// One key in one cache, with the declaration of the annotated function.
#[derive(Clone)]
pub(crate) struct EntryHandle {
    pub(crate) cache: Cache,
    declaration: &'static Declaration,
    /// The index of the declaration among all declarations of the program.
    index: usize,
    pub(crate) key: Arc<[u8]>,
    pub(crate) value_operations: &'static ValueOperations,
    /// The ttl for this key, if the function computes the ttl from its arguments.
    pub(crate) ttl: Option<Duration>,
    /// The option `weight` of the function.
    pub(crate) weigher: Option<WeightFn>,
    /// How a value is compared with what memcached would return.
    pub(crate) round_trip_check: RoundTripCheck,
}

impl EntryHandle {
    /// Returns `None` if the cache is off or the function is not cached. A function is not cached
    /// if, for example, another function has the same cache name.
    pub(crate) fn new(
        cache: &Cache,
        declaration: &'static Declaration,
        key: Arc<[u8]>,
        value_operations: &'static ValueOperations,
        ttl: Option<Duration>,
    ) -> Option<EntryHandle> {
        let index = declaration.index().filter(|_| cache.is_enabled())?;
        let cache = cache.clone();
        let round_trip_check = RoundTripCheck::default();
        Some(EntryHandle {
            cache,
            declaration,
            index,
            key,
            value_operations,
            ttl,
            weigher: None,
            round_trip_check,
        })
    }

    pub(crate) fn now(&self) -> Instant {
        self.cache.config().clock.now()
    }

    pub(crate) fn counters(&self) -> &Counters {
        self.cache.counters_at(self.index)
    }

    /// Returns the weight of a value: how many bytes the value takes in memory. The function's
    /// option `weight` computes the weight, if it is set and does not panic. Otherwise the weight
    /// is estimated.
    pub(crate) fn weight(&self, value: &Value) -> usize {
        let declared = self.weigher.as_ref().and_then(|weight| weight(value));
        declared.unwrap_or_else(|| self.estimated_weight(value))
    }

    /// Estimates how many bytes a value takes in memory, without the option `weight`.
    pub(crate) fn estimated_weight(&self, value: &Value) -> usize {
        (self.value_operations.weigh)(value).unwrap_or(UNKNOWN_WEIGHT)
    }

    /// Returns the value that the local tier has, unless the value has expired.
    pub(crate) fn local_value(&self) -> Option<Value> {
        self.local_tier()?.peek(&self.key)
    }

    /// Returns the value that the local tier has, or a token to store a value in the local tier.
    pub(crate) fn local_value_or_fill_token(&self) -> Result<Value, FillToken> {
        match self.local_tier() {
            Some(local) => local.peek_or_fill_token(&self.key),
            None => Err(self.fill_token()),
        }
    }

    /// Like [`local_value`](Self::local_value), but also returns an expired value that is kept as
    /// the answer for a failed fetch (`stale_if_error`).
    pub(crate) fn local_value_or_stale(&self) -> Option<Value> {
        self.local_tier()?.get_stale(&self.key)
    }

    /// Returns a token to store a value in the local tier. The token is out of date once the entry
    /// is invalidated or overwritten.
    pub(crate) fn fill_token(&self) -> FillToken {
        self.cache.local().fill_token(&self.key)
    }

    /// Gives the token the sequence number of a fetch that begins now.
    pub(crate) fn assign_fetch_sequence(&self, fill_token: &mut FillToken) {
        self.cache.local().assign_fetch_sequence(fill_token);
    }

    /// Gives the token the sequence number of a value that is now read from the remote tier or
    /// passed in by the program.
    pub(crate) fn assign_read_sequence(&self, fill_token: &mut FillToken) {
        self.cache.local().assign_read_sequence(fill_token);
    }

    /// Returns true if the entry has not been invalidated or overwritten since the token was
    /// created.
    pub(crate) fn is_current(&self, fill_token: FillToken) -> bool {
        self.cache.local().is_current(fill_token)
    }

    /// Stores a value in the local tier; see [`LocalTier::publish`]. Returns true if the value was
    /// stored.
    pub(crate) fn publish(
        &self,
        fill_token: FillToken,
        mode: WriteMode,
        value: &Value,
        weight: usize,
        expiry: Expiry,
    ) -> bool {
        self.declaration.note_value_type(value, self.value_operations);
        self.local_tier()
            .is_some_and(|local| local.publish(&self.key, fill_token, mode, value, weight, expiry))
    }

    /// Extends the ttl of the local entry, if the entry still has this value; see
    /// [`LocalTier::extend`].
    pub(crate) fn extend(&self, fill_token: FillToken, value: &Value, expiry: Expiry) {
        if let Some(local) = self.local_tier() {
            local.extend(&self.key, fill_token, value, expiry);
            run_deferred_drops();
        }
    }

    /// Removes an expired value that the local tier keeps for failed fetches.
    pub(crate) fn remove_expired(&self, fill_token: FillToken) {
        let keeps = !self.declaration.declared_stale_if_error().is_zero();
        if let Some(local) = self.local_tier().filter(|_| keeps) {
            local.remove_expired(&self.key, fill_token);
        }
    }

    /// Returns the local tier, if the declaration uses it.
    pub(crate) fn local_tier(&self) -> Option<&LocalTier> {
        self.declaration.uses_local().then(|| self.cache.local())
    }

    /// Returns the remote tier, if the cache has one and the declaration uses it.
    pub(crate) fn remote_tier(&self) -> Option<&Arc<Store>> {
        self.cache.remote().filter(|_| self.declaration.uses_remote())
    }

    /// Ends the pause in which calls with this key get the error of a failed fetch (`error_ttl`);
    /// see [`FetchPauses`](crate::fetch_pauses::FetchPauses).
    pub(crate) fn end_fetch_pause(&self) {
        if !self.declaration.declared_error_ttl().is_zero() {
            self.cache.fetch_pauses().end(&self.key);
        }
    }

    /// Returns the [`remote_tier`](Self::remote_tier), and the key of the entry in the remote tier.
    pub(crate) fn remote_tier_and_key(&self) -> Option<(&Arc<Store>, Key)> {
        let store = self.remote_tier()?;
        Some((store, self.cache.key(self.declaration.name(), &self.key)))
    }

    pub(crate) fn is_overwritable(&self) -> bool {
        self.declaration.overwrite_reason().is_some()
    }

    /// Returns true if the function's options allow a value to be cached. `decision` says whether
    /// the value is an error or `None`, and whether the option `cache_if` accepts the value.
    pub(crate) fn may_cache(&self, decision: &CachingDecision) -> bool {
        self.uncached_reason(decision).is_none()
    }

    /// Returns the reason why a value is not cached, or `None` if it may be cached.
    pub(crate) fn uncached_reason(&self, decision: &CachingDecision) -> Option<UncachedReason> {
        self.declaration.check_none_ttl(self.value_operations);
        match decision {
            CachingDecision { is_err: true, .. } => Some(UncachedReason::ErrorValue),
            CachingDecision { is_cacheable: false, .. } => Some(UncachedReason::CacheIf),
            CachingDecision { is_none: true, .. } => {
                let is_kept = self.declaration.declared_none_ttl().is_some();
                (!is_kept).then_some(UncachedReason::AbsentValue)
            }
            _ => None,
        }
    }

    /// Returns the ttl of a value before jitter and limits. Without a `decision`, the options
    /// `ttl_with` and `none_ttl` are ignored.
    #[inline]
    pub(crate) fn ttl(&self, decision: Option<&CachingDecision>) -> Duration {
        let of_value = decision.and_then(|decision| match decision.is_none {
            true => self.declaration.declared_none_ttl(),
            false => decision.ttl,
        });
        let declared = self.ttl.or(self.declaration.declared_ttl());
        of_value.or(declared).unwrap_or(self.cache.config().default_ttl)
    }

    /// Returns how long each tier keeps a value. If the cache has jitter, the result is random.
    pub(crate) fn ttls(&self, decision: Option<&CachingDecision>) -> EntryTtls {
        let max_jitter = self.cache.config().jitter;
        let jitter = match max_jitter {
            0.0 => 0.0,
            max_jitter => max_jitter * random(),
        };
        EntryTtls::new(&TtlInputs {
            ttl: self.ttl(decision),
            jitter,
            max_jitter,
            local_ttl: self.declaration.declared_local_ttl(),
            stale_if_error: self.declaration.declared_stale_if_error(),
            refresh_ahead: self.declaration.declared_refresh_ahead(),
            is_overwritable: self.is_overwritable(),
            has_remote_tier: self.remote_tier().is_some(),
        })
    }

    /// Returns the expiry of a local entry that is stored now with this ttl.
    pub(crate) fn expiry(&self, ttl: Duration, ttls: EntryTtls) -> Expiry {
        Expiry { start: self.now(), ttl, stale_ttl: ttls.stale }
    }

    pub(crate) fn declaration(&self) -> &'static Declaration {
        self.declaration
    }

    /// Reports an event of this entry.
    pub(crate) fn emit<'e>(&'e self, event: impl FnOnce(EventSubject<'e>) -> Event<'e>) {
        self.cache.emit(event(EventSubject::of(&self.key)));
    }

    /// Reports that a call or a lookup found the value in this tier.
    pub(crate) fn report_hit(&self, tier: Tier) {
        self.cache.report_hit(&self.key, tier);
    }

    /// Reports that a call of the function runs without the cache.
    #[cold]
    pub(crate) fn report_bypass(&self, reason: BypassReason<'_>) {
        self.cache.emit(Event::Bypassed { declaration: self.declaration, reason });
    }

    /// Reports that an exchange with a memcached server failed. While a server is ejected, nothing
    /// is sent to it. The errors of these exchanges are not reported, because the ejection has
    /// been.
    pub(crate) fn report_failure(&self, error: &RemoteError) {
        if error.was_sent() {
            self.emit(|entry| Event::RemoteFailed { entry, error });
        }
    }
}

/// Returns a random number from 0 to 1.
fn random() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}
