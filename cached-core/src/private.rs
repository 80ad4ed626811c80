//! Everything that the attribute's expansions use. It is not public API and changes without notice.

mod answer;
mod entry_builder;
mod generic_arguments;
mod key_arguments;
mod lookup;
mod slow_path;

pub use linkme;
use serde::Serialize;

use crate::cache::Cache;
pub use crate::declaration::{DECLARATIONS, Declaration, DeclarationRef};
pub use crate::key::KeyParts;
use crate::key::{DynKeyPart, KeyPart};
pub use crate::value::{ErrorProbe, ErrorSharing, InferredValue, Returned, WholeValue};
pub use answer::{Call, CallFuture};
pub use entry_builder::EntryBuilder;
pub use key_arguments::DeclaredFunction;
pub use lookup::{
    CurrentCache, HashedLookup, Lookup, LookupBuilder, OwnedLocalValue, lookup, lookup_whole,
};

/// Makes an expression a part of the key. A call of its own lets the compiler report an unsuitable type at
/// the expression.
#[inline]
pub fn part<T: KeyPart>(part: &T) -> DynKeyPart<'_> {
    part
}

/// Makes a parameter of a generic type a part of the key. Its bound is `Serialize`, so that the compiler
/// suggests this bound for the function's own type parameter.
#[inline]
pub fn generic_part<T: Serialize>(part: &T) -> DynKeyPart<'_> {
    part
}

/// Declares the function around it, in a static that the linker collects. Each option calls the method of
/// [`Declaration`] that sets it.
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
        $crate::private::DeclaredFunction::new(&DECLARATION, &|| ())
    }};
}

/// Refers to the declaration of the function from its companion.
#[doc(hidden)]
#[macro_export]
macro_rules! __declared {
    ($name:literal, $function:literal) => {{
        static DECLARED: $crate::private::DeclarationRef = $crate::private::DeclarationRef::new(
            $name,
            ::core::concat!(::core::module_path!(), "::", $function),
        );
        $crate::private::DeclaredFunction::new(DECLARED.get(), &|| ())
    }};
}

/// Returns from the function if this process holds the value. Otherwise evaluates to the [`Call`]
/// that fetches it. The attribute passes the name of the method `begin`, which gives that name the
/// span of the return type.
///
/// A hit is cloned in the `return` expression itself, so that the clone is written where the caller
/// wants it: moving a value that was only just written is slow.
#[doc(hidden)]
#[macro_export]
macro_rules! __begin {
    ($lookup:expr, $begin:ident) => {
        // A `match`, because it keeps alive the temporaries that the lookup borrows.
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
                $crate::private::unwrap_call(call)
            }
        }
    };
}

/// Binds parameters again under their own names. The names have the user's spans, so the user would get
/// the lints for this statement: they are allowed here, and still apply to the user's body.
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

/// Tells the compiler what the body returns, so that it reports a type error in the body there, and not at
/// the generated call.
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

/// Unwraps the call that [`HashedLookup::look_up_or_begin`] returns without a hit.
pub fn unwrap_call<R, V>(call: Option<Call<R, V>>) -> Call<R, V> {
    call.unwrap_or_else(|| unreachable!("a lookup without a hit begins a call"))
}

/// Stands for a value of any type in [`returns!`]. It never runs.
pub fn never<R>() -> R {
    unreachable!("the expansion calls this under `if false`")
}

/// Borrows the cache of the option `cache = …`.
pub fn cache<C: LendsCache + ?Sized>(cache: &C) -> &Cache {
    cache.lend()
}

/// `AsRef<Cache>` with an error message of its own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a cache",
    label = "expected a `Cache`, or a type that implements `AsRef<Cache>`"
)]
pub trait LendsCache {
    /// Borrows the cache.
    fn lend(&self) -> &Cache;
}

#[diagnostic::do_not_recommend]
impl<C: AsRef<Cache> + ?Sized> LendsCache for C {
    fn lend(&self) -> &Cache {
        self.as_ref()
    }
}
