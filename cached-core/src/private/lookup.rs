//! The part of a cache lookup that is inlined into an annotated function.
//!
//! A [`LookupBuilder`] collects the arguments of a call. The builder becomes a [`Lookup`], and the
//! lookup becomes a [`HashedLookup`] when the key is hashed. For most hits in the request tier or
//! the local tier the inlined code returns the value. In all other cases the call goes on in
//! [`slow_path`](super::slow_path), which is compiled once and not for each function.
//!
//! A *companion* is the function that the option `entry = NAME` generates. A companion takes the
//! arguments of the annotated function and returns their cache entry.

use std::any::type_name;
use std::marker::PhantomData;
use std::sync::Arc;

use super::answer::Call;
use super::checked_value::{AllTiers, LocalTiers};
use super::entry_builder::EntryBuilder;
use super::key_arguments::{DeclaredFunction, KeyArguments};
use super::slow_path::{HitWriter, look_up_by_bytes};
use crate::cache::Cache;
use crate::current::process_cache_if_unscoped;
use crate::entry::CacheEntry;
use crate::key::{KeyBytes, KeyHeader, KeyParts};
use crate::round_trip::{RoundTripCheck, RoundTripFns};
use crate::tier::local::index::IndexGuard;
use crate::tier::request::OutsideRequestGuard;
use crate::value::{
    ErrorSharing, InferredValue, ReturnOperations, Returned, Value, ValueOperations, WholeValue,
    has_trivial_clone,
};

/// A builder for the lookup of a call, or for the entry that a companion returns.
///
/// `Mode` is a marker type: [`InferredValue`] or, for a function with the option `infallible`,
/// [`WholeValue`]. `Tiers` is `AllTiers` or, for a function with the option `remote = false`,
/// `LocalTiers`.
pub struct LookupBuilder<'k, R, V, Mode, Tiers, Parts, Constants> {
    function: DeclaredFunction,
    /// The parts of the key: the identifier and the version, as a pair.
    parts: Parts,
    /// The names of the type arguments; see [`type_arguments`](Self::type_arguments).
    own_types: &'static str,
    /// The const arguments, and some type names; see [`constants`](Self::constants).
    constants: Constants,
    errors: ErrorSharing<R>,
    /// `None` stands for the current cache.
    cache: Option<&'k Cache>,
    types: PhantomData<(V, Mode, Tiers)>,
}

/// Starts the builder for an annotated function or for its companion.
///
/// The trait bounds on the value's type are not here. The methods that finish the builder have
/// them; see the module `checked_value`.
#[cfg_attr(not(debug_assertions), inline(always))]
pub fn lookup<'k, R, P>(
    errors: ErrorSharing<R>,
    function: DeclaredFunction,
    parts: P,
) -> LookupBuilder<'k, R, R::Value, InferredValue, AllTiers, P, ()>
where
    R: Returned<InferredValue>,
    R::Value: Sized,
{
    LookupBuilder::new(errors, function, parts)
}

/// Starts the builder for a function with the option `infallible`, or for its companion.
#[cfg_attr(not(debug_assertions), inline(always))]
pub fn lookup_whole<'k, R, P>(
    errors: ErrorSharing<R>,
    function: DeclaredFunction,
    parts: P,
) -> LookupBuilder<'k, R, R, WholeValue, AllTiers, P, ()> {
    LookupBuilder::new(errors, function, parts)
}

/// Starts the builder for a function with the option `remote = false`, or for its companion.
/// `ValueWeigher` is the type that weighs the values.
#[cfg_attr(not(debug_assertions), inline(always))]
pub fn lookup_local<'k, R: Returned<Mode>, Mode, ValueWeigher, P>(
    errors: ErrorSharing<R>,
    _: ValueWeigher,
    function: DeclaredFunction,
    parts: P,
) -> LookupBuilder<'k, R, R::Value, Mode, LocalTiers<ValueWeigher>, P, ()> {
    LookupBuilder::new(errors, function, parts)
}

impl<R, V, Mode, Tiers, Parts> LookupBuilder<'_, R, V, Mode, Tiers, Parts, ()> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn new(errors: ErrorSharing<R>, function: DeclaredFunction, parts: Parts) -> Self {
        let types = PhantomData;
        LookupBuilder { function, parts, own_types: "", constants: (), errors, cache: None, types }
    }
}

impl<'k, R, V, Mode, Tiers, Parts, Constants>
    LookupBuilder<'k, R, V, Mode, Tiers, Parts, Constants>
{
    /// Sets the cache that the option `cache` names. `None` stands for the current cache.
    #[must_use]
    pub fn cache(
        self,
        cache: Option<&'k Cache>,
    ) -> LookupBuilder<'k, R, V, Mode, Tiers, Parts, Constants> {
        LookupBuilder { cache, ..self }
    }

    /// Adds the type arguments of the function, without those of the `impl` around it. `Arguments`
    /// is a tuple with a `PhantomData` for each of them.
    #[must_use]
    pub fn type_arguments<Arguments>(
        self,
    ) -> LookupBuilder<'k, R, V, Mode, Tiers, Parts, Constants> {
        LookupBuilder { own_types: type_name::<Arguments>(), ..self }
    }

    /// Adds the function's own const arguments, and the type names of its `impl Trait` arguments.
    #[must_use]
    pub fn constants<NewConstants: KeyParts>(
        self,
        constants: NewConstants,
    ) -> LookupBuilder<'k, R, V, Mode, Tiers, Parts, NewConstants> {
        let LookupBuilder { function, parts, own_types, errors, cache, types, .. } = self;
        LookupBuilder { function, parts, own_types, constants, errors, cache, types }
    }
}

impl<'k, R, V, Mode, Tiers, Identifier: KeyParts, Version: KeyParts, Constants: KeyParts>
    LookupBuilder<'k, R, V, Mode, Tiers, (Identifier, Version), Constants>
{
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn arguments(&self) -> KeyArguments<(Identifier, Version), Constants> {
        KeyArguments::new(self.function, self.parts, self.own_types, self.constants)
    }

    /// Finishes the builder for a call of the function.
    ///
    /// The [`Lookup`] contains function pointers for the operations on the return type, so later
    /// methods need no bounds on the return type. If they had such bounds, the compiler would
    /// report a missing bound once for each method.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn begin_with(
        self,
        value_operations: &'static ValueOperations,
    ) -> Lookup<'k, R, V, (Identifier, Version), Constants>
    where
        R: Returned<Mode, Value = V>,
        V: Clone + Send + Sync + 'static,
    {
        Lookup {
            arguments: self.arguments(),
            cache: self.cache,
            downcast: |value| value.downcast_ref(),
            to_returned: clone_to_returned::<R, Mode>,
            returns: ReturnOperations::new::<Mode>(self.errors, value_operations),
        }
    }

    /// Finishes the builder for a companion. The functions in `round_trip` compare a value with the
    /// copy that memcached would return.
    pub(super) fn entry_with<Policy>(
        self,
        value_operations: &'static ValueOperations,
        round_trip: RoundTripFns,
    ) -> EntryBuilder<V, Policy> {
        let cache = self.cache.cloned().unwrap_or_else(Cache::current);
        let arguments = self.arguments();
        let mut bytes = KeyBytes::default();
        let header = arguments.header();
        let key = arguments.encode(header, &mut bytes).map(|()| Arc::from(&*bytes));
        let mut entry = CacheEntry::new(cache, arguments.declaration, key, value_operations);
        entry.round_trip_check = RoundTripCheck::from(round_trip);
        EntryBuilder(entry)
    }
}

/// Clones a cached value and converts the clone into the function's return value.
///
/// This is a function and not a closure, because a closure cannot be marked `inline(always)`. The
/// compiler writes the clone directly to the place of the return value only if the function is
/// inlined.
#[cfg_attr(not(debug_assertions), inline(always))]
fn clone_to_returned<R: Returned<Mode, Value: Clone>, Mode>(value: &R::Value) -> R {
    R::from_cached(value.clone())
}

/// The cache that a call uses. The annotated function keeps this `CallCache` in a local
/// variable, so that it can borrow a cached value from the cache.
pub enum CallCache<'k> {
    /// The cache that the option `cache` names, or the cache of the process.
    Borrowed(&'k Cache),
    /// The current cache of a program that uses [`Cache::scope`].
    Owned(Cache),
}

impl CallCache<'_> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn get(&self) -> &Cache {
        match self {
            CallCache::Borrowed(cache) => cache,
            CallCache::Owned(cache) => cache,
        }
    }
}

/// The lookup of a call before its key is hashed.
pub struct Lookup<'k, R, V, Parts, Constants> {
    arguments: KeyArguments<Parts, Constants>,
    cache: Option<&'k Cache>,
    downcast: fn(&Value) -> Option<&V>,
    to_returned: fn(&V) -> R,
    returns: ReturnOperations<R, V>,
}

impl<'k, R, V, Identifier: KeyParts, Version: KeyParts, Constants: KeyParts>
    Lookup<'k, R, V, (Identifier, Version), Constants>
{
    /// Returns the cache that this call uses.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn current_cache(&self) -> CallCache<'k> {
        match self.cache.or_else(process_cache_if_unscoped) {
            Some(cache) => CallCache::Borrowed(cache),
            None => CallCache::Owned(Cache::current()),
        }
    }

    /// Hashes the key if the cache is enabled.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn hash_key<'c>(
        self,
        current: &'c CallCache<'_>,
    ) -> HashedLookup<'c, R, V, (Identifier, Version), Constants> {
        let Lookup { arguments, downcast, to_returned, returns, .. } = self;
        let cache = current.get();
        let header = if cache.is_enabled() { arguments.header() } else { None };
        HashedLookup { header, arguments, cache, downcast, to_returned, returns }
    }
}

/// A clone of the `Arc` in which the local tier holds a value. The value is found through an
/// `IndexGuard`, and the clone keeps the value alive after that guard is dropped.
pub struct OwnedLocalValue(Value);

/// The lookup of a call after its key is hashed. The header is `None` if the cache is disabled or
/// the key cannot be hashed. The call then does not use the cache.
///
/// To keep every field in a register on a hit, no method may pass `self` by reference to a function
/// that is not inlined: the compiler would then write the whole lookup to memory.
pub struct HashedLookup<'c, R, V, Parts, Constants> {
    arguments: KeyArguments<Parts, Constants>,
    cache: &'c Cache,
    header: Option<KeyHeader>,
    downcast: fn(&Value) -> Option<&V>,
    to_returned: fn(&V) -> R,
    returns: ReturnOperations<R, V>,
}

impl<R, V, Identifier: KeyParts, Version: KeyParts, Constants: KeyParts>
    HashedLookup<'_, R, V, (Identifier, Version), Constants>
{
    /// Takes the values of the current request out of the thread-local variable that holds them.
    /// Returns `None` outside of a request.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn take_request_values(&self) -> Option<OutsideRequestGuard> {
        OutsideRequestGuard::take()
    }

    /// Looks the key up among the values of the request.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn find_in_request<'h>(&self, values: &'h OutsideRequestGuard) -> Option<&'h V> {
        let header = self.header?;
        let value = values.find(self.cache.id(), &self.arguments.with_header(header))?;
        let value = (self.downcast)(value)?;
        self.cache.counters_at(header.index()).request_hits.add();
        Some(value)
    }

    /// Returns a guard with which the local tier can be read. Returns `None` if the function does
    /// not use the local tier, if a hit might have to start a refresh, or if the thread is ending.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn read_local_tier(&self) -> Option<IndexGuard<'_>> {
        if self.arguments.declaration.local_hit_is_final() {
            self.cache.local().index_guard()
        } else {
            None
        }
    }

    /// Looks the key up in the local tier.
    ///
    /// Returns a borrow of the value only if cloning a `V` runs no user code. For any other type
    /// the method puts the value into `owned` and returns `None`. The caller then drops the guard
    /// before it clones the value, because a slow `Clone` under the guard would delay the freeing
    /// of memory.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn borrow_or_own_hit<'h>(
        &self,
        guard: &'h IndexGuard<'_>,
        owned: &mut Option<OwnedLocalValue>,
    ) -> Option<&'h V> {
        let header = self.header?;
        let value = self.cache.local().find(guard, &self.arguments.with_header(header))?;
        if !has_trivial_clone::<V>() {
            *owned = Some(OwnedLocalValue(Arc::clone(value)));
            return None;
        }
        self.count_local_hit(header, value)
    }

    /// Returns a borrow of the value that [`borrow_or_own_hit`](Self::borrow_or_own_hit) put into
    /// `owned`.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn borrow_owned_hit<'h>(&self, owned: &'h Option<OwnedLocalValue>) -> Option<&'h V> {
        self.count_local_hit(self.header?, &owned.as_ref()?.0)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn count_local_hit<'h>(&self, header: KeyHeader, value: &'h Value) -> Option<&'h V> {
        let value = (self.downcast)(value)?;
        self.cache.counters_at(header.index()).local_hits.add();
        Some(value)
    }

    /// Clones the value and converts the clone into the function's return value.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn to_returned(&self, value: &V) -> R {
        (self.to_returned)(value)
    }

    /// Encodes the key and looks it up in this process again. If the lookup finds a value, puts the
    /// return value into `hit`. Otherwise returns the call that must be completed.
    ///
    /// The code that the attribute generates calls this method before it creates the future of the
    /// function's body. A hit then does not have to move that future.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn look_up_or_begin<'p>(self, hit: &mut Option<R>) -> Option<Call<'p, R, V>> {
        let HashedLookup { arguments, cache, header, returns, .. } = self;
        look_up_or_begin(arguments, cache, header, returns, hit)
    }
}

#[inline(never)]
fn look_up_or_begin<'p, R, V, Identifier: KeyParts, Version: KeyParts, Constants: KeyParts>(
    arguments: KeyArguments<(Identifier, Version), Constants>,
    cache: &Cache,
    header: Option<KeyHeader>,
    returns: ReturnOperations<R, V>,
    hit: &mut Option<R>,
) -> Option<Call<'p, R, V>> {
    let rebuild_into = returns.rebuild_into;
    let write_hit: HitWriter<'_> = &mut |value| rebuild_into(value, hit);
    let encode = |bytes: &mut KeyBytes| arguments.encode(header, bytes);
    let phase = look_up_by_bytes(
        cache,
        arguments.declaration,
        &encode,
        returns.value_operations,
        write_hit,
    );
    phase.map(|phase| Call::new(returns, phase))
}
