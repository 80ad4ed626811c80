//! Defines [`CacheEntry`]. A program uses it to look up, add, invalidate or overwrite an entry of
//! an annotated function.
//!
//! For the option `entry = …`, the attribute generates a *companion*. This function takes the
//! arguments of the annotated function and returns the `CacheEntry`.

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
use crate::round_trip::RoundTripCheck;
use crate::tier::Tier;
use crate::tier::local::{FillToken, WriteMode, run_deferred_drops};
use crate::tier::remote::{
    IfMissing, Item, Permit, ReadOutcome, RemoteError, RemoteStore, WriteOutcome,
};
use crate::tier::request::RequestHandle;
use crate::value::{InferredValue, Returned, Value, ValueOperations, ValueRules, WeightFn};
pub use first_found::first_found;
pub use response::CachedResponse;
use supplied_value::{AddOutcome, RemoteWriteError, SuppliedValue, add_remote};

/// The policy of a function that declares no reason to overwrite: a stored entry is not replaced.
#[derive(Debug, Clone, Copy)]
pub enum WriteOnce {}

/// The policy of a function that declares `overwrite(reason = "…")`: an entry may be replaced.
#[derive(Debug, Clone, Copy)]
pub enum Overwritable {}

/// A policy under which entries may be overwritten. Only [`Overwritable`] implements this trait.
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

/// A handle to the cache entry for one key of an annotated function. The entry might have no value.
///
/// The option `entry = …` names a function that the attribute generates, the *companion*. The
/// companion takes the arguments of the annotated function and returns the entry.
///
/// The entry belongs to the cache that the option `cache = …` names, or else to the cache that was
/// current when the companion was called. The methods never run the annotated function. A failing
/// memcached server is an error only where the documentation of a method says so.
///
/// `Debug` shows the digest of the key, but never the arguments or a value.
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
    /// The encoded key, or the reason why the arguments could not be encoded.
    key: Result<Arc<[u8]>, KeyError>,
    value_operations: &'static ValueOperations,
    pub(crate) ttl: Option<Duration>,
    pub(crate) weigher: Option<WeightFn>,
    pub(crate) round_trip_check: RoundTripCheck,
    pub(crate) rules: ValueRules<'static, V>,
    policy: PhantomData<fn() -> P>,
}

/// The [`CacheEntry`] of a function that returns `R`. For `Result<Payment, FetchError>`, this type
/// is `CacheEntry<Payment, P>`. Companions return this type.
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
        let (cache, key) = (self.cache.clone(), self.key.clone());
        let (weigher, rules) = (self.weigher.clone(), self.rules.clone());
        CacheEntry { cache, key, weigher, rules, ..*self }
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
        value_operations: &'static ValueOperations,
    ) -> CacheEntry<V, P> {
        CacheEntry {
            cache,
            declaration,
            key,
            value_operations,
            ttl: None,
            weigher: None,
            round_trip_check: RoundTripCheck::default(),
            rules: ValueRules::NONE,
            policy: PhantomData,
        }
    }

    /// Returns the key under which memcached stores the entry. The key does not show the arguments.
    ///
    /// This method needs the feature `memcached`, which is on by default.
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

    /// Returns `None` if the cache is off, the function is not cached, or the arguments could not
    /// be encoded. Lookups then find nothing, and changes do nothing. A function is not cached if,
    /// for example, another function has the same cache name.
    fn handle(&self) -> Option<EntryHandle> {
        let key = self.key.as_ref().ok()?;
        let key = Arc::clone(key);
        let mut handle =
            EntryHandle::new(&self.cache, self.declaration, key, self.value_operations, self.ttl)?;
        handle.weigher = self.weigher.clone();
        handle.round_trip_check = self.round_trip_check;
        Some(handle)
    }

    /// Returns the [`handle`](Self::handle) for a change of the entry.
    ///
    /// # Errors
    /// The arguments could not be encoded.
    fn handle_to_change(&self) -> Result<Option<EntryHandle>, CacheError> {
        match &self.key {
            Ok(_) => Ok(self.handle()),
            Err(error) => Err(CacheError::Key(error.clone())),
        }
    }

    /// Removes the entry from the tiers of this process and from memcached.
    ///
    /// - A fetch that is already running does not store its result in memcached, and a fetch of
    ///   this process does not store its result at all. Callers that already wait for the fetch
    ///   still receive its result.
    /// - The current [`RequestScope`](crate::RequestScope) forgets its answer. Other requests keep
    ///   the answers that they have.
    /// - Another process can keep its local entry for up to the `local_ttl`. The default is 5 s for
    ///   an overwritable entry, and the ttl for a write-once entry. If the other process is already
    ///   fetching the entry, its callers might receive the result of that fetch until 5 s after the
    ///   fetch ends.
    /// - During a rollout, two builds with different value types store separate entries for the
    ///   same key. Both entries are removed.
    ///
    /// # Errors
    /// - [`CacheError::Remote`] if the memcached server of the key did not confirm the removal. The
    ///   tiers of this process are cleared in spite of the error. This process stops reading the
    ///   entry from the server until the server has removed it. Until then, other processes might
    ///   read the old value.
    /// - [`CacheError::Key`] if the arguments could not be encoded as a key.
    ///
    /// # Cancellation
    /// The first poll clears the tiers of this process. If the future is dropped while it waits for
    /// memcached, the drop clears these tiers once more. memcached may or may not have removed the
    /// entry.
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
        // Until memcached has removed the entry, another call of this process may read the old
        // value from memcached and store the value in the local tier.
        let _remove_again = RemoveOnDrop::new(&handle.cache, &handle.key);
        store.remove(&key, None).await.map_err(|error| handle.remote_failed(error))
    }
}

/// A guard whose drop removes an entry from the tiers of this process. A change to the entry holds
/// the guard, so the entry is also removed if the change is cancelled.
pub(crate) struct RemoveOnDrop<'s> {
    cache: &'s Cache,
    key: &'s Arc<[u8]>,
}

impl<'s> RemoveOnDrop<'s> {
    pub(crate) fn new(cache: &'s Cache, key: &'s Arc<[u8]>) -> RemoveOnDrop<'s> {
        RemoveOnDrop { cache, key }
    }
}

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        self.cache.remove_from_process(self.key, None);
    }
}

impl EntryHandle {
    fn remote_failed(&self, error: RemoteError) -> CacheError {
        self.report_failure(&error);
        CacheError::Remote(error)
    }

    /// Returns the value from the request tier or the local tier, together with the tier.
    fn find_in_process(&self) -> Option<(Value, Tier)> {
        if let Some(value) =
            RequestHandle::current().and_then(|r| r.get(self.cache.id(), &self.key))
        {
            self.report_hit(Tier::Request);
            return Some((value, Tier::Request));
        }
        let value = self.local_value()?;
        self.report_hit(Tier::Local);
        Some((value, Tier::Local))
    }

    /// Stores the value of an item in the local tier, and returns the value. (An item is the remote
    /// tier's copy of the entry.) Returns `None` if the item has expired or has no value that this
    /// build can read.
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
        self.report_hit(Tier::Remote);
        Some(value)
    }
}

impl<V: Clone + Send + Sync + 'static, P> CacheEntry<V, P> {
    /// Looks up the entry in the request tier, the local tier and memcached.
    ///
    /// # Errors
    /// None. If a memcached server fails or does not answer in time, the entry counts as missing.
    ///
    /// # Cancellation
    /// Dropping the future changes nothing.
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

impl<V: Send + Sync + 'static, P> CacheEntry<V, P> {
    /// Stores a value if neither the local tier nor memcached has a value for this entry. Returns
    /// true if the value was stored.
    ///
    /// An expired value that is kept for `stale_if_error` does not count as a value of the entry,
    /// so `add` replaces the expired value. `add` also stores the value if another caller is
    /// fetching the entry. A value that `cache_if` refuses is not stored. A `None` is stored only
    /// if the function declares `none_ttl`.
    ///
    /// # Errors
    /// None. If memcached cannot be reached or refuses the value, this process keeps the value for
    /// at most 5 s, and the method returns true.
    ///
    /// # Cancellation
    /// If the future is dropped while it waits for memcached, this process does not store the
    /// value. memcached may or may not have stored the value.
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
        // The fill token permits this call to store a value in the local tier, and is out of date
        // once the entry is changed. It must be taken before the write to memcached. Otherwise an
        // invalidation during the write would go unnoticed.
        let mut fill_token = handle.fill_token();
        let mut local_ttl = supplied.ttls.local;
        let mut is_in_memcached = false;
        if let Some((store, key)) = handle.remote_tier_and_key() {
            match add_remote(&handle, store, &key, &supplied).await {
                AddOutcome::Written(outcome) => {
                    is_in_memcached = outcome != WriteOutcome::NotStored;
                    local_ttl = supplied.local_ttl_after(outcome);
                    // memcached has stored this value. If a fetch that began during the write
                    // returns a different value, the local tier must prefer this one.
                    handle.assign_read_sequence(&mut fill_token);
                }
                AddOutcome::EntryExists => return false,
                AddOutcome::Failed => local_ttl = supplied.ttls.unconfirmed,
            }
        }
        // If another caller has filled the local tier during the write, that caller's entry stays.
        supplied.publish(&handle, fill_token, WriteMode::Once, local_ttl) || is_in_memcached
    }

    /// Replaces the entry in the tiers of this process and in memcached.
    ///
    /// - A fetch that is already running does not replace the new value in memcached or in this
    ///   process.
    /// - Another process can keep its local entry for up to the `local_ttl`, which is 5 s by
    ///   default. If the other process is already fetching the entry, its callers might receive the
    ///   result of that fetch until 5 s after the fetch ends.
    /// - If `cache_if` refuses the value, the entry is invalidated instead. A `None` also
    ///   invalidates the entry, unless the function declares `none_ttl`.
    /// - If the function declares no reason to overwrite, a call of `overwrite` does not compile.
    ///
    /// # Errors
    /// - [`CacheError::Remote`] if memcached did not confirm the write. memcached might serve the
    ///   old value until that value expires. This process keeps the new value for at most 5 s.
    /// - [`CacheError::NotStorable`] if memcached cannot store the value. The old value is removed,
    ///   and this process keeps the new value for at most 5 s.
    /// - [`CacheError::Key`] if the arguments could not be encoded as a key.
    ///
    /// # Cancellation
    /// If the future is dropped while it waits for memcached, the tiers of this process have no
    /// value. memcached then has the old value, the new value or no value.
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
        // Without the box, the compiler would check the bound on `P` wherever the opaque future
        // type is used, and report one mistake three times.
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
        let remove_if_cancelled = RemoveOnDrop::new(&handle.cache, &handle.key);
        let frame = supplied.encode_frame(&handle);
        let began = Instant::now();
        let mut written = match frame {
            Ok(frame) => supplied.overwrite(&handle, store, &key, frame).await,
            Err(error) => Err(error),
        };
        if !matches!(written, Ok(WriteOutcome::Stored | WriteOutcome::StoredBriefly)) {
            // After a write that failed or was refused, memcached may still have the old value.
            let removed = store.remove(&key, Some(began)).await.map_err(RemoteWriteError::Remote);
            // If the write and the removal both fail, the error of the write says more.
            if !matches!(written, Err(RemoteWriteError::Remote(_))) {
                written = removed.and(written);
            }
        }
        std::mem::forget(remove_if_cancelled);
        // Another call of this process might have stored the old value during the write, so the
        // entry is removed again. If another caller has changed the entry during the write,
        // `remove_from_process` returns no token, and this process stores nothing. Later calls then
        // read the value that memcached has.
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
