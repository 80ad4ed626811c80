//! The serde types around the codec's own deserializer: they pass a request on once the guide has
//! granted it, and wrap what is nested.

mod contents;

use std::any::type_name;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, Visitor};

use super::{Guide, Place, Request};
use crate::stable_hash::StableHash;
use contents::Contents;

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
pub(super) struct Root<'g, 'o, V> {
    guide: &'g mut Guide<'o>,
    value: PhantomData<V>,
}

impl<'g, 'o, V> Root<'g, 'o, V> {
    pub(super) fn new(guide: &'g mut Guide<'o>) -> Root<'g, 'o, V> {
        Root { guide, value: PhantomData }
    }
}

impl<'de, V: Deserialize<'de>> DeserializeSeed<'de> for Root<'_, '_, V> {
    type Value = V;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V, D::Error> {
        let member = Member { seed: PhantomData, guide: self.guide, of: Place::ROOT, index: 0 };
        member.deserialize(deserializer)
    }
}

/// A member that is read next. The type that its seed makes must be the one that was read there: it
/// is told no more if it is not.
struct Member<'g, 'o, S> {
    seed: S,
    guide: &'g mut Guide<'o>,
    of: Place,
    index: u64,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Member<'_, '_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        let Member { seed, guide, of, index } = self;
        let place = guide.place_of::<S::Value>();
        if !guide.grants(Request::Member.at(of).word(index).hash(place.0)) {
            return Err(refused());
        }
        let read = guide.nest(|guide| seed.deserialize(Guided { inner, guide, place }));
        read.unwrap_or_else(|| Err(refused()))
    }
}

/// A deserializer whose requests are made at a place.
struct Guided<'g, 'o, D> {
    inner: D,
    guide: &'g mut Guide<'o>,
    place: Place,
}

impl<'de, 'g, 'o, D: Deserializer<'de>> Guided<'g, 'o, D> {
    /// Makes a request for a visitor that makes a `T`; returns the place of `T`.
    fn ask<T>(
        self,
        request: Request,
        names: impl FnOnce(StableHash) -> StableHash,
    ) -> Result<(D, &'g mut Guide<'o>, Place), D::Error> {
        let Guided { inner, guide, place } = self;
        let own = guide.place_of::<T>();
        if guide.grants(names(request.at(place).hash(own.0))) {
            Ok((inner, guide, own))
        } else {
            Err(refused())
        }
    }
}

macro_rules! leaves {
    ($($method:ident $request:ident;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            let (inner, ..) = self.ask::<V::Value>(Request::$request, no_names)?;
            inner.$method(visitor)
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Guided<'_, '_, D> {
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

    // The codec answers the same, so a type takes the same way with and without a guide.
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let (inner, guide, own) = self.ask::<V::Value>(Request::Option, no_names)?;
        inner.deserialize_option(Contents::new(visitor, guide, own))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let (inner, ..) = self.ask::<V::Value>(Request::UnitStruct, |hash| hash.text(name))?;
        inner.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let names = |hash: StableHash| hash.text(name);
        let (inner, guide, own) = self.ask::<V::Value>(Request::Newtype, names)?;
        inner.deserialize_newtype_struct(name, Contents::new(visitor, guide, own))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let (inner, guide, own) = self.ask::<V::Value>(Request::Seq, no_names)?;
        inner.deserialize_seq(Contents::new(visitor, guide, own).of_one_place())
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let names = |hash: StableHash| hash.word(length as u64);
        let (inner, guide, own) = self.ask::<V::Value>(Request::Tuple, names)?;
        let contents = Contents::new(visitor, guide, own);
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
        let (inner, guide, own) = self.ask::<V::Value>(Request::TupleStruct, names)?;
        inner.deserialize_tuple_struct(name, length, Contents::new(visitor, guide, own))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let (inner, guide, own) = self.ask::<V::Value>(Request::Map, no_names)?;
        inner.deserialize_map(Contents::new(visitor, guide, own))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let names = |hash: StableHash| texts(hash.text(name), fields);
        let (inner, guide, own) = self.ask::<V::Value>(Request::Struct, names)?;
        inner.deserialize_struct(name, fields, Contents::new(visitor, guide, own))
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
        let (inner, guide, own) = self.ask::<V::Value>(Request::Enum, names)?;
        let contents = Contents::new(visitor, guide, own).of_variants(variants);
        inner.deserialize_enum(name, variants, contents)
    }
}
