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
use super::key_arguments::{CallSite, KeyArguments};
use super::slow_path::{Serve, look_up_by_bytes};
use crate::cache::Cache;
use crate::current::process_cache_if_unscoped;
use crate::entry::CacheEntry;
use crate::key::{KeyBytes, KeyHeader, KeyParts};
use crate::tier::local::index::IndexGuard;
use crate::tier::request::TakenAnswers;
use crate::value::{
    CachedValue, ErrorSharing, InferredValue, ReturnType, Returned, Value, ValueType, WholeValue,
    has_trivial_clone,
};

/// Collects which entry a call asks for, and in which cache. `M` is the mode of the return type.
pub struct LookupBuilder<'k, R, V, M, P, C> {
    call_site: CallSite,
    parts: P,
    own_types: &'static str,
    constants: C,
    errors: ErrorSharing<R>,
    cache: Option<&'k Cache>,
    types: PhantomData<(V, M)>,
}

/// Starts the lookup of a function or of its companion.
///
/// This one call carries the bounds on the return type, and is spanned at that type. The function and
/// its companion both make it, so the compiler reports a missing bound once.
#[cfg_attr(not(debug_assertions), inline(always))]
pub fn lookup<'k, R, P>(
    errors: ErrorSharing<R>,
    call_site: CallSite,
    parts: P,
) -> LookupBuilder<'k, R, R::Value, InferredValue, P, ()>
where
    R: Returned<InferredValue>,
    R::Value: CachedValue,
{
    LookupBuilder::new(errors, call_site, parts)
}

/// Starts the lookup of a function that is declared `infallible`.
#[cfg_attr(not(debug_assertions), inline(always))]
pub fn lookup_whole<'k, R: CachedValue, P>(
    errors: ErrorSharing<R>,
    call_site: CallSite,
    parts: P,
) -> LookupBuilder<'k, R, R, WholeValue, P, ()> {
    LookupBuilder::new(errors, call_site, parts)
}

impl<R, V, M, P> LookupBuilder<'_, R, V, M, P, ()> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn new(errors: ErrorSharing<R>, call_site: CallSite, parts: P) -> Self {
        let types = PhantomData;
        LookupBuilder { call_site, parts, own_types: "", constants: (), errors, cache: None, types }
    }
}

impl<'k, R, V, M, P, C> LookupBuilder<'k, R, V, M, P, C> {
    /// Sets the cache that the option `cache` names.
    #[must_use]
    pub fn cache(self, cache: &'k Cache) -> LookupBuilder<'k, R, V, M, P, C> {
        LookupBuilder { cache: Some(cache), ..self }
    }

    /// Adds the function's own type arguments, as a tuple of `PhantomData`.
    #[must_use]
    pub fn of<Arguments>(self) -> LookupBuilder<'k, R, V, M, P, C> {
        LookupBuilder { own_types: type_name::<Arguments>(), ..self }
    }

    /// Adds the function's own const arguments.
    #[must_use]
    pub fn constants<D: KeyParts>(self, constants: D) -> LookupBuilder<'k, R, V, M, P, D> {
        let LookupBuilder { call_site, parts, own_types, errors, cache, types, .. } = self;
        LookupBuilder { call_site, parts, own_types, constants, errors, cache, types }
    }
}

impl<'k, R, V, M, I: KeyParts, W: KeyParts, C: KeyParts> LookupBuilder<'k, R, V, M, (I, W), C> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn arguments(&self) -> KeyArguments<(I, W), C> {
        KeyArguments::new(self.call_site, self.parts, self.own_types, self.constants)
    }

    /// Finishes the builder for a call of the function.
    ///
    /// Only this method has the bounds on the return type; the function pointers carry them to the others.
    /// Each method with these bounds would repeat the compiler's error.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn begin(self) -> Lookup<'k, R, V, (I, W), C>
    where
        R: Returned<M, Value = V>,
        V: CachedValue,
    {
        Lookup {
            arguments: self.arguments(),
            cache: self.cache,
            downcast: |value| value.downcast_ref(),
            to_returned: clone_to_returned::<R, M>,
            returns: ReturnType::new::<M>(self.errors),
        }
    }

    /// Starts the entry of the companion.
    pub fn entry<P>(self) -> EntryBuilder<V, P>
    where
        V: CachedValue,
    {
        let cache = self.cache.cloned().unwrap_or_else(Cache::current);
        let arguments = self.arguments();
        let mut bytes = KeyBytes::default();
        let header = arguments.hash();
        let key = arguments.encode(header, &mut bytes).map(|()| Arc::from(&*bytes));
        let value_type = ValueType::of::<V>();
        EntryBuilder(CacheEntry::new(cache, arguments.declaration, key, value_type))
    }
}

/// Converts a cached value into what the function returns. It is named, so that it can be inlined by
/// force: only then is the clone written where the function returns it.
#[cfg_attr(not(debug_assertions), inline(always))]
fn clone_to_returned<R: Returned<M, Value: CachedValue>, M>(value: &R::Value) -> R {
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
pub struct Lookup<'k, R, V, P, C> {
    arguments: KeyArguments<P, C>,
    cache: Option<&'k Cache>,
    downcast: fn(&Value) -> Option<&V>,
    to_returned: fn(&V) -> R,
    returns: ReturnType<R, V>,
}

impl<'k, R, V, I: KeyParts, W: KeyParts, C: KeyParts> Lookup<'k, R, V, (I, W), C> {
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
    pub fn hash_key<'c>(self, current: &'c CurrentCache<'_>) -> HashedLookup<'c, R, V, (I, W), C> {
        let Lookup { arguments, downcast, to_returned, returns, .. } = self;
        let cache = current.get();
        let header = if cache.is_enabled() { arguments.hash() } else { None };
        HashedLookup { header, arguments, cache, downcast, to_returned, returns }
    }
}

/// A value of the local tier with a reference count of its own.
pub struct RetainedValue(Value);

/// A lookup whose key is hashed. Without a hash the call is not cached.
///
/// Each field stays in a register on a hit. So no method may pass `self` by reference to a function
/// that is not inlined: that would write the whole lookup to memory.
pub struct HashedLookup<'c, R, V, P, C> {
    arguments: KeyArguments<P, C>,
    cache: &'c Cache,
    header: Option<KeyHeader>,
    downcast: fn(&Value) -> Option<&V>,
    to_returned: fn(&V) -> R,
    returns: ReturnType<R, V>,
}

impl<R, V, I: KeyParts, W: KeyParts, C: KeyParts> HashedLookup<'_, R, V, (I, W), C> {
    /// Takes the answers of the running request, if there is one.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn take_request_answers(&self) -> Option<TakenAnswers> {
        TakenAnswers::take()
    }

    /// Finds the value among the answers of the request.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn find_in_request<'h>(&self, answers: &'h TakenAnswers) -> Option<&'h V> {
        let header = self.header?;
        let value = answers.find(self.cache.id(), &self.arguments.with_header(header))?;
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
    /// put into `retained`, so that no memory waits for its clone.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn find_in_local_tier<'h>(
        &self,
        guard: &'h IndexGuard<'_>,
        retained: &mut Option<RetainedValue>,
    ) -> Option<&'h V> {
        let header = self.header?;
        let value = self.cache.local().find(guard, &self.arguments.with_header(header))?;
        if !has_trivial_clone::<V>() {
            *retained = Some(RetainedValue(Arc::clone(value)));
            return None;
        }
        self.count_local_hit(header, value)
    }

    /// Returns a borrow of the value that [`find_in_local_tier`](Self::find_in_local_tier) retained.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn borrow_retained<'h>(&self, retained: &'h Option<RetainedValue>) -> Option<&'h V> {
        self.count_local_hit(self.header?, &retained.as_ref()?.0)
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
    pub fn begin_call(self, hit: &mut Option<R>) -> Option<Call<R, V>> {
        let HashedLookup { arguments, cache, header, returns, .. } = self;
        begin_call(arguments, cache, header, returns, hit)
    }
}

#[inline(never)]
fn begin_call<R, V, I: KeyParts, W: KeyParts, C: KeyParts>(
    arguments: KeyArguments<(I, W), C>,
    cache: &Cache,
    header: Option<KeyHeader>,
    returns: ReturnType<R, V>,
    hit: &mut Option<R>,
) -> Option<Call<R, V>> {
    let rebuild_into = returns.rebuild_into;
    let serve: Serve<'_> = &mut |value| rebuild_into(value, hit);
    let encode = |bytes: &mut KeyBytes| arguments.encode(header, bytes);
    let phase = look_up_by_bytes(cache, arguments.declaration, &encode, returns.value_type, serve);
    phase.map(|phase| Call::new(returns, phase))
}
