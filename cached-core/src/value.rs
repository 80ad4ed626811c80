//! The values that can be cached, and the return types that contain them.
//!
//! The code of a call is compiled once, for an untyped [`Value`]. It reaches a value's type through
//! the function pointers in [`ValueType`] and [`ReturnType`]. So an annotated function compiles fast.

mod variant;

use std::any::{Any, type_name};
use std::marker::PhantomData;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::encoded::{self, EncodedValue, EncodedView};
use crate::weight;

/// A cached value of any type. The declaration of its function knows the type.
pub(crate) type Value = Arc<dyn Any + Send + Sync>;

/// The error of a failed fetch, of any type.
pub(crate) type SharedError = Arc<dyn Any + Send + Sync>;

/// A value that the tiers can keep: `Serialize + DeserializeOwned + Clone + Send + Sync + 'static`.
///
/// Implemented for every such type, so there is nothing to implement by hand. An `Arc<T>` of such a
/// type is a cached value too; a hit then clones the `Arc`, not the value.
///
/// ```
/// fn is_cached_value<T: cached_core::CachedValue>() {}
/// is_cached_value::<std::sync::Arc<Vec<String>>>();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be cached",
    label = "this value cannot be cached",
    note = "a cached value must be `Serialize + DeserializeOwned + Clone + Send + Sync + 'static`; derive `serde::Serialize`, `serde::Deserialize` and `Clone`, and let the type own its data"
)]
pub trait CachedValue: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> CachedValue for T {}

/// Mode of [`Returned`] in which the type decides what is cached: the `Ok` of a `Result`, the `Some`
/// of an `Option`, the `Ok(Some)` of a `Result<Option<T>, E>`, and a standard type whole.
#[derive(Debug, Clone, Copy)]
pub enum InferredValue {}

/// Mode of [`Returned`] under the option `infallible`, in which the returned value is cached whole.
#[derive(Debug, Clone, Copy)]
pub enum WholeValue {}

/// The return type of an annotated function.
///
/// Implemented for `Result`, `Option` and the types of the standard library; a program cannot
/// implement it. A function that returns a type of the program itself needs the option `infallible`.
#[diagnostic::on_unimplemented(
    message = "the return type `{Self}` does not say which part of it can be cached",
    label = "not a `Result`, an `Option` or a standard type",
    note = "if every `{Self}` may be cached, add the option `infallible` to the attribute; if the function can fail, return a `Result`"
)]
pub trait Returned<Mode>: sealed::Returned<Mode> + Sized {
    /// The part that is cached. The functions that use it require it to be a [`CachedValue`].
    type Value;

    /// Returns the value to cache, or `self` if that is an error.
    #[doc(hidden)]
    fn into_cached(self) -> Result<Self::Value, Self>;

    /// Rebuilds the return value from a cached value.
    #[doc(hidden)]
    fn from_cached(value: Self::Value) -> Self;
}

mod sealed {
    /// Prevents implementations of [`Returned`](super::Returned) in other crates.
    pub trait Returned<Mode> {}
}

impl<T, E> sealed::Returned<InferredValue> for Result<T, E> {}

impl<T, E> Returned<InferredValue> for Result<T, E> {
    type Value = T;
    fn into_cached(self) -> Result<T, Self> {
        self.map_err(Err)
    }
    fn from_cached(value: T) -> Self {
        Ok(value)
    }
}

macro_rules! cached_whole {
    ($mode:ty: $([$($generics:tt)*] $type:ty),* $(,)?) => {$(
        impl<$($generics)*> sealed::Returned<$mode> for $type {}

        impl<$($generics)*> Returned<$mode> for $type {
            type Value = Self;
            fn into_cached(self) -> Result<Self, Self> {
                Ok(self)
            }
            fn from_cached(value: Self) -> Self {
                value
            }
        }
    )*};
}

cached_whole! { WholeValue: [T] T }

#[rustfmt::skip]
cached_whole! { InferredValue:
    [T] Option<T>,
    [] (), [] bool, [] char, [] String, [] f32, [] f64,
    [] i8, [] i16, [] i32, [] i64, [] i128, [] isize,
    [] u8, [] u16, [] u32, [] u64, [] u128, [] usize,
    [T] Vec<T>, [T] std::collections::VecDeque<T>, [T] Box<T>, [T, const N: usize] [T; N],
    [T: ?Sized] Arc<T>,
    [K, V] std::collections::BTreeMap<K, V>, [K, V, S] std::collections::HashMap<K, V, S>,
    [K] std::collections::BTreeSet<K>, [K, S] std::collections::HashSet<K, S>,
    [A] (A,), [A, B] (A, B), [A, B, C] (A, B, C), [A, B, C, D] (A, B, C, D),
    [A, B, C, D, E] (A, B, C, D, E), [A, B, C, D, E, F] (A, B, C, D, E, F),
    [] std::time::Duration, [] std::time::SystemTime,
    [] std::net::IpAddr, [] std::net::Ipv4Addr, [] std::net::Ipv6Addr, [] std::net::SocketAddr,
    [] std::path::PathBuf, [T] std::num::Wrapping<T>, [T] std::cmp::Reverse<T>,
    [T] std::ops::Range<T>, [T] std::ops::RangeInclusive<T>, [T] std::ops::Bound<T>,
}

/// Returns true if cloning a `V` is fast and runs no code of the program. Types are compared by
/// name; no other type can have one of these names.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn has_trivial_clone<V>() -> bool {
    let name = type_name::<V>();
    name.starts_with("alloc::sync::Arc<") || name == "alloc::string::String" || is_primitive(name)
}

#[cfg_attr(not(debug_assertions), inline(always))]
fn is_primitive(name: &str) -> bool {
    matches!(
        name,
        "bool"
            | "char"
            | "f32"
            | "f64"
            | "i8"
            | "i16"
            | "i32"
            | "i64"
            | "u8"
            | "u16"
            | "u32"
            | "u64"
    )
}

/// The functions through which the untyped core handles values of one type.
pub(crate) struct ValueType {
    /// Encodes a value; see [`encoded::write`]. Does not panic if the type's `Serialize` does.
    pub(crate) write: fn(&Value) -> Result<EncodedValue, &'static str>,
    /// Decodes a value; see [`encoded::read`]. Does not panic if the type's `Deserialize` does.
    pub(crate) read: fn(EncodedView<'_>) -> Option<Value>,
    /// Estimates how many bytes the value takes in memory; see [`weight`].
    pub(crate) weigh: fn(&Value) -> Option<usize>,
    /// Returns true for a `None`.
    pub(crate) is_none: fn(&Value) -> bool,
    /// Returns true if the type is an `Option`.
    pub(crate) is_option: fn() -> bool,
    /// Returns the type's name for messages.
    pub(crate) name: fn() -> &'static str,
}

/// The option `weight` of a function, for an untyped value.
pub(crate) type WeightFn = Arc<dyn Fn(&Value) -> Option<usize> + Send + Sync>;

/// Makes a [`WeightFn`] from the option `weight`. It returns `None` if the user's function panics;
/// the value's weight is then estimated.
pub(crate) fn weight_fn<V: 'static>(weight: fn(&V) -> usize) -> WeightFn {
    Arc::new(move |value| catch_panic(|| value.downcast_ref::<V>().map(weight))?)
}

/// Returns `None` if `run` panics. `run` must not leave shared state half changed.
fn catch_panic<T>(run: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(run)).ok()
}

impl ValueType {
    /// Returns the functions for `V`.
    pub(crate) const fn of<V: CachedValue>() -> &'static ValueType {
        const {
            &ValueType {
                write: |value| {
                    let value = value.downcast_ref::<V>().ok_or("the value is of another type")?;
                    catch_panic(|| encoded::write(value))
                        .unwrap_or(Err("the value's own `Serialize` or `Deserialize` panicked"))
                },
                read: |encoded| Some(Arc::new(catch_panic(|| encoded::read::<V>(encoded))??)),
                weigh: |value| catch_panic(|| weight::of(value.downcast_ref::<V>()?))?,
                is_none: |value| value.downcast_ref::<V>().is_some_and(variant::is_none),
                is_option: variant::is_option::<V>,
                name: type_name::<V>,
            }
        }
    }
}

/// The options of a function that depend on the value.
pub(crate) struct ValueRules<V> {
    /// Returns true if a value is to be cached.
    pub(crate) cache_if: Option<fn(&V) -> bool>,
    /// Returns how long a value is cached.
    pub(crate) ttl_with: Option<fn(&V) -> Duration>,
}

impl<V> Clone for ValueRules<V> {
    fn clone(&self) -> ValueRules<V> {
        *self
    }
}

impl<V> Copy for ValueRules<V> {}

impl<V> ValueRules<V> {
    pub(crate) const NONE: ValueRules<V> = ValueRules { cache_if: None, ttl_with: None };
}

/// What the [`ValueRules`] of a function say about one value.
#[derive(Clone, Copy)]
pub(crate) struct CachingDecision {
    /// The value is a `None`, which is cached only under `none_ttl`.
    pub(crate) is_none: bool,
    pub(crate) is_cacheable: bool,
    /// The result of `ttl_with`.
    pub(crate) ttl: Option<Duration>,
}

impl<V: CachedValue> ValueRules<V> {
    /// Decides about a value that was just fetched.
    pub(crate) fn decide(&self, value: &V) -> CachingDecision {
        CachingDecision {
            is_none: variant::is_none(value),
            // A generic function under `infallible` may return a `Result` for some type arguments.
            is_cacheable: !variant::is_err(value)
                && self.cache_if.is_none_or(|cache_if| cache_if(value)),
            ttl: self.ttl_with.map(|ttl_with| ttl_with(value)),
        }
    }
}

impl<V: 'static> ValueRules<V> {
    /// Decides about a value that came from a tier. If `ttl_with` panics, the declared ttl applies:
    /// the value is good, so the panic must not reach the caller.
    pub(crate) fn decide_stored(&self, value: &Value, value_type: &ValueType) -> CachingDecision {
        let ttl_with = self.ttl_with.zip(value.downcast_ref::<V>());
        let ttl = ttl_with.and_then(|(ttl_with, value)| catch_panic(|| ttl_with(value)));
        CachingDecision { is_none: (value_type.is_none)(value), is_cacheable: true, ttl }
    }
}

/// The functions through which the code of a call handles the return type `R`.
pub(crate) struct ReturnType<R, V> {
    /// Separates a value to cache from an error.
    pub(crate) split: fn(R, &ValueRules<V>) -> FetchOutput<R>,
    /// See [`rebuild_into`].
    pub(crate) rebuild_into: fn(&Value, &mut Option<R>) -> bool,
    pub(crate) error_sharing: ErrorSharing<R>,
    pub(crate) value_type: &'static ValueType,
    pub(crate) rules: ValueRules<V>,
}

/// The result of a fetch: a value, or the function's error.
pub(crate) enum FetchOutput<R> {
    Value(Value, CachingDecision),
    Error(R),
}

impl<R, V> ReturnType<R, V> {
    pub(crate) fn new<Mode>(error_sharing: ErrorSharing<R>) -> ReturnType<R, V>
    where
        R: Returned<Mode, Value = V>,
        V: CachedValue,
    {
        ReturnType {
            split: |returned, rules| match returned.into_cached() {
                Ok(value) => {
                    let decision = rules.decide(&value);
                    FetchOutput::Value(Arc::new(value), decision)
                }
                Err(returned) => FetchOutput::Error(returned),
            },
            rebuild_into: rebuild_into::<R, Mode>,
            error_sharing,
            value_type: ValueType::of::<V>(),
            rules: ValueRules::NONE,
        }
    }

    /// Rebuilds the function's return value from a cached value. Returns `None` if the value is of
    /// another type.
    pub(crate) fn rebuild(&self, value: &Value) -> Option<R> {
        let mut target = None;
        (self.rebuild_into)(value, &mut target);
        target
    }
}

/// Rebuilds the function's return value from a cached value and writes it to `target`, which must be
/// `None`. Returns false if the value is of another type.
///
/// A returned `Option` would be moved right after it was written, which stalls the processor.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn rebuild_into<R, Mode>(value: &Value, target: &mut Option<R>) -> bool
where
    R: Returned<Mode, Value: CachedValue>,
{
    let Some(value) = value.downcast_ref::<R::Value>() else { return false };
    // The target is `None`. `forget` removes the code that would drop an old value.
    std::mem::forget(target.replace(R::from_cached(value.clone())));
    true
}

/// How followers of a failed fetch get its error. Holds `None` if the error type cannot be shared.
pub struct ErrorSharing<R>(Option<ErrorSharingFns<R>>);

struct ErrorSharingFns<R> {
    share: fn(&R) -> Option<SharedError>,
    rebuild: fn(&SharedError) -> Option<R>,
}

impl<R> ErrorSharing<R> {
    /// Clones the error out of a function's result, if its type can be shared.
    pub(crate) fn share(&self, returned: &R) -> Option<SharedError> {
        (self.0.as_ref()?.share)(returned)
    }

    /// Returns the `Err` of a function for a shared error.
    pub(crate) fn rebuild(&self, error: &SharedError) -> Option<R> {
        (self.0.as_ref()?.rebuild)(error)
    }
}

/// Finds out at compile time whether the error in `R` can be shared.
///
/// Method resolution prefers an inherent method of `ErrorProbe` to one of `ErrorProbeFallback`, which
/// is behind `Deref`. The inherent method exists only for a `Result` with a `Clone` error, so the
/// fallback serves all other types. Stable Rust has no specialization that could say this.
pub struct ErrorProbe<R> {
    fallback: ErrorProbeFallback<R>,
}

/// The methods of [`ErrorProbe`] for a type whose error cannot be shared.
#[doc(hidden)]
pub struct ErrorProbeFallback<R>(PhantomData<fn() -> R>);

impl<R> ErrorProbe<R> {
    #[doc(hidden)]
    pub const NEW: ErrorProbe<R> = ErrorProbe { fallback: ErrorProbeFallback(PhantomData) };

    /// Used for a return type that borrows, because its error cannot outlive the call.
    #[doc(hidden)]
    pub fn unshared(&self) -> ErrorSharing<R> {
        ErrorSharing(None)
    }
}

impl<T, E: Clone + Send + Sync + 'static> ErrorProbe<Result<T, E>> {
    #[doc(hidden)]
    pub fn sharing(&self) -> ErrorSharing<Result<T, E>> {
        ErrorSharing(Some(ErrorSharingFns {
            share: |returned| {
                let error = returned.as_ref().err()?;
                Some(Arc::new(error.clone()))
            },
            rebuild: |error| error.downcast_ref::<E>().cloned().map(Err),
        }))
    }
}

impl<T, E> ErrorProbe<Result<T, E>> {
    /// The compiler chooses this method for a `Result` under the option `infallible`, and reports
    /// that its bound does not hold.
    #[doc(hidden)]
    pub fn infallible(&self) -> ErrorSharing<Result<T, E>>
    where
        Result<T, E>: NeverFails,
    {
        ErrorSharing(None)
    }
}

/// Required of a `Result` under the option `infallible`, and implemented for no type.
#[diagnostic::on_unimplemented(
    message = "a `Result` can fail, so it cannot be cached whole",
    label = "the `Ok` of this `Result` is cached without `infallible`",
    note = "remove the option `infallible`"
)]
pub trait NeverFails {}

impl<R> Deref for ErrorProbe<R> {
    type Target = ErrorProbeFallback<R>;
    fn deref(&self) -> &ErrorProbeFallback<R> {
        &self.fallback
    }
}

impl<R> ErrorProbeFallback<R> {
    #[doc(hidden)]
    pub fn sharing(&self) -> ErrorSharing<R> {
        ErrorSharing(None)
    }

    #[doc(hidden)]
    pub fn infallible(&self) -> ErrorSharing<R> {
        ErrorSharing(None)
    }
}
