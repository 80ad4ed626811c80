//! What can be cached: the value inside a return type, and how the untyped core handles it.
//!
//! The path of a call is compiled once, for an untyped [`Value`]; what it must know of a type is a
//! handful of function pointers, made here. So an annotated function costs little to compile.

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

/// A cached value without its type; the type is the declaration's.
pub(crate) type Value = Arc<dyn Any + Send + Sync>;

/// A fetch's error without its type.
pub(crate) type SharedError = Arc<dyn Any + Send + Sync>;

/// A value that the tiers can keep: `Serialize + DeserializeOwned + Clone + Send + Sync + 'static`.
///
/// Implemented for every such type; there is nothing to implement by hand. An `Arc<T>` of such a
/// type is one too, and makes a hit a reference count.
///
/// ```
/// fn is_cached_value<T: cached_core::CachedValue>() {}
/// is_cached_value::<std::sync::Arc<Vec<String>>>();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be cached",
    label = "this value cannot be cached",
    note = "a cached value is `Serialize + DeserializeOwned + Clone + Send + Sync + 'static`: derive `serde::Serialize`, `serde::Deserialize` and `Clone` for it, and let it own its data"
)]
pub trait CachedValue: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> CachedValue for T {}

/// Mode of [`Returned`]: the type says what is cached. Of `Result` the `Ok`, of `Option` the
/// `Some`, of `Result<Option<T>, E>` the `Ok(Some)`, a standard type whole.
#[derive(Debug, Clone, Copy)]
pub enum InferredValue {}

/// Mode of [`Returned`] under the option `infallible`: the returned value is cached whole.
#[derive(Debug, Clone, Copy)]
pub enum WholeValue {}

/// The return type of an annotated function, and the value in it that is cached.
///
/// Implemented for `Result`, `Option` and the types of the standard library. A function that
/// returns a bare type of the program's own adds the option `infallible`.
#[diagnostic::on_unimplemented(
    message = "the attribute cannot tell what of `{Self}` to cache",
    label = "neither a `Result`, an `Option` nor a standard type",
    note = "where every `{Self}` is a good answer, add the option `infallible`: it is then cached whole; where it can fail, return a `Result`"
)]
pub trait Returned<Mode>: sealed::Returned<Mode> + Sized {
    /// The value that is cached; a [`CachedValue`], which is asked for where a call is made.
    type Value;

    /// The value to cache, or what was returned, if that is an error.
    #[doc(hidden)]
    fn into_cached(self) -> Result<Self::Value, Self>;

    /// What the function returns for a cached value.
    #[doc(hidden)]
    fn from_cached(value: Self::Value) -> Self;
}

mod sealed {
    /// Keeps [`Returned`](super::Returned) from being implemented outside of this crate.
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

macro_rules! whole {
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

whole! { WholeValue: [T] T }

#[rustfmt::skip]
whole! { InferredValue:
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

/// Whether a clone runs no code of the program's own, and takes no time. Of the names of types only these
/// are nobody else's.
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

/// What the core must know of a value's type.
pub(crate) struct ValueType {
    /// See [`encoded::write`] and [`encoded::read`]. Neither panics if the type's own `Serialize` or
    /// `Deserialize` does.
    pub(crate) write: fn(&Value) -> Result<EncodedValue, &'static str>,
    pub(crate) read: fn(EncodedView<'_>) -> Option<Value>,
    /// Returns about how many bytes the value takes in memory; see [`weight`].
    pub(crate) weigh: fn(&Value) -> Option<usize>,
    /// Returns true for a `None`.
    pub(crate) is_none: fn(&Value) -> bool,
    /// Returns true if the type is an `Option`.
    pub(crate) is_option: fn() -> bool,
    /// Returns the type's name, for messages.
    pub(crate) name: fn() -> &'static str,
}

/// The option `weight` of a function: how much its values weigh.
pub(crate) type WeightFn = Arc<dyn Fn(&Value) -> Option<usize> + Send + Sync>;

/// Makes it of the option `weight`. Where that panics, the value weighs what serde shows of it.
pub(crate) fn weight_fn<V: 'static>(weight: fn(&V) -> usize) -> WeightFn {
    Arc::new(move |value| catch_panic(|| value.downcast_ref::<V>().map(weight))?)
}

/// `None` where `run` panics. It leaves nothing behind: what it makes is lost with it.
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

/// What a function declares about its values.
pub(crate) struct ValueRules<V> {
    /// Whether a value is cached.
    pub(crate) cache_if: Option<fn(&V) -> bool>,
    /// How long it is.
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

/// What is decided about one value.
#[derive(Clone, Copy)]
pub(crate) struct CachingDecision {
    /// The value is a `None`, which is cached only under `none_ttl`.
    pub(crate) is_none: bool,
    pub(crate) is_cacheable: bool,
    pub(crate) ttl: Option<Duration>,
}

impl<V: CachedValue> ValueRules<V> {
    pub(crate) fn decide(&self, value: &V) -> CachingDecision {
        CachingDecision {
            is_none: variant::is_none(value),
            // A generic function may be declared `infallible` and return a `Result` all the same.
            is_cacheable: !variant::is_err(value)
                && self.cache_if.is_none_or(|cache_if| cache_if(value)),
            ttl: self.ttl_with.map(|ttl_with| ttl_with(value)),
        }
    }
}

impl<V: 'static> ValueRules<V> {
    /// The same of a value that is stored, and so cached. It is an answer already: where its own
    /// code panics the declaration says what it does not.
    pub(crate) fn decide_stored(&self, value: &Value, value_type: &ValueType) -> CachingDecision {
        let ttl_with = self.ttl_with.zip(value.downcast_ref::<V>());
        let ttl = ttl_with.and_then(|(ttl_with, value)| catch_panic(|| ttl_with(value)));
        CachingDecision { is_none: (value_type.is_none)(value), is_cacheable: true, ttl }
    }
}

/// What the path of a call must know of a function's return type.
pub(crate) struct ReturnType<R, V> {
    /// Splits what the function returned into a value and what the caller gets.
    pub(crate) split: fn(R, &ValueRules<V>) -> FetchOutput<R>,
    /// See [`rebuild_into`].
    pub(crate) rebuild_into: fn(&Value, &mut Option<R>) -> bool,
    pub(crate) errors: ErrorSharing<R>,
    pub(crate) value_type: &'static ValueType,
    pub(crate) rules: ValueRules<V>,
}

pub(crate) enum FetchOutput<R> {
    Value(Value, CachingDecision),
    Error(R),
}

impl<R, V> ReturnType<R, V> {
    pub(crate) fn new<Mode>(errors: ErrorSharing<R>) -> ReturnType<R, V>
    where
        R: Returned<Mode, Value = V>,
        V: CachedValue,
    {
        ReturnType {
            split: |returned, rules| match returned.into_cached() {
                Ok(value) => {
                    let verdict = rules.decide(&value);
                    FetchOutput::Value(Arc::new(value), verdict)
                }
                Err(returned) => FetchOutput::Error(returned),
            },
            rebuild_into: rebuild_into::<R, Mode>,
            errors,
            value_type: ValueType::of::<V>(),
            rules: ValueRules::NONE,
        }
    }

    /// What the function returns for a cached value; `None` where the value is of another type.
    pub(crate) fn rebuild(&self, value: &Value) -> Option<R> {
        let mut place = None;
        (self.rebuild_into)(value, &mut place);
        place
    }
}

/// Puts what the function returns for a cached value in its place; `false` where the value is of
/// another type. Put and not handed on: a value is slow to move that was only just written.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn rebuild_into<R, Mode>(value: &Value, place: &mut Option<R>) -> bool
where
    R: Returned<Mode, Value: CachedValue>,
{
    let Some(value) = value.downcast_ref::<R::Value>() else { return false };
    // There is nothing in it yet; without this it would be asked whether there is.
    std::mem::forget(place.replace(R::from_cached(value.clone())));
    true
}

/// How followers of a failed fetch get its error. Empty if the error type cannot be shared.
pub struct ErrorSharing<R>(Option<ShareError<R>>);

struct ShareError<R> {
    share: fn(&R) -> Option<SharedError>,
    clone: fn(&SharedError) -> Option<R>,
}

impl<R> ErrorSharing<R> {
    /// Clones the error out of a function's result, if its type can be shared.
    pub(crate) fn share(&self, returned: &R) -> Option<SharedError> {
        (self.0.as_ref()?.share)(returned)
    }

    /// Returns the `Err` of a function for a shared error.
    pub(crate) fn clone_of(&self, error: &SharedError) -> Option<R> {
        (self.0.as_ref()?.clone)(error)
    }
}

/// Finds out at compile time whether the error in `R` can be shared.
///
/// Method resolution prefers an inherent method of `ErrorProbe` to one of [`ErrorFallback`], which
/// is behind `Deref`. The inherent method exists only for a `Result` with a `Clone` error, so the
/// fallback serves all other types. Stable Rust has no specialization that could say this.
pub struct ErrorProbe<R> {
    fallback: ErrorFallback<R>,
}

/// The methods of [`ErrorProbe`] for a type whose error cannot be shared.
#[doc(hidden)]
pub struct ErrorFallback<R>(PhantomData<fn() -> R>);

impl<R> ErrorProbe<R> {
    #[doc(hidden)]
    pub const NEW: ErrorProbe<R> = ErrorProbe { fallback: ErrorFallback(PhantomData) };

    /// For a return type that borrows: its error could not outlive the call.
    #[doc(hidden)]
    pub fn unshared(&self) -> ErrorSharing<R> {
        ErrorSharing(None)
    }
}

impl<T, E: Clone + Send + Sync + 'static> ErrorProbe<Result<T, E>> {
    #[doc(hidden)]
    pub fn sharing(&self) -> ErrorSharing<Result<T, E>> {
        ErrorSharing(Some(ShareError {
            share: |returned| {
                let error = returned.as_ref().err()?;
                Some(Arc::new(error.clone()))
            },
            clone: |error| error.downcast_ref::<E>().cloned().map(Err),
        }))
    }
}

impl<T, E> ErrorProbe<Result<T, E>> {
    /// Chosen for a `Result` under the option `infallible`, and does not compile.
    #[doc(hidden)]
    pub fn infallible(&self) -> ErrorSharing<Result<T, E>>
    where
        Result<T, E>: NeverFails,
    {
        ErrorSharing(None)
    }
}

/// Implemented for no type: only a `Result` under the option `infallible` is asked for it.
#[diagnostic::on_unimplemented(
    message = "a `Result` can fail, so it cannot be cached whole",
    label = "the `Ok` of this `Result` is cached without `infallible`",
    note = "remove the option `infallible`"
)]
pub trait NeverFails {}

impl<R> Deref for ErrorProbe<R> {
    type Target = ErrorFallback<R>;
    fn deref(&self) -> &ErrorFallback<R> {
        &self.fallback
    }
}

impl<R> ErrorFallback<R> {
    #[doc(hidden)]
    pub fn sharing(&self) -> ErrorSharing<R> {
        ErrorSharing(None)
    }

    #[doc(hidden)]
    pub fn infallible(&self) -> ErrorSharing<R> {
        ErrorSharing(None)
    }
}
