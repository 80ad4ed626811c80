//! All that an expansion of the attribute may name. Not public: it changes without notice.

mod answer;
mod asked;
mod look;
mod types;

use std::any::type_name;
use std::marker::PhantomData;
use std::sync::Arc;

pub use linkme;
use serde::Serialize;

use crate::cache::Cache;
use crate::current::current_of_process;
pub use crate::declaration::{DECLARATIONS, Declaration, DeclarationRef};
use crate::entry::CacheEntry;
pub use crate::key::KeyParts;
use crate::key::{DynKeyPart, KeyBytes, KeyHeader, KeyPart, KeyQuery};
use crate::tier::local::index::ReadGuard;
use crate::tier::request;
use crate::value::{CachedValue, ReturnType, Value, ValueType, has_trivial_clone};
pub use crate::value::{ErrorProbe, ErrorSharing, InferredValue, Returned, WholeValue};
pub use answer::{Answer, Call};
use asked::Asked;
pub use asked::CallSite;
use look::{Serve, look_further};

/// Makes a key's part of an expression; a call of its own, so that its error stands there.
#[inline]
pub fn part<T: KeyPart>(part: &T) -> DynKeyPart<'_> {
    part
}

/// Does the same for a parameter whose type is made of the function's type parameters. What one of these lacks is
/// `Serialize`, and the compiler proposes it where the bound is that.
#[inline]
pub fn generic_part<T: Serialize>(part: &T) -> DynKeyPart<'_> {
    part
}

/// The declaration of the function around it: a static, found by the linker. Each option is a call
/// of the method of [`Declaration`] that sets it.
#[doc(hidden)]
#[macro_export]
macro_rules! __declaration {
    ($name:literal, $function:literal, $code:literal $(, $option:ident($($value:expr),*))*) => {{
        enum Here {}
        #[$crate::private::linkme::distributed_slice($crate::private::DECLARATIONS)]
        #[linkme(crate = $crate::private::linkme)]
        static DECLARATION: $crate::private::Declaration = $crate::private::Declaration::new(
            $name,
            ::core::concat!(::core::module_path!(), "::", $function),
            ::core::file!(),
            ::core::line!(),
            ::core::column!(),
            ::core::any::type_name::<Here>,
        )
        .code($code)$(.$option($($value),*))*;
        $crate::private::CallSite::new(&DECLARATION, &|| ())
    }};
}

/// The same in the companion beside that function.
#[doc(hidden)]
#[macro_export]
macro_rules! __declared {
    ($name:literal, $function:literal) => {{
        static DECLARED: $crate::private::DeclarationRef = $crate::private::DeclarationRef::new(
            $name,
            ::core::concat!(::core::module_path!(), "::", $function),
        );
        $crate::private::CallSite::new(DECLARED.get(), &|| ())
    }};
}

/// Looks, and returns from the function with a hit; else the call that is to be answered. The name of
/// the method comes from the attribute, for the sake of its place.
///
/// What the thread or the request keeps is cloned in the `return` itself, which makes it where the
/// caller wants it: a value is slow to move that was only just written.
#[doc(hidden)]
#[macro_export]
macro_rules! __begin {
    ($lookup:expr, $begin:ident) => {
        // A `match`, for what the lookup borrows of a temporary lives as long as that.
        match $lookup.$begin() {
            look => {
                let current = look.current();
                let looked = look.hashed(&current);
                if let ::core::option::Option::Some(request) = looked.request() {
                    if let ::core::option::Option::Some(hit) = looked.answered(&request) {
                        return looked.returned(hit);
                    }
                } else {
                    let mut held = ::core::option::Option::None;
                    if let ::core::option::Option::Some(reading) = looked.reading() {
                        if let ::core::option::Option::Some(hit) = looked.lent(&reading, &mut held)
                        {
                            return looked.returned(hit);
                        }
                    }
                    if let ::core::option::Option::Some(hit) = looked.held(&held) {
                        return looked.returned(hit);
                    }
                }
                let mut hit = ::core::option::Option::None;
                let call = looked.further(&mut hit);
                if let ::core::option::Option::Some(hit) = hit {
                    return hit;
                }
                $crate::private::begun(call)
            }
        }
    };
}

/// Binds parameters anew. Their names are the user's own, at their own places, so that lints would hold the
/// statement against the user: they are allowed in it, and not in the user's body.
#[doc(hidden)]
#[macro_export]
macro_rules! __rebind {
    (used $names:pat = $values:expr) => {
        #[allow(unused_variables)]
        #[allow(clippy::shadow_reuse, clippy::shadow_same, clippy::shadow_unrelated)]
        #[allow(clippy::used_underscore_binding)]
        let $names = $values;
    };
    ($names:pat = $values:expr) => {
        #[allow(clippy::shadow_reuse, clippy::shadow_same, clippy::shadow_unrelated)]
        #[allow(clippy::used_underscore_binding)]
        let $names = $values;
    };
}

/// Tells the compiler what a body returns, so that an error in it is shown there and not at the
/// call that is made of it.
#[doc(hidden)]
#[macro_export]
macro_rules! __returns {
    ($returned:ty) => {
        if false {
            return $crate::private::never::<$returned>();
        }
    };
}

pub use crate::{
    __begin as begin, __declaration as declaration, __declared as declared, __rebind as rebind,
    __returns as returns,
};

/// Which entry is meant, before it is looked at. `M` is the mode of the return type.
pub struct Lookup<'k, R, V, M, P, C> {
    call_site: CallSite,
    parts: P,
    own_types: &'static str,
    constants: C,
    errors: ErrorSharing<R>,
    cache: Option<&'k Cache>,
    types: PhantomData<(V, M)>,
}

/// The bounds on a function's return type are here, in one plain call that is spanned at the type.
/// The function and its companion make the same, so that an error in it is one error.
#[cfg_attr(not(debug_assertions), inline(always))]
pub fn lookup<'k, R, P>(
    errors: ErrorSharing<R>,
    call_site: CallSite,
    parts: P,
) -> Lookup<'k, R, R::Value, InferredValue, P, ()>
where
    R: Returned<InferredValue>,
    R::Value: CachedValue,
{
    Lookup::new(errors, call_site, parts)
}

/// The same for a function that is `infallible`.
#[cfg_attr(not(debug_assertions), inline(always))]
pub fn lookup_whole<'k, R: CachedValue, P>(
    errors: ErrorSharing<R>,
    call_site: CallSite,
    parts: P,
) -> Lookup<'k, R, R, WholeValue, P, ()> {
    Lookup::new(errors, call_site, parts)
}

impl<R, V, M, P> Lookup<'_, R, V, M, P, ()> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn new(errors: ErrorSharing<R>, call_site: CallSite, parts: P) -> Self {
        let types = PhantomData;
        Lookup { call_site, parts, own_types: "", constants: (), errors, cache: None, types }
    }
}

impl<'k, R, V, M, P, C> Lookup<'k, R, V, M, P, C> {
    /// Sets the cache, where it is not the current one.
    #[must_use]
    pub fn cache(self, cache: &'k Cache) -> Lookup<'k, R, V, M, P, C> {
        Lookup { cache: Some(cache), ..self }
    }

    /// Adds the function's own type arguments, as a tuple of `PhantomData`.
    #[must_use]
    pub fn of<Arguments>(self) -> Lookup<'k, R, V, M, P, C> {
        Lookup { own_types: type_name::<Arguments>(), ..self }
    }

    /// Adds the function's own const arguments.
    #[must_use]
    pub fn constants<D: KeyParts>(self, constants: D) -> Lookup<'k, R, V, M, P, D> {
        let Lookup { call_site, parts, own_types, errors, cache, types, .. } = self;
        Lookup { call_site, parts, own_types, constants, errors, cache, types }
    }
}

impl<'k, R, V, M, I: KeyParts, W: KeyParts, C: KeyParts> Lookup<'k, R, V, M, (I, W), C> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn asked(&self) -> Asked<(I, W), C> {
        Asked::new(self.call_site, self.parts, self.own_types, self.constants)
    }

    /// Asks for the bounds of the return type, which is done in no call after this one: each would
    /// say once more what is wrong with it.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn begin(self) -> Look<'k, R, V, (I, W), C>
    where
        R: Returned<M, Value = V>,
        V: CachedValue,
    {
        Look {
            asked: self.asked(),
            cache: self.cache,
            cast: |value| value.downcast_ref(),
            join: cloned::<R, M>,
            returns: ReturnType::new::<M>(self.errors),
        }
    }

    /// The entry, for the companion.
    pub fn entry<P>(self) -> CacheEntry<V, P>
    where
        V: CachedValue,
    {
        let cache = self.cache.cloned().unwrap_or_else(Cache::current);
        let asked = self.asked();
        let mut bytes = KeyBytes::default();
        let head = asked.hashed().map(|key| key.header());
        let key = asked.encode(head, &mut bytes).map(|()| Arc::from(&*bytes));
        CacheEntry::new(cache, asked.declaration, key, ValueType::of::<V>())
    }
}

/// The cache that a call asks. A variable of the function, so that what is looked up in it can be
/// lent.
pub enum Current<'k> {
    /// One that was given, or the process's.
    Lent(&'k Cache),
    /// The running scope's.
    Own(Cache),
}

impl Current<'_> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn cache(&self) -> &Cache {
        match self {
            Current::Lent(cache) => cache,
            Current::Own(cache) => cache,
        }
    }
}

/// A call that knows of its return type what it needs, as functions.
pub struct Look<'k, R, V, P, C> {
    asked: Asked<P, C>,
    cache: Option<&'k Cache>,
    cast: fn(&Value) -> Option<&V>,
    join: fn(&V) -> R,
    returns: ReturnType<R, V>,
}

impl<'k, R, V, I: KeyParts, W: KeyParts, C: KeyParts> Look<'k, R, V, (I, W), C> {
    /// The cache that is asked.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn current(&self) -> Current<'k> {
        match self.cache.or_else(current_of_process) {
            Some(cache) => Current::Lent(cache),
            None => Current::Own(Cache::current()),
        }
    }

    /// Hashes the key.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn hashed<'c>(self, current: &'c Current<'_>) -> Looked<'c, R, V, (I, W), C> {
        let Look { asked, cast, join, returns, .. } = self;
        let cache = current.cache();
        // Of a copy: what is lent to a function that is not inlined is in memory, and not in
        // registers, also for everyone else.
        let copy = asked;
        let key = if cache.is_enabled() { copy.hashed() } else { None };
        Looked { head: key.map(|key| key.header()), asked, cache, cast, join, returns }
    }
}

/// A value of the local tier, for the time of its clone.
pub struct Held(Value);

/// A call whose key is hashed, if it has one and the cache is on.
pub struct Looked<'c, R, V, P, C> {
    asked: Asked<P, C>,
    cache: &'c Cache,
    head: Option<KeyHeader>,
    cast: fn(&Value) -> Option<&V>,
    join: fn(&V) -> R,
    returns: ReturnType<R, V>,
}

/// Named, so that it can be inlined by force: only then is the value made where it is returned.
#[cfg_attr(not(debug_assertions), inline(always))]
fn cloned<R: Returned<M, Value: CachedValue>, M>(value: &R::Value) -> R {
    R::from_cached(value.clone())
}

impl<R, V, I: KeyParts, W: KeyParts, C: KeyParts> Looked<'_, R, V, (I, W), C> {
    /// Takes the answers of the request, if there is one.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn request(&self) -> Option<request::TakenAnswers> {
        request::TakenAnswers::take()
    }

    /// What the request answers with.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn answered<'h>(&self, request: &'h request::TakenAnswers) -> Option<&'h V> {
        let head = self.head?;
        let value = request.find(self.cache.id(), &self.asked.with(head))?;
        let value = (self.cast)(value)?;
        self.cache.counters_at(head.index()).request_hits.add();
        Some(value)
    }

    /// Reads the local tier, where the answer may be in that.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn reading(&self) -> Option<ReadGuard<'_>> {
        if self.asked.declaration.local_hit_is_final() { self.cache.local().read() } else { None }
    }

    /// Finds what the local tier has, where that is the answer as it is: lent where its clone takes no
    /// time, else held, so that no garbage waits for the clone.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn lent<'h>(&self, reading: &'h ReadGuard<'_>, held: &mut Option<Held>) -> Option<&'h V> {
        let head = self.head?;
        let value = self.cache.local().find(reading, &self.asked.with(head))?;
        if !has_trivial_clone::<V>() {
            *held = Some(Held(Arc::clone(value)));
            return None;
        }
        self.count(head, value)
    }

    /// Lends the value that is held.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn held<'h>(&self, held: &'h Option<Held>) -> Option<&'h V> {
        self.count(self.head?, &held.as_ref()?.0)
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn count<'h>(&self, head: KeyHeader, value: &'h Value) -> Option<&'h V> {
        let value = (self.cast)(value)?;
        self.cache.counters_at(head.index()).local_hits.add();
        Some(value)
    }

    /// What the function returns for it.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn returned(&self, value: &V) -> R {
        (self.join)(value)
    }

    /// Looks in the store, and puts a hit in its place; otherwise there is a call to be answered.
    /// Called before there is a fetch: what is not made is not moved about.
    #[inline(never)]
    pub fn further(self, hit: &mut Option<R>) -> Option<Call<R, V>> {
        let Looked { asked, cache, head, returns, .. } = self;
        let join = returns.rebuild_into;
        let serve: Serve<'_> = &mut |value| join(value, hit);
        let encode = |bytes: &mut KeyBytes| asked.encode(head, bytes);
        let state = look_further(cache, asked.declaration, &encode, returns.value_type, serve);
        state.map(|state| Call::new(returns, state))
    }
}

/// The call that was begun where there is no hit.
pub fn begun<R, V>(call: Option<Call<R, V>>) -> Call<R, V> {
    call.unwrap_or_else(|| unreachable!("a look serves a value, or says how the call goes on"))
}

/// What [`returns!`] returns; never run.
pub fn never<R>() -> R {
    unreachable!("it stands behind `if false`")
}

/// The cache given with `cache = …`.
pub fn cache<C: LendsCache + ?Sized>(cache: &C) -> &Cache {
    cache.lend()
}

/// `AsRef<Cache>`, with an error of its own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a cache",
    label = "expected a `Cache`, or a type that implements `AsRef<Cache>`"
)]
pub trait LendsCache {
    /// The cache.
    fn lend(&self) -> &Cache;
}

#[diagnostic::do_not_recommend]
impl<C: AsRef<Cache> + ?Sized> LendsCache for C {
    fn lend(&self) -> &Cache {
        self.as_ref()
    }
}
