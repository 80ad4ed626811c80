//! An entry, to look at, add, invalidate or overwrite.

mod first_found;
mod given;
mod response;

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::Cache;
use crate::declaration::Declaration;
use crate::error::CacheError;
use crate::event::Event;
use crate::key::{Key, KeyError};
use crate::site::Site;
use crate::tier::Tier;
use crate::tier::local::{FillToken, WriteMode, run_deferred_drops};
use crate::tier::remote::{
    IfMissing, Item, Permit, ReadOutcome, RemoteError, RemoteStore, WriteOutcome,
};
use crate::tier::request::RequestHandle;
use crate::value::{
    CachedValue, InferredValue, Returned, Value, ValueRules, ValueType, WeightFn, weight_fn,
};
pub use first_found::first_found;
use given::{AddOutcome, Given, WriteError, add_remote};
pub use response::CachedResponse;

/// Policy of entries that are stored once and then kept: the function declares no reason to
/// overwrite.
#[derive(Debug, Clone, Copy)]
pub enum WriteOnce {}

/// Policy of entries that may be replaced: the function declares `overwrite(reason = "…")`.
#[derive(Debug, Clone, Copy)]
pub enum Overwritable {}

/// Policies under which an entry may be overwritten: [`Overwritable`] alone.
#[diagnostic::on_unimplemented(
    message = "entries of this function are write-once: they cannot be overwritten",
    label = "`overwrite` needs a declared reason",
    note = "declare why overwriting is necessary, `#[coordinator_cached(…, overwrite(reason = \"…\"))]`, or make what changes part of the key, `version = …`, and add another entry"
)]
pub trait MayOverwrite: sealed::Sealed {}

impl MayOverwrite for Overwritable {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Overwritable {}
}

/// One entry of an annotated function, from the companion that `entry = …` names.
///
/// An entry belongs to the cache that was current (or given with `cache = …`) when it was made.
/// Its methods never fetch, and never fail because memcached does, except where they say so.
///
/// ```
/// # use cached_core::{Cache, coordinator_cached};
/// #[coordinator_cached(
///     name = "entry_doc",
///     version = state,
///     entry = payment_entry,
/// )]
/// async fn payment(number: &str, state: &str) -> Result<String, std::io::Error> {
///     Ok(format!("{number} is {state}"))
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// assert!(!payment_entry("7", "paid").get().await.is_found());
/// assert!(payment_entry("7", "paid").add("7 was paid in cash".into()).await);
/// assert_eq!(payment("7", "paid").await?, "7 was paid in cash");
/// payment_entry("7", "paid").invalidate().await.unwrap();
/// assert_eq!(payment("7", "paid").await?, "7 is paid");
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap();
/// ```
#[must_use = "an entry does nothing until one of its methods is awaited"]
pub struct CacheEntry<V, P> {
    cache: Cache,
    declaration: &'static Declaration,
    /// The canonical bytes, or why the arguments gave none.
    key: Result<Arc<[u8]>, KeyError>,
    value_type: &'static ValueType,
    ttl: Option<Duration>,
    weigher: Option<WeightFn>,
    rules: ValueRules<V>,
    policy: PhantomData<fn() -> P>,
}

/// The entry of a function that returns `R`, where the type says what of it is cached: of
/// `Result<Payment, FetchError>` it is `CacheEntry<Payment, P>`. A companion's signature is written so.
///
/// ```
/// # use cached_core::{CacheEntry, EntryOf, WriteOnce};
/// fn same<E>(entry: EntryOf<Result<String, E>, WriteOnce>) -> CacheEntry<String, WriteOnce> {
///     entry
/// }
/// # let _ = same::<()>;
/// ```
pub type EntryOf<R, P> = CacheEntry<<R as Returned<InferredValue>>::Value, P>;

impl<V, P> Clone for CacheEntry<V, P> {
    fn clone(&self) -> CacheEntry<V, P> {
        let (cache, key, weigher) = (self.cache.clone(), self.key.clone(), self.weigher.clone());
        CacheEntry { cache, key, weigher, ..*self }
    }
}

impl<V, P> fmt::Debug for CacheEntry<V, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheEntry({})", self.shown())
    }
}

impl<V, P> CacheEntry<V, P> {
    pub(crate) fn new(
        cache: Cache,
        declaration: &'static Declaration,
        key: Result<Arc<[u8]>, KeyError>,
        value_type: &'static ValueType,
    ) -> CacheEntry<V, P> {
        CacheEntry {
            cache,
            declaration,
            key,
            value_type,
            ttl: None,
            weigher: None,
            rules: ValueRules::NONE,
            policy: PhantomData,
        }
    }

    /// Sets how long what is added or overwritten through this entry lives.
    #[doc(hidden)]
    pub fn ttl(mut self, ttl: Duration) -> CacheEntry<V, P> {
        self.ttl = Some(ttl);
        self
    }

    #[doc(hidden)]
    pub fn cache_if(mut self, cache_if: fn(&V) -> bool) -> CacheEntry<V, P> {
        self.rules.cache_if = Some(cache_if);
        self
    }

    #[doc(hidden)]
    pub fn ttl_with(mut self, ttl_with: fn(&V) -> Duration) -> CacheEntry<V, P> {
        self.rules.ttl_with = Some(ttl_with);
        self
    }

    #[doc(hidden)]
    pub fn weight(mut self, weight: fn(&V) -> usize) -> CacheEntry<V, P>
    where
        V: 'static,
    {
        self.weigher = Some(weight_fn(weight));
        self
    }

    /// The key as it stands in memcached; it never shows the identifier. Needs the feature
    /// `memcached`, which is on by default.
    #[cfg(feature = "memcached")]
    #[must_use]
    pub fn key(&self) -> Key {
        self.shown()
    }

    fn shown(&self) -> Key {
        let bytes = self.key.as_deref().unwrap_or_default();
        self.cache.key(self.declaration.name(), bytes)
    }

    /// `None` where the cache is off, the function shares its name or the arguments gave no key:
    /// then nothing is found and nothing is stored.
    fn site(&self) -> Option<Site> {
        let key = self.key.as_ref().ok()?;
        let key = Arc::clone(key);
        let mut site = Site::new(&self.cache, self.declaration, key, self.value_type, self.ttl)?;
        site.weigher = self.weigher.clone();
        Some(site)
    }

    /// The same, for what has to tell its caller where nothing can be done.
    fn site_to_change(&self) -> Result<Option<Site>, CacheError> {
        match &self.key {
            Ok(_) => Ok(self.site()),
            Err(error) => Err(CacheError::Key(error.clone())),
        }
    }

    /// Removes the entry from every tier of this process (of request tiers, from the running
    /// request's) and from memcached. A fetch under way anywhere when this is called does not
    /// store its result. Callers who wait for such a fetch get its answer: they asked before.
    ///
    /// Other processes' local tiers keep theirs for the rest of its `local_ttl` at most: 5 s for
    /// an overwritable entry by default, the ttl for a write-once one. A fetch under way there
    /// answers those who call there until it ends.
    ///
    /// While two builds run whose value types differ (a rollout), each has an entry of its own. This
    /// removes both, and so does `overwrite`.
    ///
    /// # Errors
    /// [`CacheError::Remote`] when the key's memcached server could not be told, as it is ejected
    /// or did not answer in time. This process's tiers are cleared all the same, it does not ask
    /// that server for the entry until it was told, and it tells it as soon as it answers. Other
    /// processes may see the old value until then.
    ///
    /// # Cancellation
    /// This process's tiers are cleared at the first poll, and again when a call that waits for
    /// memcached is dropped; that may or may not have reached it.
    pub async fn invalidate(&self) -> Result<(), CacheError> {
        let Some(site) = self.site_to_change()? else {
            return Ok(());
        };
        site.emit(Event::Invalidated { entry: site.event_entry() });
        site.cache.remove_from_process(&site.key, None);
        let Some((store, key)) = site.remote() else {
            return Ok(());
        };
        // Until memcached was told, others of this process could read it there.
        let _again = ForgetOnDrop(&site);
        store.remove(&key, None).await.map_err(|error| site.remote_failed(error))
    }
}

/// Forgets the entry once more, also where the call that wants it is dropped while it waits.
struct ForgetOnDrop<'s>(&'s Site);

impl Drop for ForgetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.cache.remove_from_process(&self.0.key, None);
    }
}

impl Site {
    fn remote_failed(&self, error: RemoteError) -> CacheError {
        self.report(&error);
        CacheError::Remote(error)
    }

    /// The value that this process has, without asking memcached.
    fn look(&self) -> Option<(Value, Tier)> {
        if let Some(value) =
            RequestHandle::current().and_then(|r| r.get(self.cache.id(), &self.key))
        {
            self.emit(Event::Hit { entry: self.event_entry(), tier: Tier::Request });
            return Some((value, Tier::Request));
        }
        let value = self.look_locally()?;
        self.emit(Event::Hit { entry: self.event_entry(), tier: Tier::Local });
        Some((value, Tier::Local))
    }

    /// Returns the value of an item that has not expired, and stores it in the local tier.
    fn admit(&self, item: Item<(Value, usize), Permit>, fill_token: FillToken) -> Option<Value> {
        let (now, lifetime) = (self.now(), self.lifetime(None));
        let fresh = item.fresh_for(now, lifetime.kept)?;
        let (value, weight) = item.value?;
        let expiry = lifetime.local_expiry(now, fresh.min(lifetime.local));
        self.publish(fill_token, WriteMode::Once, &value, weight, expiry);
        run_deferred_drops();
        self.emit(Event::Hit { entry: self.event_entry(), tier: Tier::Remote });
        Some(value)
    }
}

impl<V: Clone + Send + Sync + 'static, P> CacheEntry<V, P> {
    /// Looks in every tier, and never fetches. A memcached that fails is a miss.
    pub async fn get(&self) -> CachedResponse<V> {
        let Some(site) = self.site() else { return CachedResponse::missing() };
        if let Some((value, tier)) = site.look() {
            return CachedResponse::found(&value, tier);
        }
        let fill_token = site.fill_token();
        let Some((store, key)) = site.remote() else { return CachedResponse::missing() };
        let value = match store.read(&key, &site, IfMissing::Report).await {
            Ok(ReadOutcome::Item(item)) => site.admit(item, fill_token),
            _ => None,
        };
        value.map_or_else(CachedResponse::missing, |value| {
            CachedResponse::found(&value, Tier::Remote)
        })
    }
}

impl<V: CachedValue, P> CacheEntry<V, P> {
    /// Stores `value` where no entry is. `false` where one is already, which is kept, and where
    /// nothing was stored: a `None` or a value that `cache_if` refuses is no entry. What has expired
    /// and is kept for errors is none either, nor is the right to fill that another caller holds:
    /// this call takes their place.
    ///
    /// With memcached out of reach, and where it does not take the value, that is stored in this
    /// process, for 5 s at most.
    pub async fn add(&self, value: V) -> bool {
        let Some(site) = self.site() else { return false };
        if site.look_locally().is_some() {
            return false;
        }
        let Some(given) = Given::new(&site, &self.rules, value) else { return false };
        // Before memcached is told: who invalidates the entry after that must not find it here.
        let mut fill_token = site.fill_token();
        let mut fresh = given.lifetime.local;
        let mut everywhere = false;
        if let Some((store, key)) = site.remote() {
            match add_remote(&site, store, &key, &given).await {
                AddOutcome::Written(outcome) => {
                    everywhere = outcome != WriteOutcome::NotStored;
                    fresh = given.confirmed(outcome);
                    // After the fetches that began meanwhile: memcached has this value, and none of theirs.
                    site.assign_read_sequence(&mut fill_token);
                }
                AddOutcome::EntryExists => return false,
                AddOutcome::Failed => fresh = given.lifetime.unconfirmed,
            }
        }
        // Whoever fetched meanwhile has filled the local tier with something else.
        given.publish(&site, fill_token, WriteMode::Once, fresh) || everywhere
    }

    /// Replaces the entry, in this process and in memcached. A fetch under way anywhere does not
    /// store its result over it. Other processes' local tiers keep the old value for the rest of
    /// its `local_ttl` at most, 5 s by default. A `None` that is not cached, and a value that
    /// `cache_if` refuses, take the entry's place by invalidating it.
    ///
    /// Entries of a function that declares no reason have no such method: it does not compile.
    ///
    /// # Errors
    /// [`CacheError::Remote`] when memcached could not be told: it may serve the old value to
    /// others until that expires, and this process keeps the new one for 5 s at most.
    /// [`CacheError::NotStorable`] when the value cannot be stored there: the old one is removed.
    ///
    /// # Cancellation
    /// A call that is dropped while it waits for memcached may or may not have replaced the value
    /// there; this process keeps neither.
    pub fn overwrite(
        &self,
        value: V,
    ) -> Pin<Box<dyn Future<Output = Result<(), CacheError>> + Send + '_>>
    where
        P: MayOverwrite,
    {
        // Boxed, since a bound is checked again wherever an opaque type that depends on it is
        // named: one mistake was three errors.
        Box::pin(self.replace(value))
    }

    async fn replace(&self, value: V) -> Result<(), CacheError> {
        let Some(site) = self.site_to_change()? else { return Ok(()) };
        let Some(given) = Given::new(&site, &self.rules, value) else {
            return self.invalidate().await;
        };
        site.emit(Event::Overwritten { entry: site.event_entry() });
        let fill_token = site.cache.remove_from_process(&site.key, None);
        let Some((store, key)) = site.remote() else {
            let fresh = given.lifetime.local;
            if let Some(fill_token) = fill_token {
                given.publish(&site, fill_token, WriteMode::Replace, fresh);
            }
            return Ok(());
        };
        let if_dropped = ForgetOnDrop(&site);
        let frame = given.seal(&site);
        let began = Instant::now();
        let mut written = match frame {
            Ok(frame) => given.overwrite(&site, store, &key, frame).await,
            Err(error) => Err(error),
        };
        if !matches!(written, Ok(WriteOutcome::Stored | WriteOutcome::StoredBriefly)) {
            // What is there is the old value; a write that the server refused leaves it.
            let removed = store.remove(&key, Some(began)).await.map_err(WriteError::Remote);
            // Of two errors the first says more.
            if !matches!(written, Err(WriteError::Remote(_))) {
                written = removed.and(written);
            }
        }
        // Others of this process may have read the old value there meanwhile.
        // Before the fill token that is taken next, which it would make out of date.
        std::mem::forget(if_dropped);
        // If others replaced it too, memcached says which of the values it is.
        let fill_token = site.cache.remove_from_process(&site.key, fill_token);
        let fresh = match written {
            Ok(outcome) => given.confirmed(outcome),
            Err(_) => given.lifetime.unconfirmed,
        };
        if let Some(fill_token) = fill_token {
            given.publish(&site, fill_token, WriteMode::Replace, fresh);
        }
        match written {
            Ok(_) => Ok(()),
            Err(WriteError::NotStorable(why)) => Err(CacheError::NotStorable(why)),
            Err(WriteError::Remote(error)) => Err(site.remote_failed(error)),
        }
    }
}
