//! The serde types around the codec's own deserializer: they pass a request on once the checker has
//! granted it, and wrap what is nested.

mod visitor;

use std::any::type_name;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, Visitor};

use super::{Location, RequestChecker, TypeRequest};
use crate::stable_hash::StableHash;
use visitor::CheckedVisitor;

fn refused<E: de::Error>() -> E {
    E::custom("the value was stored by a build in which this type is another")
}

fn no_names(hash: StableHash) -> StableHash {
    hash
}

fn texts(hash: StableHash, texts: &[&str]) -> StableHash {
    texts.iter().fold(hash.word(texts.len() as u64), |hash, text| hash.text(text))
}

/// Reads the whole value.
pub(super) struct RootSeed<'g, 'o, V> {
    checker: &'g mut RequestChecker<'o>,
    value: PhantomData<V>,
}

impl<'g, 'o, V> RootSeed<'g, 'o, V> {
    pub(super) fn new(checker: &'g mut RequestChecker<'o>) -> RootSeed<'g, 'o, V> {
        RootSeed { checker, value: PhantomData }
    }
}

impl<'de, V: Deserialize<'de>> DeserializeSeed<'de> for RootSeed<'_, '_, V> {
    type Value = V;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V, D::Error> {
        let member =
            MemberSeed { seed: PhantomData, checker: self.checker, of: Location::ROOT, index: 0 };
        member.deserialize(deserializer)
    }
}

/// A member that is read next. The type that its seed makes must be the one that was read there: it
/// is told no more if it is not.
struct MemberSeed<'g, 'o, S> {
    seed: S,
    checker: &'g mut RequestChecker<'o>,
    of: Location,
    index: u64,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for MemberSeed<'_, '_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        let MemberSeed { seed, checker, of, index } = self;
        let location = checker.location_of::<S::Value>();
        if !checker.grants(TypeRequest::Member.at(of).word(index).hash(location.0)) {
            return Err(refused());
        }
        let read = checker
            .nest(|checker| seed.deserialize(CheckedDeserializer { inner, checker, location }));
        read.unwrap_or_else(|| Err(refused()))
    }
}

/// A deserializer whose requests are made at a location.
struct CheckedDeserializer<'g, 'o, D> {
    inner: D,
    checker: &'g mut RequestChecker<'o>,
    location: Location,
}

impl<'de, 'g, 'o, D: Deserializer<'de>> CheckedDeserializer<'g, 'o, D> {
    /// Makes a request for a visitor that makes a `T`; returns the location of `T`.
    fn ask<T>(
        self,
        request: TypeRequest,
        names: impl FnOnce(StableHash) -> StableHash,
    ) -> Result<(D, &'g mut RequestChecker<'o>, Location), D::Error> {
        let CheckedDeserializer { inner, checker, location } = self;
        let own = checker.location_of::<T>();
        if checker.grants(names(request.at(location).hash(own.0))) {
            Ok((inner, checker, own))
        } else {
            Err(refused())
        }
    }
}

macro_rules! leaves {
    ($($method:ident $request:ident;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            let (inner, ..) = self.ask::<V::Value>(TypeRequest::$request, no_names)?;
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
        // The codec refuses these three.
        deserialize_any Any;
        deserialize_identifier Any;
        deserialize_ignored_any Any;
    }

    // The codec answers the same, so a type takes the same way with and without a checker.
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let (inner, checker, own) = self.ask::<V::Value>(TypeRequest::Option, no_names)?;
        inner.deserialize_option(CheckedVisitor::new(visitor, checker, own))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let (inner, ..) = self.ask::<V::Value>(TypeRequest::UnitStruct, |hash| hash.text(name))?;
        inner.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let names = |hash: StableHash| hash.text(name);
        let (inner, checker, own) = self.ask::<V::Value>(TypeRequest::Newtype, names)?;
        inner.deserialize_newtype_struct(name, CheckedVisitor::new(visitor, checker, own))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let (inner, checker, own) = self.ask::<V::Value>(TypeRequest::Seq, no_names)?;
        inner.deserialize_seq(CheckedVisitor::new(visitor, checker, own).of_one_place())
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let names = |hash: StableHash| hash.word(length as u64);
        let (inner, checker, own) = self.ask::<V::Value>(TypeRequest::Tuple, names)?;
        let contents = CheckedVisitor::new(visitor, checker, own);
        // An array's name says that its elements are of one type.
        match type_name::<V::Value>().starts_with('[') {
            true => inner.deserialize_tuple(length, contents.of_one_place()),
            false => inner.deserialize_tuple(length, contents),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let names = |hash: StableHash| hash.text(name).word(length as u64);
        let (inner, checker, own) = self.ask::<V::Value>(TypeRequest::TupleStruct, names)?;
        inner.deserialize_tuple_struct(name, length, CheckedVisitor::new(visitor, checker, own))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let (inner, checker, own) = self.ask::<V::Value>(TypeRequest::Map, no_names)?;
        inner.deserialize_map(CheckedVisitor::new(visitor, checker, own))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let names = |hash: StableHash| texts(hash.text(name), fields);
        let (inner, checker, own) = self.ask::<V::Value>(TypeRequest::Struct, names)?;
        inner.deserialize_struct(name, fields, CheckedVisitor::new(visitor, checker, own))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        // Only the variants that a value has count: a build that adds one at the end reads the
        // others.
        let names = |hash: StableHash| hash.text(name);
        let (inner, checker, own) = self.ask::<V::Value>(TypeRequest::Enum, names)?;
        let contents = CheckedVisitor::new(visitor, checker, own).of_variants(variants);
        inner.deserialize_enum(name, variants, contents)
    }
}
