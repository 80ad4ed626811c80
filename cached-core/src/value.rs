//! The values that can be cached, and the return types that contain them.
//!
//! Most of the code behind a call handles an untyped [`Value`], so that it is compiled once for all
//! annotated functions. Where it needs the concrete type, it calls the function pointers in
//! [`ValueOperations`] and [`ReturnOperations`].

pub(crate) mod bounds;
mod error_sharing;
pub(crate) mod local;
mod variant;

use std::any::{Any, type_name};

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::encoded::{self, EncodedValue, EncodedView};
use crate::round_trip::RoundTripCheck;
use crate::unstorable::Unstorable;
use crate::unwind::catch_panic;
use crate::weight;
pub(crate) use error_sharing::SharedError;
pub use error_sharing::{
    ErrorCopier, ErrorProbe, ErrorSharing, FallibleReturn, SendStaticError, error_copier,
};

/// A cached value without its static type. [`ValueOperations`] contains the operations on it.
pub(crate) type Value = Arc<dyn Any + Send + Sync>;

/// A value that can be cached: `Serialize + DeserializeOwned + Clone + Send + Sync + 'static`.
///
/// Every type with these bounds implements the trait automatically. If `T` implements the trait,
/// `Arc<T>` implements it too. A hit on an `Arc<T>` clones only the `Arc`.
///
/// If a function has the option `remote = false`, its values need not implement this trait. They
/// are stored in this process only, so `Clone + Send + Sync + 'static` is enough.
///
/// ```
/// fn is_cached_value<T: cached_core::CachedValue>() {}
/// is_cached_value::<std::sync::Arc<Vec<String>>>();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be cached",
    label = "this value cannot be cached",
    note = "a cached value must be `Serialize + DeserializeOwned + Clone + Send + Sync + 'static`; derive `serde::Serialize`, `serde::Deserialize` and `Clone`, and let the type own its data",
    note = "with the option `remote = false`, which caches it in this process only, `Clone + Send + Sync + 'static` is enough"
)]
pub trait CachedValue: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> CachedValue for T {}

/// Marker for most implementations of [`Returned`]: the return type determines which part is
/// cached. For a `Result`, this is the value in `Ok`. An `Option` or another standard type is
/// cached as a whole.
///
/// A `None` is cached only under the option `none_ttl`.
#[derive(Debug, Clone, Copy)]
pub enum InferredValue {}

/// Marker for the implementation of [`Returned`] that the option `infallible` selects: the whole
/// returned value is cached.
#[derive(Debug, Clone, Copy)]
pub enum WholeValue {}

/// The return type of an annotated function.
///
/// `Result`, `Option` and common standard types such as `String`, `Vec` and tuples of up to six
/// elements implement this trait. You cannot implement the trait for your own types. A function
/// that returns one of your own types needs the option `infallible`.
///
/// `Mode` is the marker `InferredValue` or, under the option `infallible`, `WholeValue`.
#[diagnostic::on_unimplemented(
    message = "the return type `{Self}` does not say which part of it can be cached",
    label = "not a `Result`, an `Option` or a standard type",
    note = "if every `{Self}` may be cached, add the option `infallible` to the attribute; if the function can fail, return a `Result`"
)]
pub trait Returned<Mode>: sealed::Returned<Mode> + Sized {
    /// The part of the return type that is cached. An annotated function compiles only if this type
    /// is a [`CachedValue`] or, with the option `remote = false`, `Clone + Send + Sync + 'static`.
    type Value;

    /// Returns the part to cache, or `self` if `self` is an error.
    #[doc(hidden)]
    fn into_cached(self) -> Result<Self::Value, Self>;

    /// Turns a cached value into the return value.
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

/// Returns true if `V` is an `Arc`, a `String` or a common primitive type. The `clone` of such a
/// type is the standard library's and not the program's. A `clone` of the program could call the
/// cache again or take long. The standard library's does neither, so a hit clones such a value
/// while it borrows the cache's own `Arc`, and need not clone this `Arc` first.
///
/// The function compares the names of types, so that one comparison covers every `Arc`. A type's
/// name begins with the name of its crate, so a false match would need another crate named `alloc`.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn has_trivial_clone<V>() -> bool {
    let name = type_name::<V>();
    name.starts_with("alloc::sync::Arc<")
        || name == "alloc::string::String"
        || is_common_primitive(name)
}

/// Returns true for the name of a common primitive type. Rarer types, such as `i128`, are left out.
#[cfg_attr(not(debug_assertions), inline(always))]
fn is_common_primitive(name: &str) -> bool {
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

/// The operations on values of one type, as functions that take an untyped [`Value`].
///
/// If the type's own `Serialize` or `Deserialize` panics, the panic is caught.
pub(crate) struct ValueOperations {
    /// Encodes a value for memcached; see [`encoded::write`].
    pub(crate) write: fn(&Value, RoundTripCheck) -> Result<EncodedValue, Unstorable>,
    /// Decodes a value; see [`encoded::read`].
    pub(crate) read: fn(EncodedView<'_>) -> Option<Value>,
    /// Estimates how many bytes a value takes in memory; see [`weight`].
    pub(crate) weigh: fn(&Value) -> Option<usize>,
    /// Returns true if the value is the `None` of a standard `Option`.
    pub(crate) is_none: fn(&Value) -> bool,
    /// Returns true if the type is a standard `Option`.
    pub(crate) is_option: fn() -> bool,
    /// Returns the name of the type, for messages.
    pub(crate) name: fn() -> &'static str,
}

/// A function that computes a value's weight for the option `weight`. It returns `None` if the
/// weight must be estimated instead.
pub(crate) type WeightFn = Arc<dyn Fn(&Value) -> Option<usize> + Send + Sync>;

/// Wraps the user's function for the option `weight`. The wrapper returns `None` if `weight`
/// panics.
pub(crate) fn weight_fn<V: 'static>(weight: fn(&V) -> usize) -> WeightFn {
    Arc::new(move |value| catch_panic(|| value.downcast_ref::<V>().map(weight))?)
}

impl ValueOperations {
    /// Returns the operations on values of the type `V`.
    pub(crate) const fn of<V: CachedValue>() -> &'static ValueOperations {
        const {
            &ValueOperations {
                write: |value, check| {
                    let another_type = Unstorable::new("has another type than the entry");
                    let value = value.downcast_ref::<V>().ok_or(another_type)?;
                    let panicked = Unstorable::new("has a trait implementation that panics");
                    catch_panic(|| encoded::write(value, check)).unwrap_or(Err(panicked))
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

/// The function of the option `cache_if` or `ttl_with`. `'p` is the lifetime of the parameters that
/// the function mentions.
pub(crate) type ValueRule<'p, V, T> = Arc<dyn Fn(&V) -> T + Send + Sync + 'p>;

/// The functions of the options `cache_if` and `ttl_with`, which take the value to cache.
pub(crate) struct ValueRules<'p, V> {
    /// Returns true if the value may be cached.
    pub(crate) cache_if: Option<ValueRule<'p, V, bool>>,
    /// Returns how long the value is cached.
    pub(crate) ttl_with: Option<ValueRule<'p, V, Duration>>,
}

impl<V> Clone for ValueRules<'_, V> {
    fn clone(&self) -> Self {
        ValueRules { cache_if: self.cache_if.clone(), ttl_with: self.ttl_with.clone() }
    }
}

impl<V> ValueRules<'_, V> {
    pub(crate) const NONE: Self = ValueRules { cache_if: None, ttl_with: None };
}

/// The decision of the [`ValueRules`]: whether and for how long a value is cached.
#[derive(Clone, Copy)]
pub(crate) struct CachingDecision {
    /// True if the value is a `None`. A `None` is cached only if the function has the option
    /// `none_ttl`.
    pub(crate) is_none: bool,
    /// True if the value is an `Err`. A generic function with the option `infallible` can return a
    /// `Result` for some type arguments.
    pub(crate) is_err: bool,
    /// False if `cache_if` rejects the value, or if the value is an `Err`.
    pub(crate) is_cacheable: bool,
    /// The result of `ttl_with`, if the function has that option.
    pub(crate) ttl: Option<Duration>,
}

impl<V> ValueRules<'_, V> {
    /// Decides whether and how long to cache a value that is not in a tier yet.
    ///
    /// If an option's function panics, the value is not cached. The panic must not reach the
    /// caller, because the fetch has succeeded.
    pub(crate) fn decide(&self, value: &V) -> CachingDecision {
        let is_err = variant::is_err(value);
        let (is_accepted, ttl) = match self {
            ValueRules { cache_if: None, ttl_with: None } => (true, None),
            _ => catch_panic(|| self.apply(value)).unwrap_or((false, None)),
        };
        CachingDecision {
            is_none: variant::is_none(value),
            is_err,
            is_cacheable: !is_err && is_accepted,
            ttl,
        }
    }

    #[cold]
    fn apply(&self, value: &V) -> (bool, Option<Duration>) {
        let is_accepted = self.cache_if.as_ref().is_none_or(|cache_if| cache_if(value));
        (is_accepted, self.ttl_with.as_ref().map(|ttl_with| ttl_with(value)))
    }
}

impl<V: 'static> ValueRules<'_, V> {
    /// Decides how long to cache a value that comes from a tier and not from a fetch. `cache_if` is
    /// not called, because it accepted the value when the value was stored.
    ///
    /// If `ttl_with` panics, the ttl in the attribute applies. The panic must not reach the caller,
    /// because the value is usable.
    pub(crate) fn decide_stored(
        &self,
        value: &Value,
        value_operations: &ValueOperations,
    ) -> CachingDecision {
        let ttl_with = self.ttl_with.as_ref().zip(value.downcast_ref::<V>());
        let ttl = ttl_with.and_then(|(ttl_with, value)| catch_panic(|| ttl_with(value)));
        let is_none = (value_operations.is_none)(value);
        CachingDecision { is_none, is_err: false, is_cacheable: true, ttl }
    }
}

/// The operations on a function's return type `R`. `V` is the part of `R` that is cached.
pub(crate) struct ReturnOperations<R, V> {
    /// Separates a value to cache from an error, and applies the rules to the value.
    pub(crate) split: fn(R, &ValueRules<'_, V>) -> FetchOutput<R>,
    /// The function [`rebuild_into`] for this type.
    pub(crate) rebuild_into: fn(&Value, &mut Option<R>) -> bool,
    pub(crate) error_sharing: ErrorSharing<R>,
    pub(crate) value_operations: &'static ValueOperations,
}

/// The result of running an annotated function.
pub(crate) enum FetchOutput<R> {
    /// The part of the return value to cache, and the decision about this part.
    Value(Value, CachingDecision),
    /// The unchanged return value, which is an error.
    Error(R),
}

impl<R, V> ReturnOperations<R, V> {
    pub(crate) fn new<Mode>(
        error_sharing: ErrorSharing<R>,
        value_operations: &'static ValueOperations,
    ) -> ReturnOperations<R, V>
    where
        R: Returned<Mode, Value = V>,
        V: Clone + Send + Sync + 'static,
    {
        ReturnOperations {
            split: |returned, rules| match returned.into_cached() {
                Ok(value) => {
                    let decision = rules.decide(&value);
                    FetchOutput::Value(Arc::new(value), decision)
                }
                Err(returned) => FetchOutput::Error(returned),
            },
            rebuild_into: rebuild_into::<R, Mode>,
            error_sharing,
            value_operations,
        }
    }

    /// Turns a cached value into the function's return value. Returns `None` if the value is not a
    /// `V`.
    pub(crate) fn rebuild(&self, value: &Value) -> Option<R> {
        let mut target = None;
        (self.rebuild_into)(value, &mut target);
        target
    }
}

/// Turns a cached value into the function's return value, and writes it to `target`, which must be
/// `None`. Returns false if the cached value does not have the expected type.
///
/// The function does not return an `Option<R>`, because the caller would copy the `Option` right
/// after this function wrote it. Such a copy stalls the processor.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(crate) fn rebuild_into<R, Mode>(value: &Value, target: &mut Option<R>) -> bool
where
    R: Returned<Mode, Value: Clone + 'static>,
{
    let Some(value) = value.downcast_ref::<R::Value>() else { return false };
    // The `Option` that `replace` returns is `None`, so `forget` leaks nothing. Without `forget`,
    // the compiler adds code that drops an `R`.
    std::mem::forget(target.replace(R::from_cached(value.clone())));
    true
}
