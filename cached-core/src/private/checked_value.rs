//! The bounds that a cached value must have, and the methods of a [`LookupBuilder`] that require
//! them.
//!
//! A value that memcached may store must be a [`CachedValue`]. If it is not, the compiler should
//! name the missing bound. If both `Serialize` and `Deserialize` are missing, the compiler should
//! report one error, not two. For this there are three methods named `begin`. Method resolution
//! chooses the first that exists for the value:
//!
//! 1. The method of the builder exists only for a `CachedValue`.
//! 2. The method of [`WithoutDeserialize`] exists only for a value that is `Serialize`. It is found
//!    through `Deref`.
//! 3. The method of [`WithoutSerialize`] exists for every value. It is found through a second
//!    `Deref`.
//!
//! The last two require a bound that the value does not meet. So a call of either does not compile,
//! and the compiler's error names the bound.
//!
//! If a generic function lacks a bound, the compiler suggests the bounds of the called method.
//! `begin_generic` therefore states exactly the bounds that a user should add.

use std::marker::PhantomData;
use std::ops::Deref;

use super::entry_builder::EntryBuilder;
use super::lookup::{Lookup, LookupBuilder};
use crate::key::KeyParts;
use crate::round_trip::RoundTripFns;
use crate::value::bounds::{ClonedValue, DeserializedValue, SerializedValue};
use crate::value::local::Weigher;
use crate::value::{CachedValue, Returned, ValueOperations};

/// Marker for a function whose values may be stored in every tier.
pub struct AllTiers(());

/// Marker for a function with the option `remote = false`. `ValueWeigher` is a [`Weigher`].
pub struct LocalTiers<ValueWeigher>(PhantomData<ValueWeigher>);

impl<'k, R, V: CachedValue, Mode, Identifier: KeyParts, Version: KeyParts, Constants: KeyParts>
    LookupBuilder<'k, R, V, Mode, AllTiers, (Identifier, Version), Constants>
{
    /// Turns the builder into the lookup of one call of the annotated function.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn begin(self) -> Lookup<'k, R, V, (Identifier, Version), Constants>
    where
        R: Returned<Mode, Value = V>,
    {
        self.begin_with(ValueOperations::of::<V>())
    }

    /// Finishes the builder for a companion, the function that the option `entry` generates.
    pub fn entry<Policy>(self, round_trip: RoundTripFns) -> EntryBuilder<V, Policy> {
        self.entry_with(ValueOperations::of::<V>(), round_trip)
    }
}

impl<'k, R, V, Mode, Identifier: KeyParts, Version: KeyParts, Constants: KeyParts>
    LookupBuilder<'k, R, V, Mode, AllTiers, (Identifier, Version), Constants>
{
    /// Does what [`begin`](Self::begin) does, for a return type that mentions a type parameter.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn begin_generic(self) -> Lookup<'k, R, V, (Identifier, Version), Constants>
    where
        R: Returned<Mode, Value = V>,
        V: CachedValue,
    {
        self.begin_with(ValueOperations::of::<V>())
    }
}

impl<'k, R, V, Mode, ValueWeigher, Identifier: KeyParts, Version: KeyParts, Constants: KeyParts>
    LookupBuilder<'k, R, V, Mode, LocalTiers<ValueWeigher>, (Identifier, Version), Constants>
{
    /// Turns the builder into the lookup of one call of the annotated function.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn begin(self) -> Lookup<'k, R, V, (Identifier, Version), Constants>
    where
        R: Returned<Mode, Value = V>,
        V: ClonedValue + Send + Sync + 'static,
        ValueWeigher: Weigher<V>,
    {
        self.begin_with(ValueOperations::of_local::<V, ValueWeigher>())
    }

    /// Does what [`begin`](Self::begin) does, for a return type that mentions a type parameter.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub fn begin_generic(self) -> Lookup<'k, R, V, (Identifier, Version), Constants>
    where
        R: Returned<Mode, Value = V>,
        V: Clone + Send + Sync + 'static,
        ValueWeigher: Weigher<V>,
    {
        self.begin_with(ValueOperations::of_local::<V, ValueWeigher>())
    }
}

impl<R, V, Mode, ValueWeigher, Identifier: KeyParts, Version: KeyParts, Constants: KeyParts>
    LookupBuilder<'_, R, V, Mode, LocalTiers<ValueWeigher>, (Identifier, Version), Constants>
where
    V: Clone + Send + Sync + 'static,
    ValueWeigher: Weigher<V>,
{
    /// Finishes the builder for a companion, the function that the option `entry` generates.
    pub fn entry<Policy>(self, round_trip: RoundTripFns) -> EntryBuilder<V, Policy> {
        self.entry_with(ValueOperations::of_local::<V, ValueWeigher>(), round_trip)
    }
}

/// The methods of a [`LookupBuilder`] whose value is `Serialize` but not a [`CachedValue`].
#[doc(hidden)]
pub struct WithoutDeserialize<'k, R, V, Parts, Constants>(
    WithoutSerialize<'k, R, V, Parts, Constants>,
);

/// The methods of a [`LookupBuilder`] whose value is not `Serialize`.
#[doc(hidden)]
#[allow(clippy::type_complexity, reason = "an alias would only hide the parameters again")]
pub struct WithoutSerialize<'k, R, V, Parts, Constants>(
    PhantomData<fn() -> Lookup<'k, R, V, Parts, Constants>>,
);

impl<'k, R, V: SerializedValue, Parts, Constants> WithoutDeserialize<'k, R, V, Parts, Constants> {
    #[doc(hidden)]
    pub fn begin(&self) -> Lookup<'k, R, V, Parts, Constants>
    where
        V: ClonedValue + DeserializedValue + Send + Sync + 'static,
    {
        unreachable!("a value with these bounds is a `CachedValue`")
    }
}

impl<'k, R, V, Parts, Constants> WithoutSerialize<'k, R, V, Parts, Constants> {
    #[doc(hidden)]
    pub fn begin(&self) -> Lookup<'k, R, V, Parts, Constants>
    where
        V: ClonedValue + SerializedValue + Send + Sync + 'static,
    {
        unreachable!("a value that is `Serialize` has another `begin`")
    }

    /// Requires no bound, so that the compiler does not report the function's error again for the
    /// companion.
    #[doc(hidden)]
    pub fn entry<Policy>(&self, _: RoundTripFns) -> EntryBuilder<V, Policy> {
        unreachable!("the annotated function does not compile")
    }
}

impl<'k, R, V, Mode, Tiers, Parts, Constants> Deref
    for LookupBuilder<'k, R, V, Mode, Tiers, Parts, Constants>
{
    type Target = WithoutDeserialize<'k, R, V, Parts, Constants>;
    fn deref(&self) -> &WithoutDeserialize<'k, R, V, Parts, Constants> {
        &WithoutDeserialize(WithoutSerialize(PhantomData))
    }
}

impl<'k, R, V, Parts, Constants> Deref for WithoutDeserialize<'k, R, V, Parts, Constants> {
    type Target = WithoutSerialize<'k, R, V, Parts, Constants>;
    fn deref(&self) -> &WithoutSerialize<'k, R, V, Parts, Constants> {
        &self.0
    }
}
