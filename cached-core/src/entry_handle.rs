//! The handle of an entry: one key in one cache, with its declaration. Calls, refreshes and companions
//! work with it.

mod frames;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::Cache;
use crate::declaration::Declaration;
use crate::event::{Event, EventSubject};
use crate::key::Key;
use crate::stats::Counters;
use crate::tier::local::{Expiry, FillToken, LocalTier, WriteMode, run_deferred_drops};
use crate::tier::remote::{RemoteError, Store};
use crate::ttl::{EntryTtls, TtlInputs};
use crate::value::{CachingDecision, Value, ValueType, WeightFn};

/// The weight, in bytes, of a value that cannot be serialized.
const UNKNOWN_WEIGHT: usize = 4096;

/// One key in one cache, with the declaration and the options of its function.
#[derive(Clone)]
pub(crate) struct EntryHandle {
    pub(crate) cache: Cache,
    declaration: &'static Declaration,
    /// The index of the declaration.
    index: usize,
    pub(crate) key: Arc<[u8]>,
    pub(crate) value_type: &'static ValueType,
    /// The ttl of this call, if the function computes it from its arguments.
    pub(crate) ttl: Option<Duration>,
    /// The option `weight` of the function.
    pub(crate) weigher: Option<WeightFn>,
}

impl EntryHandle {
    /// Returns `None` if the cache is off, or if the function shares its cache name with another one.
    pub(crate) fn new(
        cache: &Cache,
        declaration: &'static Declaration,
        key: Arc<[u8]>,
        value_type: &'static ValueType,
        ttl: Option<Duration>,
    ) -> Option<EntryHandle> {
        let index = declaration.index().filter(|_| cache.is_enabled())?;
        let cache = cache.clone();
        Some(EntryHandle { cache, declaration, index, key, value_type, ttl, weigher: None })
    }

    pub(crate) fn now(&self) -> Instant {
        self.cache.config().clock.now()
    }

    pub(crate) fn counters(&self) -> &Counters {
        self.cache.counters_at(self.index)
    }

    /// Returns how many bytes a value takes in memory, by the option `weight` or by serde.
    pub(crate) fn weight(&self, value: &Value) -> usize {
        let declared = self.weigher.as_ref().and_then(|weight| weight(value));
        declared.or_else(|| (self.value_type.weigh)(value)).unwrap_or(UNKNOWN_WEIGHT)
    }

    /// Returns the value of the local tier, unless it has expired.
    pub(crate) fn local_value(&self) -> Option<Value> {
        self.local_tier()?.peek(&self.key)
    }

    /// Returns the value of the local tier, or the token under which a value may be stored there.
    pub(crate) fn local_value_or_fill_token(&self) -> Result<Value, FillToken> {
        match self.local_tier() {
            Some(local) => local.peek_or_fill_token(&self.key),
            None => Err(self.fill_token()),
        }
    }

    /// Returns the value of the local tier, even if it has expired and is only kept for errors.
    pub(crate) fn local_value_or_stale(&self) -> Option<Value> {
        self.local_tier()?.get_stale(&self.key)
    }

    pub(crate) fn fill_token(&self) -> FillToken {
        self.cache.local().fill_token(&self.key)
    }

    /// Gives the token the sequence number of a fetch that begins now.
    pub(crate) fn assign_fetch_sequence(&self, fill_token: &mut FillToken) {
        self.cache.local().assign_fetch_sequence(fill_token);
    }

    /// Gives the token the sequence number of a value that the remote tier has now.
    pub(crate) fn assign_read_sequence(&self, fill_token: &mut FillToken) {
        self.cache.local().assign_read_sequence(fill_token);
    }

    /// Returns true if nobody has changed the entry since the token was made.
    pub(crate) fn is_current(&self, fill_token: FillToken) -> bool {
        self.cache.local().is_current(fill_token)
    }

    /// Stores a value in the local tier; see [`LocalTier::publish`]. Returns false if it is not stored.
    pub(crate) fn publish(
        &self,
        fill_token: FillToken,
        mode: WriteMode,
        value: &Value,
        weight: usize,
        expiry: Expiry,
    ) -> bool {
        self.local_tier()
            .is_some_and(|local| local.publish(&self.key, fill_token, mode, value, weight, expiry))
    }

    /// Extends the life of the local entry, if that still has this value.
    pub(crate) fn extend(&self, fill_token: FillToken, value: &Value, expiry: Expiry) {
        if let Some(local) = self.local_tier() {
            local.extend(&self.key, fill_token, value, expiry);
            run_deferred_drops();
        }
    }

    /// Removes an expired value that the local tier keeps for errors.
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

    /// Returns the remote tier, if there is one and the declaration uses it.
    pub(crate) fn remote_tier(&self) -> Option<&Arc<Store>> {
        self.cache.remote().filter(|_| self.declaration.uses_remote())
    }

    /// Returns the remote tier and the entry's key there, if the declaration uses it.
    pub(crate) fn remote_tier_and_key(&self) -> Option<(&Arc<Store>, Key)> {
        let store = self.remote_tier()?;
        Some((store, self.cache.key(self.declaration.name(), &self.key)))
    }

    pub(crate) fn is_overwritable(&self) -> bool {
        self.declaration.overwrite_reason().is_some()
    }

    /// Returns true if a value with this decision is cached.
    pub(crate) fn keeps(&self, decision: &CachingDecision) -> bool {
        self.declaration.check_none_ttl(self.value_type);
        let keeps_none = || self.declaration.declared_none_ttl().is_some();
        decision.is_cacheable && (!decision.is_none || keeps_none())
    }

    /// Returns the ttl before any limit, of a value or, without a `decision`, of any value.
    #[inline]
    pub(crate) fn ttl(&self, decision: Option<&CachingDecision>) -> Duration {
        let of_value = decision.and_then(|decision| match decision.is_none {
            true => self.declaration.declared_none_ttl(),
            false => decision.ttl,
        });
        let declared = self.ttl.or(self.declaration.declared_ttl());
        of_value.or(declared).unwrap_or(self.cache.config().default_ttl)
    }

    /// Returns how long each tier keeps a value. It differs from call to call if jitter is configured.
    pub(crate) fn ttls(&self, decision: Option<&CachingDecision>) -> EntryTtls {
        let jitter = match self.cache.config().jitter {
            0.0 => 0.0,
            jitter => jitter * random(),
        };
        EntryTtls::new(&TtlInputs {
            ttl: self.ttl(decision),
            jitter,
            local_ttl: self.declaration.declared_local_ttl(),
            stale_if_error: self.declaration.declared_stale_if_error(),
            refresh_ahead: self.declaration.declared_refresh_ahead(),
            is_overwritable: self.is_overwritable(),
            has_remote_tier: self.remote_tier().is_some(),
        })
    }

    /// Returns the life of a local entry that is stored now and answers for `ttl`.
    pub(crate) fn expiry(&self, ttl: Duration, ttls: EntryTtls) -> Expiry {
        Expiry { start: self.now(), ttl, stale_ttl: ttls.stale }
    }

    pub(crate) fn declaration(&self) -> &'static Declaration {
        self.declaration
    }

    /// Reports an event about this entry.
    pub(crate) fn emit<'e>(&'e self, event: impl FnOnce(EventSubject<'e>) -> Event<'e>) {
        self.cache.emit(event(EventSubject::of(&self.key)));
    }

    /// Reports an exchange with a server that failed.
    pub(crate) fn report_failure(&self, error: &RemoteError) {
        self.emit(|entry| Event::RemoteFailed { entry, error });
    }
}

/// Returns a number from 0 to 1 that differs from call to call.
fn random() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}
