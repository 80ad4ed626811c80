//! Everything that the expansions of the attribute use.
//!
//! This module is not public API and changes without notice.

mod answer;
mod checked_value;
mod entry_builder;
mod generic_arguments;
mod key_arguments;
mod lookup;
mod parameter_copy;
mod slow_path;

pub use linkme;
use serde::Serialize;

use crate::cache::Cache;
use crate::current::StaticCache;
pub use crate::declaration::{DECLARATIONS, Declaration, DeclarationLookup};
pub use crate::key::KeyParts;
use crate::key::{DynKeyPart, KeyPart};
pub use crate::round_trip::{RoundTripFns, RoundTripProbe};
pub use crate::value::local::WeightProbe;
pub use crate::value::{
    CopyableError, ErrorCopier, ErrorProbe, ErrorSharing, FallibleReturn, InferredValue, Returned,
    WholeValue, error_copier,
};
pub use answer::{Call, CallFuture, RefreshRules};
pub use entry_builder::EntryBuilder;
pub use key_arguments::DeclaredFunction;
pub use lookup::{
    CurrentCache, HashedLookup, Lookup, LookupBuilder, OwnedLocalValue, lookup, lookup_local,
    lookup_whole,
};
pub use parameter_copy::{
    OwnedParameter, ParameterClone, apply_rule, clone_generic, clone_parameter, own_parameter,
    own_receiver,
};

/// Makes an expression a part of the key.
///
/// The attribute calls this function once for each part, so that the compiler reports an unsuitable
/// type at the expression.
#[inline]
pub fn part<T: KeyPart>(part: &T) -> DynKeyPart<'_> {
    part
}

/// Makes a parameter of a generic type a part of the key.
///
/// The bound here is `Serialize`, so that the compiler suggests `Serialize` as a bound for the type
/// parameter of the annotated function.
#[inline]
pub fn generic_part<T: Serialize>(part: &T) -> DynKeyPart<'_> {
    part
}

/// Declares the annotated function around this macro, in a static that the linker collects. Each
/// `$option` is the name of a method of [`Declaration`].
#[doc(hidden)]
#[macro_export]
macro_rules! __declare {
    (
        $name:literal, $function:literal, $code:literal $(, $version:literal)?
        $(, $option:ident($($value:expr),*))*
    ) => {{
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
        .code($code)$(.versioned_by($version))?$(.$option($($value),*))*;
        $crate::private::DeclaredFunction::new(&DECLARATION, &|| ())
    }};
}

/// Finds the declaration of the annotated function for its companion. The companion is the function
/// that the option `entry = NAME` generates.
#[doc(hidden)]
#[macro_export]
macro_rules! __declared {
    ($name:literal, $function:literal) => {{
        static DECLARED: $crate::private::DeclarationLookup =
            $crate::private::DeclarationLookup::new(
                $name,
                ::core::concat!(::core::module_path!(), "::", $function),
            );
        $crate::private::DeclaredFunction::new(DECLARED.get(), &|| ())
    }};
}

/// Returns from the annotated function if the lookup in this process finds the return value.
/// Otherwise the macro evaluates to the [`Call`] that must be completed.
///
/// `$begin` is always the method name `begin`. The attribute passes the name, so that the name has
/// the span of the return type. `$returned` is the return type.
///
/// Most hits are cloned inside a `return` expression. The compiler then writes the clone directly
/// to the place where the caller expects the result. Moving a value right after it was written is
/// slow.
#[doc(hidden)]
#[macro_export]
macro_rules! __begin {
    ($lookup:expr, $begin:ident as $returned:ty) => {
        // A `match` keeps the temporaries alive that the lookup borrows; a `let` would drop them.
        match $lookup.$begin() {
            lookup => {
                let cache = lookup.current_cache();
                let lookup = lookup.hash_key(&cache);
                if let ::core::option::Option::Some(values) = lookup.take_request_values() {
                    if let ::core::option::Option::Some(hit) = lookup.find_in_request(&values) {
                        return lookup.to_returned(hit);
                    }
                } else {
                    let mut owned = ::core::option::Option::None;
                    if let ::core::option::Option::Some(guard) = lookup.read_local_tier() {
                        if let ::core::option::Option::Some(hit) =
                            lookup.borrow_or_own_hit(&guard, &mut owned)
                        {
                            return lookup.to_returned(hit);
                        }
                    }
                    if let ::core::option::Option::Some(hit) = lookup.borrow_owned_hit(&owned) {
                        return lookup.to_returned(hit);
                    }
                }
                let mut hit = ::core::option::Option::None;
                let call = lookup.look_up_or_begin(&mut hit);
                if let ::core::option::Option::Some(hit) = hit {
                    return hit;
                }
                $crate::private::unwrap_call(call, $crate::private::round_trip!($returned))
            }
        }
    };
}

/// Evaluates to the functions that compare the values in a return type with what memcached would
/// return.
#[doc(hidden)]
#[macro_export]
macro_rules! __round_trip {
    ($returned:ty) => {
        (
            $crate::private::RoundTripProbe::<$returned>::NEW.are_equal(),
            $crate::private::RoundTripProbe::<$returned>::NEW.describe(),
        )
    };
}

/// Binds the parameters of the annotated function again, under their own names.
///
/// The names have the user's spans, so the compiler would show the user the lints of this
/// statement. The statement therefore allows these lints. The lints still apply to the body.
/// Parameters after the marker `used` need not be used in the body.
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

/// Gives the function of `cache_if` or `ttl_with` copies of the parameters that the function
/// mentions.
///
/// The body of the annotated function takes the parameters, and the function is called after the
/// body. Each `$copy` is a `ParameterClone` or an `OwnedParameter`. The macro evaluates to a
/// function of the value.
#[doc(hidden)]
#[macro_export]
macro_rules! __with_copies {
    (($($name:ident,)+) = ($($copy:expr,)+), $rule:expr) => {{
        #[allow(clippy::shadow_reuse, clippy::shadow_same, clippy::shadow_unrelated)]
        #[allow(clippy::used_underscore_binding)]
        let ($($name,)+) = ($($copy,)+);
        move |value: &_| {
            #[allow(unused_variables)]
            #[allow(clippy::shadow_reuse, clippy::shadow_same, clippy::shadow_unrelated)]
            #[allow(clippy::used_underscore_binding)]
            let ($($name,)+) = ($($name.get(),)+);
            $crate::private::apply_rule(value, $rule)
        }
    }};
}

/// Tells the compiler which type the body returns. The compiler then reports a type error in the
/// body at the body, and not at the generated call.
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
    __begin as begin, __declare as declare, __declared as declared, __rebind as rebind,
    __returns as returns, __round_trip as round_trip, __with_copies as with_copies,
};

/// Unwraps the call that [`HashedLookup::look_up_or_begin`] returns if there is no hit, and sets
/// how the call's value is compared with what memcached would return.
pub fn unwrap_call<'p, R, V>(
    call: Option<Call<'p, R, V>>,
    round_trip: RoundTripFns,
) -> Call<'p, R, V> {
    call.unwrap_or_else(|| unreachable!("a lookup without a hit begins a call"))
        .round_trip(round_trip)
}

/// Stands for a value of any type in [`returns!`]. This function is never called.
pub fn never<R>() -> R {
    unreachable!("the expansion calls this under `if false`")
}

/// Borrows the cache from the expression of the option `cache`. Returns `None` if the expression is
/// a [`StaticCache`] without a cache.
#[inline]
pub fn cache<C: LendsCache + ?Sized>(cache: &C) -> Option<&Cache> {
    cache.lend()
}

/// A bound in place of `AsRef<Cache>`. It has a better error message.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a cache",
    label = "expected a `Cache`, a `StaticCache`, or a type that implements `AsRef<Cache>`",
    note = "for a cache in a `static`, write `static NAME: StaticCache = StaticCache::new();` and `cache = NAME`"
)]
pub trait LendsCache {
    /// Borrows the cache, if there is one.
    fn lend(&self) -> Option<&Cache>;
}

#[diagnostic::do_not_recommend]
impl<C: AsRef<Cache> + ?Sized> LendsCache for C {
    #[inline]
    fn lend(&self) -> Option<&Cache> {
        Some(self.as_ref())
    }
}

#[diagnostic::do_not_recommend]
impl LendsCache for StaticCache {
    #[inline]
    fn lend(&self) -> Option<&Cache> {
        self.get()
    }
}
