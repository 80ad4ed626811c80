//! A single entry of an annotated function: look it up, add, invalidate or overwrite it.

mod first_found;
mod response;
mod supplied_value;

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::Cache;
use crate::declaration::Declaration;
use crate::entry_handle::EntryHandle;
use crate::error::CacheError;
use crate::event::Event;
use crate::key::{Key, KeyError};
use crate::tier::Tier;
use crate::tier::local::{FillToken, WriteMode, run_deferred_drops};
use crate::tier::remote::{
    IfMissing, Item, Permit, ReadOutcome, RemoteError, RemoteStore, WriteOutcome,
};
use crate::tier::request::RequestHandle;
use crate::value::{CachedValue, InferredValue, Returned, Value, ValueRules, ValueType, WeightFn};
pub use first_found::first_found;
pub use response::CachedResponse;
use supplied_value::{AddOutcome, RemoteWriteError, SuppliedValue, add_remote};

/// The policy of a function that declares no reason to overwrite: an entry is stored once and kept.
#[derive(Debug, Clone, Copy)]
pub enum WriteOnce {}

/// The policy of a function that declares `overwrite(reason = "…")`: an entry may be replaced.
#[derive(Debug, Clone, Copy)]
pub enum Overwritable {}

/// A policy under which an entry may be overwritten. Only [`Overwritable`] is one.
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

/// One entry of an annotated function, made by the companion that the option `entry = …` names.
///
/// An entry belongs to the cache that was current when it was made, or to the one that the option
/// `cache = …` names. Its methods never run the function. A memcached server that fails is an error
/// only where a method says so.
///
/// `Debug` shows the digest of the key, never the identifier or a value.
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
    /// The key, or why the arguments could not be encoded.
    key: Result<Arc<[u8]>, KeyError>,
    value_type: &'static ValueType,
    pub(crate) ttl: Option<Duration>,
    pub(crate) weigher: Option<WeightFn>,
    pub(crate) rules: ValueRules<V>,
    policy: PhantomData<fn() -> P>,
}

/// The entry of a function that returns `R`. For `Result<Payment, FetchError>` it is
/// `CacheEntry<Payment, P>`. The signature of a companion names this type.
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
        write!(f, "CacheEntry({})", self.public_key())
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

    /// Returns the key as memcached sees it. It never shows the identifier.
    ///
    /// Needs the feature `memcached`, which is on by default.
    ///
    /// ```
    /// # use cached_core::coordinator_cached;
    /// #[coordinator_cached(name = "entry_key_doc", version = edition, entry = course_entry)]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// let key = course_entry(1, 2).key();
    /// assert_eq!(key.name(), "entry_key_doc");
    /// assert_eq!(key.to_string(), format!("entry_key_doc:{}", key.digest()));
    /// ```
    #[cfg(feature = "memcached")]
    #[must_use]
    pub fn key(&self) -> Key {
        self.public_key()
    }

    fn public_key(&self) -> Key {
        let bytes = self.key.as_deref().unwrap_or_default();
        self.cache.key(self.declaration.name(), bytes)
    }

    /// Returns `None` if the cache is off, the function shares its cache name, or the arguments could
    /// not be encoded. Nothing is then found or stored.
    fn handle(&self) -> Option<EntryHandle> {
        let key = self.key.as_ref().ok()?;
        let key = Arc::clone(key);
        let mut handle =
            EntryHandle::new(&self.cache, self.declaration, key, self.value_type, self.ttl)?;
        handle.weigher = self.weigher.clone();
        Some(handle)
    }

    /// Returns an error if the arguments could not be encoded; otherwise like [`handle`](Self::handle).
    fn handle_to_change(&self) -> Result<Option<EntryHandle>, CacheError> {
        match &self.key {
            Ok(_) => Ok(self.handle()),
            Err(error) => Err(CacheError::Key(error.clone())),
        }
    }

    /// Removes the entry from every tier of this process and from memcached.
    ///
    /// - A fetch that is under way anywhere does not store its result. Callers that wait for such a
    ///   fetch receive its answer, because they asked before.
    /// - Of request tiers only the running request's is cleared.
    /// - Another process keeps its local entry for the rest of its `local_ttl` at most. By default
    ///   that is 5 s for an overwritable entry, and the ttl for a write-once one. A fetch that is under
    ///   way there answers the callers of that process until it ends.
    /// - During a rollout, two builds whose value types differ have an entry each. Both are removed.
    ///
    /// # Errors
    /// - [`CacheError::Remote`] if the memcached server of the key did not confirm the removal. The
    ///   tiers of this process are cleared all the same. This process does not read the entry from
    ///   that server until it has removed it there. Other processes may see the old value until then.
    /// - [`CacheError::Key`] if the arguments could not be encoded as a key.
    ///
    /// # Cancellation
    /// The first poll clears the tiers of this process. If the future is dropped while it waits for
    /// memcached, they are cleared once more, and memcached may or may not have removed the entry.
    ///
    /// ```
    /// # use cached_core::coordinator_cached;
    /// #[coordinator_cached(name = "invalidate_doc", version = edition, entry = course_entry)]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// course(1, 2).await?;
    /// course_entry(1, 2).invalidate().await.expect("memcached answers");
    /// assert!(!course_entry(1, 2).get().await.is_found());
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn invalidate(&self) -> Result<(), CacheError> {
        let Some(handle) = self.handle_to_change()? else {
            return Ok(());
        };
        handle.emit(|entry| Event::Invalidated { entry });
        handle.cache.remove_from_process(&handle.key, None);
        let Some((store, key)) = handle.remote_tier_and_key() else {
            return Ok(());
        };
        // Until memcached has removed the entry, other calls of this process could store it again.
        let _again = RemoveOnDrop(&handle);
        store.remove(&key, None).await.map_err(|error| handle.remote_failed(error))
    }
}

/// Removes the entry from this process's tiers when it is dropped, also by a cancelled call.
struct RemoveOnDrop<'s>(&'s EntryHandle);

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        self.0.cache.remove_from_process(&self.0.key, None);
    }
}

impl EntryHandle {
    fn remote_failed(&self, error: RemoteError) -> CacheError {
        self.report_failure(&error);
        CacheError::Remote(error)
    }

    /// Returns the value that the request tier or the local tier has.
    fn find_in_process(&self) -> Option<(Value, Tier)> {
        if let Some(value) =
            RequestHandle::current().and_then(|r| r.get(self.cache.id(), &self.key))
        {
            self.emit(|entry| Event::Hit { entry, tier: Tier::Request });
            return Some((value, Tier::Request));
        }
        let value = self.local_value()?;
        self.emit(|entry| Event::Hit { entry, tier: Tier::Local });
        Some((value, Tier::Local))
    }

    /// Returns the value of an item that has not expired, and stores it in the local tier.
    fn accept_item(
        &self,
        item: Item<(Value, usize), Permit>,
        fill_token: FillToken,
    ) -> Option<Value> {
        let ttls = self.ttls(None);
        let remaining = item.fresh_for(self.now(), ttls.stale)?;
        let (value, weight) = item.value?;
        let expiry = self.expiry(remaining.min(ttls.local), ttls);
        self.publish(fill_token, WriteMode::Once, &value, weight, expiry);
        run_deferred_drops();
        self.emit(|entry| Event::Hit { entry, tier: Tier::Remote });
        Some(value)
    }
}

impl<V: Clone + Send + Sync + 'static, P> CacheEntry<V, P> {
    /// Looks the entry up in every tier.
    ///
    /// # Errors
    /// There are none: a memcached server that fails, or is late, is a miss.
    ///
    /// # Cancellation
    /// Nothing is changed if the future is dropped.
    ///
    /// ```
    /// # use cached_core::coordinator_cached;
    /// #[coordinator_cached(name = "get_doc", version = edition, entry = course_entry)]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// assert!(!course_entry(1, 2).get().await.is_found(), "the function is not run");
    /// course(1, 2).await?;
    /// assert!(course_entry(1, 2).get().await.is_found());
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn get(&self) -> CachedResponse<V> {
        let Some(handle) = self.handle() else { return CachedResponse::missing() };
        if let Some((value, tier)) = handle.find_in_process() {
            return CachedResponse::found(&value, tier);
        }
        let fill_token = handle.fill_token();
        let Some((store, key)) = handle.remote_tier_and_key() else {
            return CachedResponse::missing();
        };
        let value = match store.read(&key, &handle, IfMissing::Report).await {
            Ok(ReadOutcome::Item(item)) => handle.accept_item(item, fill_token),
            _ => None,
        };
        value.map_or_else(CachedResponse::missing, |value| {
            CachedResponse::found(&value, Tier::Remote)
        })
    }
}

impl<V: CachedValue, P> CacheEntry<V, P> {
    /// Adds the entry if there is none. Returns true if the value was stored.
    ///
    /// An existing entry is kept. An expired value that is kept for `stale_if_error` does not count as
    /// an entry, and neither does another caller's lease: `add` replaces both. A `None`, and a value
    /// that `cache_if` refuses, are not stored.
    ///
    /// # Errors
    /// There are none. If memcached cannot be reached or does not take the value, this process keeps
    /// the value for 5 s at most, and the method returns true.
    ///
    /// # Cancellation
    /// If the future is dropped while it waits for memcached, memcached may or may not have the value,
    /// and this process does not keep it.
    ///
    /// ```
    /// # use cached_core::coordinator_cached;
    /// #[coordinator_cached(name = "add_doc", version = edition, entry = course_entry)]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// assert!(course_entry(1, 2).add("Rust, edition 2".to_owned()).await);
    /// assert!(!course_entry(1, 2).add("Go, edition 2".to_owned()).await, "there is an entry");
    /// assert_eq!(course(1, 2).await?, "Rust, edition 2");
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn add(&self, value: V) -> bool {
        let Some(handle) = self.handle() else { return false };
        if handle.local_value().is_some() {
            return false;
        }
        let Some(supplied) = SuppliedValue::new(&handle, &self.rules, value) else { return false };
        // The token is taken before memcached is written, so that an invalidation after the write
        // keeps the value out of this process.
        let mut fill_token = handle.fill_token();
        let mut local_ttl = supplied.ttls.local;
        let mut is_in_memcached = false;
        if let Some((store, key)) = handle.remote_tier_and_key() {
            match add_remote(&handle, store, &key, &supplied).await {
                AddOutcome::Written(outcome) => {
                    is_in_memcached = outcome != WriteOutcome::NotStored;
                    local_ttl = supplied.local_ttl_after(outcome);
                    // This value replaces those of fetches that began meanwhile, because memcached has
                    // it and none of theirs.
                    handle.assign_read_sequence(&mut fill_token);
                }
                AddOutcome::EntryExists => return false,
                AddOutcome::Failed => local_ttl = supplied.ttls.unconfirmed,
            }
        }
        // Another caller may have filled the local tier meanwhile.
        supplied.publish(&handle, fill_token, WriteMode::Once, local_ttl) || is_in_memcached
    }

    /// Replaces the entry in this process and in memcached.
    ///
    /// - A fetch that is under way anywhere does not store its result over the value.
    /// - Another process keeps its local entry for the rest of its `local_ttl` at most, 5 s by default.
    /// - A `None` that is not cached, or a value that `cache_if` refuses, invalidates the entry.
    /// - A function that declares no reason to overwrite has no such method: the call does not compile.
    ///
    /// # Errors
    /// - [`CacheError::Remote`] if memcached did not confirm the write. It may serve the old value until
    ///   that expires, and this process keeps the new one for 5 s at most.
    /// - [`CacheError::NotStorable`] if the value cannot be stored in memcached. The old value is removed.
    /// - [`CacheError::Key`] if the arguments could not be encoded as a key.
    ///
    /// # Cancellation
    /// If the future is dropped while it waits for memcached, memcached has the old or the new value,
    /// and this process keeps neither.
    ///
    /// ```
    /// # use cached_core::coordinator_cached;
    /// #[coordinator_cached(
    ///     name = "overwrite_doc",
    ///     overwrite(reason = "the teacher changes the title"),
    ///     entry = title_entry,
    /// )]
    /// async fn title(course: u32) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {course}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// title(1).await?;
    /// title_entry(1).overwrite("Rust".to_owned()).await.expect("memcached answers");
    /// assert_eq!(title(1).await?, "Rust");
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use = "nothing is replaced until the future is awaited"]
    pub fn overwrite(
        &self,
        value: V,
    ) -> Pin<Box<dyn Future<Output = Result<(), CacheError>> + Send + '_>>
    where
        P: MayOverwrite,
    {
        // The box hides the opaque type. The compiler would check the bound once more wherever that
        // is named, and report one mistake three times.
        Box::pin(self.replace(value))
    }

    async fn replace(&self, value: V) -> Result<(), CacheError> {
        let Some(handle) = self.handle_to_change()? else { return Ok(()) };
        let Some(supplied) = SuppliedValue::new(&handle, &self.rules, value) else {
            return self.invalidate().await;
        };
        handle.emit(|entry| Event::Overwritten { entry });
        let fill_token = handle.cache.remove_from_process(&handle.key, None);
        let Some((store, key)) = handle.remote_tier_and_key() else {
            let local_ttl = supplied.ttls.local;
            if let Some(fill_token) = fill_token {
                supplied.publish(&handle, fill_token, WriteMode::Replace, local_ttl);
            }
            return Ok(());
        };
        let if_dropped = RemoveOnDrop(&handle);
        let frame = supplied.seal(&handle);
        let began = Instant::now();
        let mut written = match frame {
            Ok(frame) => supplied.overwrite(&handle, store, &key, frame).await,
            Err(error) => Err(error),
        };
        if !matches!(written, Ok(WriteOutcome::Stored | WriteOutcome::StoredBriefly)) {
            // A write that failed or was refused may have left the old value.
            let removed = store.remove(&key, Some(began)).await.map_err(RemoteWriteError::Remote);
            // The first of two errors says more.
            if !matches!(written, Err(RemoteWriteError::Remote(_))) {
                written = removed.and(written);
            }
        }
        std::mem::forget(if_dropped);
        // Other calls of this process may have stored the old value meanwhile, so it is removed again.
        // There is no token if somebody else replaced the entry too: memcached then says which value
        // stays.
        let fill_token = handle.cache.remove_from_process(&handle.key, fill_token);
        let local_ttl = match written {
            Ok(outcome) => supplied.local_ttl_after(outcome),
            Err(_) => supplied.ttls.unconfirmed,
        };
        if let Some(fill_token) = fill_token {
            supplied.publish(&handle, fill_token, WriteMode::Replace, local_ttl);
        }
        match written {
            Ok(_) => Ok(()),
            Err(RemoteWriteError::NotStorable(why)) => Err(CacheError::NotStorable(why)),
            Err(RemoteWriteError::Remote(error)) => Err(handle.remote_failed(error)),
        }
    }
}
