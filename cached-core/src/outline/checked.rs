//! Wrappers around the codec's deserializer. They pass a request on only if the checker allows it,
//! and wrap nested deserializers in the same way.

mod visitor;

use std::any::type_name;
use std::marker::PhantomData;

use serde::de::{self, DeserializeSeed, Deserializer, Visitor};

use super::{StepChecker, StepKind, TypeLocation};
use crate::stable_hash::StableHasher;
use visitor::CheckedVisitor;

fn refusal<E: de::Error>() -> E {
    E::custom("the value was stored by a build in which this type was different")
}

/// For requests that have no names.
fn no_arguments(hash: StableHasher) -> StableHasher {
    hash
}

/// Adds the names of fields to a request.
fn add_names(hash: StableHasher, names: &[&str]) -> StableHasher {
    names.iter().fold(hash.word(names.len() as u64), |hash, name| hash.text(name))
}

/// Reads one member of a value. The read fails if another type was read there when the outline was
/// recorded.
pub(super) struct CheckedSeed<'c, 'o, S> {
    seed: S,
    checker: &'c mut StepChecker<'o>,
    parent: TypeLocation,
    index: u64,
}

impl<'c, 'o, V> CheckedSeed<'c, 'o, PhantomData<V>> {
    /// Reads the value as a whole.
    pub(super) fn root(checker: &'c mut StepChecker<'o>) -> Self {
        CheckedSeed { seed: PhantomData, checker, parent: TypeLocation::ROOT, index: 0 }
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for CheckedSeed<'_, '_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        let CheckedSeed { seed, checker, parent, index } = self;
        let location = checker.location_of::<S::Value>();
        if !checker.allows(StepKind::Member.at(parent).word(index).hash(location.0)) {
            return Err(refusal());
        }
        let read = checker
            .nest(|checker| seed.deserialize(CheckedDeserializer { inner, checker, location }));
        read.unwrap_or_else(|| Err(refusal()))
    }
}

/// A deserializer whose requests are checked. They are made at `location`.
struct CheckedDeserializer<'c, 'o, D> {
    inner: D,
    checker: &'c mut StepChecker<'o>,
    location: TypeLocation,
}

impl<'de, 'c, 'o, D: Deserializer<'de>> CheckedDeserializer<'c, 'o, D> {
    /// Checks a request for a `T`. Returns the parts of `self`, with the location of `T`.
    fn check<T>(
        self,
        kind: StepKind,
        arguments: impl FnOnce(StableHasher) -> StableHasher,
    ) -> Result<(D, &'c mut StepChecker<'o>, TypeLocation), D::Error> {
        let CheckedDeserializer { inner, checker, location } = self;
        let inner_location = checker.location_of::<T>();
        if checker.allows(arguments(kind.at(location).hash(inner_location.0))) {
            Ok((inner, checker, inner_location))
        } else {
            Err(refusal())
        }
    }
}

macro_rules! leaves {
    ($($method:ident $kind:ident;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            let (inner, ..) = self.check::<V::Value>(StepKind::$kind, no_arguments)?;
            inner.$method(visitor)
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for CheckedDeserializer<'_, '_, D> {
    type Error = D::Error;

    leaves! {
        deserialize_bool Bool;
        deserialize_char Char;
        deserialize_i8 I8;
        deserialize_i16 I16;
        deserialize_i32 I32;
        deserialize_i64 I64;
        deserialize_i128 I128;
        deserialize_u8 U8;
        deserialize_u16 U16;
        deserialize_u32 U32;
        deserialize_u64 U64;
        deserialize_u128 U128;
        deserialize_f32 F32;
        deserialize_f64 F64;
        deserialize_str Str;
        deserialize_string Str;
        deserialize_bytes Bytes;
        deserialize_byte_buf Bytes;
        deserialize_unit Unit;
        // The codec does not support these three.
        deserialize_any Any;
        deserialize_identifier Any;
        deserialize_ignored_any Any;
    }

    // A type must make the same requests with and without a checker.
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let (inner, checker, inner_location) =
            self.check::<V::Value>(StepKind::Option, no_arguments)?;
        inner.deserialize_option(CheckedVisitor::new(visitor, checker, inner_location))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let (inner, ..) = self.check::<V::Value>(StepKind::UnitStruct, |hash| hash.text(name))?;
        inner.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let arguments = |hash: StableHasher| hash.text(name);
        let (inner, checker, inner_location) =
            self.check::<V::Value>(StepKind::Newtype, arguments)?;
        inner
            .deserialize_newtype_struct(name, CheckedVisitor::new(visitor, checker, inner_location))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let (inner, checker, inner_location) =
            self.check::<V::Value>(StepKind::Seq, no_arguments)?;
        inner
            .deserialize_seq(CheckedVisitor::new(visitor, checker, inner_location).with_one_index())
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let arguments = |hash: StableHasher| hash.word(length as u64);
        let (inner, checker, inner_location) =
            self.check::<V::Value>(StepKind::Tuple, arguments)?;
        let contents = CheckedVisitor::new(visitor, checker, inner_location);
        // The name of an array type starts with a bracket. Its elements have one type.
        match type_name::<V::Value>().starts_with('[') {
            true => inner.deserialize_tuple(length, contents.with_one_index()),
            false => inner.deserialize_tuple(length, contents),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let arguments = |hash: StableHasher| hash.text(name).word(length as u64);
        let (inner, checker, inner_location) =
            self.check::<V::Value>(StepKind::TupleStruct, arguments)?;
        inner.deserialize_tuple_struct(
            name,
            length,
            CheckedVisitor::new(visitor, checker, inner_location),
        )
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let (inner, checker, inner_location) =
            self.check::<V::Value>(StepKind::Map, no_arguments)?;
        inner.deserialize_map(CheckedVisitor::new(visitor, checker, inner_location))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let arguments = |hash: StableHasher| add_names(hash.text(name), fields);
        let (inner, checker, inner_location) =
            self.check::<V::Value>(StepKind::Struct, arguments)?;
        inner.deserialize_struct(
            name,
            fields,
            CheckedVisitor::new(visitor, checker, inner_location),
        )
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        // The list of variants is not part of the request: a build that adds a variant at the end
        // can still read the others.
        let arguments = |hash: StableHasher| hash.text(name);
        let (inner, checker, inner_location) = self.check::<V::Value>(StepKind::Enum, arguments)?;
        let contents =
            CheckedVisitor::new(visitor, checker, inner_location).with_variants(variants);
        inner.deserialize_enum(name, variants, contents)
    }
}
