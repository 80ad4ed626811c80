//! The lookup that is inlined into an annotated function.
//!
//! A [`LookupBuilder`] collects the arguments of a call. It becomes a [`Lookup`], and when the key is
//! hashed, a [`HashedLookup`]. A hit in the request tier or the local tier ends there. Everything after
//! that is compiled once for all functions: first the [`slow_path`](super::slow_path), then the call.

use std::any::type_name;
use std::marker::PhantomData;
use std::sync::Arc;

use super::answer::Call;
use super::entry_builder::EntryBuilder;
use super::key_arguments::{DeclaredFunction, KeyArguments};
use super::slow_path::{HitWriter, look_up_by_bytes};
use crate::cache::Cache;
use crate::current::process_cache_if_unscoped;
use crate::entry::CacheEntry;
use crate::key::{KeyBytes, KeyHeader, KeyParts};
use crate::tier::local::index::IndexGuard;
use crate::tier::request::TakenRequestValues;
use crate::value::{
    CachedValue, ErrorSharing, InferredValue, ReturnType, Returned, Value, ValueType, WholeValue,
    has_trivial_clone,
};

/// Collects which entry a call asks for, and in which cache. `Mode` is the mode of the return type.
pub struct LookupBuilder<'k, R, V, Mode, Parts, Constants> {
    function: DeclaredFunction,
    parts: Parts,
    own_types: &'static str,
    constants: Constants,
    errors: ErrorSharing<R>,
    cache: Option<&'k Cache>,
    types: PhantomData<(V, Mode)>,
}

/// Starts the lookup of a function or of its companion.
///
/// This one call carries the bounds on the return type, and is spanned at that type. The function and
/// its companion both make it, so the compiler reports a missing bound once.
#[cfg_attr(not(debug_assertions), inline(always))]
pub fn lookup<'k, R, P>(
    errors: ErrorSharing<R>,
    function: DeclaredFunction,
    parts: P,
) -> LookupBuilder<'k, R, R::Value, InferredValue, P, ()>
where
    R: Returned<InferredValue>,
    R::Value: CachedValue,
{
    LookupBuilder::new(errors, function, parts)
}

/// Starts the lookup of a function that is declared `infallible`.
#[cfg_attr(not(debug_assertions), inline(always))]
pub fn lookup_whole<'k, R: CachedValue, P>(
    errors: ErrorSharing<R>,
    function: DeclaredFunction,
    parts: P,
) -> LookupBuilder<'k, R, R, WholeValue, P, ()> {
    LookupBuilder::new(errors, function, parts)
}

impl<R, V, Mode, Parts> LookupBuilder<'_, R, V, Mode, Parts, ()> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn new(errors: ErrorSharing<R>, function: DeclaredFunction, parts: Parts) -> Self {
        let types = PhantomData;
        LookupBuilder { function, parts, own_types: "", constants: (), errors, cache: None, types }
    }
}

impl<'k, R, V, Mode, Parts, Constants> LookupBuilder<'k, R, V, Mode, Parts, Constants> {
    /// Sets the cache that the option `cache` names.
    #[must_use]
    pub fn cache(self, cache: &'k Cache) -> LookupBuilder<'k, R, V, Mode, Parts, Constants> {
        LookupBuilder { cache: Some(cache), ..self }
    }

    /// Adds the function's own type arguments, as a tuple of `PhantomData`.
    #[must_use]
    pub fn type_arguments<Arguments>(self) -> LookupBuilder<'k, R, V, Mode, Parts, Constants> {
        LookupBuilder { own_types: type_name::<Arguments>(), ..self }
    }

    /// Adds the function's own const arguments.
    #[must_use]
    pub fn constants<NewConstants: KeyParts>(
        self,
        constants: NewConstants,
    ) -> LookupBuilder<'k, R, V, Mode, Parts, NewConstants> {
        let LookupBuilder { function, parts, own_types, errors, cache, types, .. } = self;
        LookupBuilder { function, parts, own_types, constants, errors, cache, types }
    }
}

impl<'k, R, V, Mode, Identifier: KeyParts, Version: KeyParts, Constants: KeyParts>
    LookupBuilder<'k, R, V, Mode, (Identifier, Version), Constants>
{
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn arguments(&self) -> KeyArguments<(Identifier, Version), Constants> {
        KeyArguments::new(self.function, self.parts, self.own_types, self.constants)
    }

    /// Finishes the builder for a call of the function.
    ///
    /// Only this method has the bounds on the return type; the function pointers carry them to the others.
    /// Each method with these bounds would repeat the compiler's error.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn begin(self) -> Lookup<'k, R, V, (Identifier, Version), Constants>
    where
        R: Returned<Mode, Value = V>,
        V: CachedValue,
    {
        Lookup {
            arguments: self.arguments(),
            cache: self.cache,
            downcast: |value| value.downcast_ref(),
            to_returned: clone_to_returned::<R, Mode>,
            returns: ReturnType::new::<Mode>(self.errors),
        }
    }

    /// Starts the entry of the companion.
    pub fn entry<Policy>(self) -> EntryBuilder<V, Policy>
    where
        V: CachedValue,
    {
        let cache = self.cache.cloned().unwrap_or_else(Cache::current);
        let arguments = self.arguments();
        let mut bytes = KeyBytes::default();
        let header = arguments.header();
        let key = arguments.encode(header, &mut bytes).map(|()| Arc::from(&*bytes));
        let value_type = ValueType::of::<V>();
        EntryBuilder(CacheEntry::new(cache, arguments.declaration, key, value_type))
    }
}

/// Converts a cached value into what the function returns. It is named, so that it can be inlined by
/// force: only then is the clone written where the function returns it.
#[cfg_attr(not(debug_assertions), inline(always))]
fn clone_to_returned<R: Returned<Mode, Value: CachedValue>, Mode>(value: &R::Value) -> R {
    R::from_cached(value.clone())
}

/// The cache that a call uses: a local of the annotated function, which a hit borrows from.
pub enum CurrentCache<'k> {
    /// The cache of the option `cache`, or the process's.
    Borrowed(&'k Cache),
    /// The running scope's.
    Owned(Cache),
}

impl CurrentCache<'_> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn get(&self) -> &Cache {
        match self {
            CurrentCache::Borrowed(cache) => cache,
            CurrentCache::Owned(cache) => cache,
        }
    }
}

/// The lookup that a call begins with.
pub struct Lookup<'k, R, V, Parts, Constants> {
    arguments: KeyArguments<Parts, Constants>,
    cache: Option<&'k Cache>,
    downcast: fn(&Value) -> Option<&V>,
    to_returned: fn(&V) -> R,
    returns: ReturnType<R, V>,
}

impl<'k, R, V, Identifier: KeyParts, Version: KeyParts, Constants: KeyParts>
    Lookup<'k, R, V, (Identifier, Version), Constants>
{
    /// Returns the cache that this call uses.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn current_cache(&self) -> CurrentCache<'k> {
        match self.cache.or_else(process_cache_if_unscoped) {
            Some(cache) => CurrentCache::Borrowed(cache),
            None => CurrentCache::Owned(Cache::current()),
        }
    }

    /// Hashes the key, unless the cache is disabled.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn hash_key<'c>(
        self,
        current: &'c CurrentCache<'_>,
    ) -> HashedLookup<'c, R, V, (Identifier, Version), Constants> {
        let Lookup { arguments, downcast, to_returned, returns, .. } = self;
        let cache = current.get();
        let header = if cache.is_enabled() { arguments.header() } else { None };
        HashedLookup { header, arguments, cache, downcast, to_returned, returns }
    }
}

/// A value of the local tier with a reference count of its own.
pub struct OwnedLocalValue(Value);

/// A lookup whose key is hashed. Without a hash the call is not cached.
///
/// Each field stays in a register on a hit. So no method may pass `self` by reference to a function
/// that is not inlined: that would write the whole lookup to memory.
pub struct HashedLookup<'c, R, V, Parts, Constants> {
    arguments: KeyArguments<Parts, Constants>,
    cache: &'c Cache,
    header: Option<KeyHeader>,
    downcast: fn(&Value) -> Option<&V>,
    to_returned: fn(&V) -> R,
    returns: ReturnType<R, V>,
}

impl<R, V, Identifier: KeyParts, Version: KeyParts, Constants: KeyParts>
    HashedLookup<'_, R, V, (Identifier, Version), Constants>
{
    /// Takes the values of the running request, if there is one.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn take_request_values(&self) -> Option<TakenRequestValues> {
        TakenRequestValues::take()
    }

    /// Finds the value among the values of the request.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn find_in_request<'h>(&self, values: &'h TakenRequestValues) -> Option<&'h V> {
        let header = self.header?;
        let value = values.find(self.cache.id(), &self.arguments.with_header(header))?;
        let value = (self.downcast)(value)?;
        self.cache.counters_at(header.index()).request_hits.add();
        Some(value)
    }

    /// Begins to read the local tier, if this function may be answered from it directly.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn read_local_tier(&self) -> Option<IndexGuard<'_>> {
        if self.arguments.declaration.local_hit_is_final() {
            self.cache.local().index_guard()
        } else {
            None
        }
    }

    /// Finds the value in the local tier.
    ///
    /// Returns a borrow of it only if cloning it runs no code of the program's own. Any other value is
    /// put into `owned`, so that no memory waits for its clone.
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

    /// Returns a borrow of the value that [`borrow_or_own_hit`](Self::borrow_or_own_hit) owned.
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

    /// Clones the value into what the function returns.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn to_returned(&self, value: &V) -> R {
        (self.to_returned)(value)
    }

    /// Looks in the tiers of this process again, by the bytes of the key. Puts a hit into `hit`, and
    /// returns the call that is to be answered otherwise.
    ///
    /// The expansion calls this before it makes the future of the body, so that a hit does not move
    /// that future about.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn look_up_or_begin(self, hit: &mut Option<R>) -> Option<Call<R, V>> {
        let HashedLookup { arguments, cache, header, returns, .. } = self;
        look_up_or_begin(arguments, cache, header, returns, hit)
    }
}

#[inline(never)]
fn look_up_or_begin<R, V, Identifier: KeyParts, Version: KeyParts, Constants: KeyParts>(
    arguments: KeyArguments<(Identifier, Version), Constants>,
    cache: &Cache,
    header: Option<KeyHeader>,
    returns: ReturnType<R, V>,
    hit: &mut Option<R>,
) -> Option<Call<R, V>> {
    let rebuild_into = returns.rebuild_into;
    let write_hit: HitWriter<'_> = &mut |value| rebuild_into(value, hit);
    let encode = |bytes: &mut KeyBytes| arguments.encode(header, bytes);
    let phase =
        look_up_by_bytes(cache, arguments.declaration, &encode, returns.value_type, write_hit);
    phase.map(|phase| Call::new(returns, phase))
}
