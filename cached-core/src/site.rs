//! One key in one cache: how long its entry lives, and its value as a frame.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::Cache;
use crate::declaration::Declaration;
use crate::event::{Event, EventEntry};
use crate::frame::{self, FrameContents};
use crate::key::{Key, KeyBytes, canonical_bytes};
use crate::refresh::window;
use crate::stats::Counters;
use crate::tier::local::{Expiry, FillToken, LocalTier, WriteMode, run_deferred_drops};
use crate::tier::remote::{Decoded, EntryReader, RemoteError, RemoteStore, Store};
use crate::value::{CachingDecision, Value, ValueType, WeightFn};

/// What the local tier may keep of a value that is not confirmed to stand in memcached, and by
/// default of one that another process may overwrite.
pub(crate) const UNCONFIRMED: Duration = Duration::from_secs(5);

/// A longer lifetime than this is cut to it: nothing outlives it, and clocks can be added to it.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// What memcached may keep of a value after its ttl: an item there lives for both together. However
/// long the ttl is, which may be of the value: who reads it must count back as its writer counted.
const LONGEST_KEPT: Duration = Duration::from_secs(Store::LIMITS.longest_ttl.as_secs() / 2);

/// The weight of a value that cannot be serialized: it is not free, and not much else is known.
const UNKNOWN_WEIGHT: usize = 4096;

/// One key in one cache: what every step of a call, and an entry, work with.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) cache: Cache,
    declaration: &'static Declaration,
    /// The declaration's.
    index: usize,
    pub(crate) key: Arc<[u8]>,
    pub(crate) value_type: &'static ValueType,
    /// The ttl given with this call, where the declaration has none that is fixed.
    pub(crate) ttl: Option<Duration>,
    /// The function's option `weight`, if it has one.
    pub(crate) weigher: Option<WeightFn>,
}

/// How long an entry lives in each tier.
#[derive(Clone, Copy)]
pub(crate) struct Lifetime {
    pub(crate) ttl: Duration,
    /// What the local tier may keep once memcached has the value, or where there is no memcached.
    pub(crate) local: Duration,
    /// The same while memcached has not confirmed it.
    pub(crate) unconfirmed: Duration,
    /// How long both keep it after that, for a fetch that fails.
    pub(crate) kept: Duration,
    /// How long before its end it is refreshed.
    pub(crate) ahead: Duration,
}

impl Lifetime {
    /// Of a local entry that begins at `from` and is fresh for `fresh`.
    pub(crate) fn local_expiry(&self, from: Instant, fresh: Duration) -> Expiry {
        Expiry { start: from, ttl: fresh, stale_ttl: self.kept }
    }
}

impl Site {
    /// `None` where the cache is off, or the declaration shares its name.
    pub(crate) fn new(
        cache: &Cache,
        declaration: &'static Declaration,
        key: Arc<[u8]>,
        value_type: &'static ValueType,
        ttl: Option<Duration>,
    ) -> Option<Site> {
        let index = declaration.index().filter(|_| cache.is_enabled())?;
        let cache = cache.clone();
        Some(Site { cache, declaration, index, key, value_type, ttl, weigher: None })
    }

    pub(crate) fn now(&self) -> Instant {
        self.cache.config().clock.now()
    }

    pub(crate) fn counters(&self) -> &Counters {
        self.cache.counters_at(self.index)
    }

    /// Returns what a value takes in memory, as the function says or as serde shows it.
    pub(crate) fn weight(&self, value: &Value) -> usize {
        let declared = self.weigher.as_ref().and_then(|weigher| weigher(value));
        declared.or_else(|| (self.value_type.weigh)(value)).unwrap_or(UNKNOWN_WEIGHT)
    }

    /// What the local tier holds and is not expired.
    pub(crate) fn look_locally(&self) -> Option<Value> {
        self.local()?.peek(&self.key)
    }

    /// The same, or a fill token for what is to be published where nothing is found.
    pub(crate) fn look_locally_or_fill_token(&self) -> Result<Value, FillToken> {
        match self.local() {
            Some(local) => local.peek_or_fill_token(&self.key),
            None => Err(self.fill_token()),
        }
    }

    /// What the local tier holds, also where it expired and is kept for a fetch that fails.
    pub(crate) fn look_for_stale(&self) -> Option<Value> {
        self.local()?.get_stale(&self.key)
    }

    pub(crate) fn fill_token(&self) -> FillToken {
        self.cache.local().fill_token(&self.key)
    }

    /// Makes the fill token that of a fetch that begins now.
    pub(crate) fn assign_fetch_sequence(&self, fill_token: &mut FillToken) {
        self.cache.local().assign_fetch_sequence(fill_token);
    }

    /// Makes it that of a value which memcached has taken now.
    pub(crate) fn assign_read_sequence(&self, fill_token: &mut FillToken) {
        self.cache.local().assign_read_sequence(fill_token);
    }

    /// Whether nobody has changed the entry since the fill token.
    pub(crate) fn is_current(&self, fill_token: FillToken) -> bool {
        self.cache.local().is_current(fill_token)
    }

    /// See [`LocalTier::publish`]. `false` where the declaration leaves the local tier out.
    pub(crate) fn publish(
        &self,
        fill_token: FillToken,
        mode: WriteMode,
        value: &Value,
        weight: usize,
        expiry: Expiry,
    ) -> bool {
        self.local()
            .is_some_and(|local| local.publish(&self.key, fill_token, mode, value, weight, expiry))
    }

    pub(crate) fn extend(&self, fill_token: FillToken, value: &Value, expiry: Expiry) {
        if let Some(local) = self.local() {
            local.extend(&self.key, fill_token, value, expiry);
            run_deferred_drops();
        }
    }

    /// See [`LocalTier::remove_expired`].
    pub(crate) fn remove_expired(&self, fill_token: FillToken) {
        let keeps = !self.declaration.declared_stale_if_error().is_zero();
        if let Some(local) = self.local().filter(|_| keeps) {
            local.remove_expired(&self.key, fill_token);
        }
    }

    pub(crate) fn local(&self) -> Option<&LocalTier> {
        self.declaration.uses_local().then(|| self.cache.local())
    }

    /// The remote tier, if there is one for this declaration.
    pub(crate) fn remote_tier(&self) -> Option<&Arc<Store>> {
        self.cache.remote().filter(|_| self.declaration.uses_remote())
    }

    /// Returns the remote store and the key there, if the declaration uses one.
    pub(crate) fn remote(&self) -> Option<(&Arc<Store>, Key)> {
        let store = self.remote_tier()?;
        Some((store, self.cache.key(self.declaration.name(), &self.key)))
    }

    pub(crate) fn overwritable(&self) -> bool {
        self.declaration.overwrite_reason().is_some()
    }

    /// Whether a value that was judged so is cached.
    pub(crate) fn keeps(&self, verdict: &CachingDecision) -> bool {
        self.declaration.check_none_ttl(self.value_type);
        verdict.is_cacheable && (!verdict.is_none || self.declaration.declared_none_ttl().is_some())
    }

    /// The ttl that is asked for: of a value that was judged, or of any where there is no verdict.
    #[inline]
    pub(crate) fn ttl(&self, verdict: Option<&CachingDecision>) -> Duration {
        let judged = verdict.and_then(|verdict| match verdict.is_none {
            true => self.declaration.declared_none_ttl(),
            false => verdict.ttl,
        });
        let declared = self.ttl.or(self.declaration.declared_ttl());
        judged.or(declared).unwrap_or(self.cache.config().default_ttl)
    }

    /// How long such a value lives, of which a part at random is taken off where that is configured.
    pub(crate) fn lifetime(&self, verdict: Option<&CachingDecision>) -> Lifetime {
        let asked = self.ttl(verdict);
        let remote = self.remote_tier().is_some();
        let mut longest = if remote { Store::LIMITS.longest_ttl } else { FOR_EVER };
        let mut kept = self.declaration.declared_stale_if_error();
        if !kept.is_zero() {
            kept = kept.min(if remote { LONGEST_KEPT } else { FOR_EVER });
            longest = if remote { longest - kept } else { longest };
        }
        let mut ahead = self.declaration.declared_refresh_ahead();
        if !ahead.is_zero() {
            // Not all of a life that is cut.
            ahead = if asked > longest { window(longest, ahead) } else { ahead.min(FOR_EVER) };
        }
        let ttl = match self.cache.config().jitter {
            0.0 => asked.min(longest),
            jitter => asked.min(longest).mul_f64(1.0 - jitter * random()),
        };
        let bound = self.declaration.declared_local_ttl();
        let guaranteed = if remote { Store::LIMITS.guaranteed(ttl) } else { None };
        let local = match guaranteed {
            // The value stays in this process.
            None => ttl.min(bound.unwrap_or(ttl)),
            // The local entry must not outlive the store's item.
            Some(guaranteed) => {
                let unbounded = if self.overwritable() { UNCONFIRMED } else { ttl };
                guaranteed.min(bound.unwrap_or(unbounded))
            }
        };
        let unconfirmed = ttl.min(UNCONFIRMED).min(bound.unwrap_or(UNCONFIRMED));
        Lifetime { ttl, local, unconfirmed, kept, ahead }
    }

    pub(crate) fn declaration(&self) -> &'static Declaration {
        self.declaration
    }

    /// The entry, for an event about it.
    pub(crate) fn event_entry(&self) -> EventEntry<'_> {
        EventEntry::of(&self.key)
    }

    pub(crate) fn emit(&self, event: Event<'_>) {
        self.cache.emit(event);
    }

    /// Reports an exchange with a server that failed.
    pub(crate) fn report(&self, error: &RemoteError) {
        self.emit(Event::RemoteFailed { entry: self.event_entry(), error });
    }

    fn canonical(&self) -> KeyBytes {
        canonical_bytes(self.declaration.name(), &self.key)
    }

    /// The frame of a value, after making sure that it can be read back as what it is.
    ///
    /// # Errors
    /// Why this value has to stay out of memcached.
    pub(crate) fn seal(&self, value: &Value) -> Result<Vec<u8>, &'static str> {
        let unstorable = |why: &'static str| {
            if self.declaration.unstorable.set(why).is_ok() {
                self.emit(Event::NotStorable { declaration: self.declaration, why });
            }
            why
        };
        let written = (self.value_type.write)(value).map_err(unstorable)?;
        frame::seal(&self.canonical(), written.view())
            .ok_or_else(|| unstorable("the value's type is too large to be described"))
    }
}

impl EntryReader for Site {
    /// A value, and its weight if the local tier is to have it.
    type Value = (Value, usize);

    fn decode(&self, frame: &[u8]) -> Decoded<(Value, usize)> {
        match frame::open(&self.canonical(), frame) {
            FrameContents::Corrupt => Decoded::Corrupt,
            FrameContents::Foreign => Decoded::Foreign,
            FrameContents::Stored(stored) => match (self.value_type.read)(stored) {
                Some(value) => {
                    let weight = self.local().map_or(0, |_| self.weight(&value));
                    Decoded::Value((value, weight))
                }
                None => Decoded::Foreign,
            },
        }
    }

    fn failed(&self, error: &RemoteError) {
        self.report(error);
    }

    fn lease_is_busy(&self) {
        self.emit(Event::LeaseBusy { entry: self.event_entry() });
    }
}

/// 0 to 1, of no quality but that of not being the same each time.
fn random() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}
