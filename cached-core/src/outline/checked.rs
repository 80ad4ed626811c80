//! Wraps the codec's deserializer, to refuse a value that was stored by a build in which its type
//! was different.
//!
//! A *step* is one `deserialize_*` call that a type's `Deserialize` makes. A wrapper passes a step
//! on to the codec only if the [`StepChecker`] allows the step. The wrapper also wraps the
//! deserializers of nested values.
//!
//! With the positional codec, a type always gets the kind of data that it asks for. With the named
//! codec, it gets the kind that comes next in the data. The checker must know which kind the type
//! got, so each visitor is wrapped too, even the visitor of a number.

mod visitor;

use std::any::type_name;
use std::marker::PhantomData;

use serde::de::{self, DeserializeSeed, Deserializer, Visitor};

use super::{StepChecker, StepKind, StepOrigin, buffering_step};
use crate::stable_hash::StableHasher;
use crate::unstorable::ValuePart;
use visitor::CheckedVisitor;

fn refusal<E: de::Error>() -> E {
    E::custom("the value was stored by a build in which this type was different")
}

/// Adds nothing to the hash of a step, because the step's `deserialize_*` method takes only a
/// visitor.
fn no_arguments(hash: StableHasher) -> StableHasher {
    hash
}

/// Adds the number of fields and their names to the hash of a step.
fn add_names(hash: StableHasher, names: &[&str]) -> StableHasher {
    names.iter().fold(hash.word(names.len() as u64), |hash, name| hash.text(name))
}

/// A wrapper of the serde seed `S`, which decodes one *member* of a type, such as a field or an
/// element. The member's step contains the name of the member's type, so the checker refuses a
/// member whose type has changed.
pub(super) struct CheckedSeed<'c, 'o, S> {
    seed: S,
    checker: &'c mut StepChecker<'o>,
    /// The origin of the member's parent. An origin is a hash that identifies a place in a type.
    parent: StepOrigin,
    /// The index of the member in the type, or the hash of its field's name. Members of the same
    /// type may share an index.
    index: u64,
    /// The names of the fields, if the member is a field.
    fields: &'static [&'static str],
}

impl<'c, 'o, V> CheckedSeed<'c, 'o, PhantomData<V>> {
    /// Returns the seed that decodes the whole value.
    pub(super) fn root(checker: &'c mut StepChecker<'o>) -> Self {
        CheckedSeed { seed: PhantomData, checker, parent: StepOrigin::ROOT, index: 0, fields: &[] }
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for CheckedSeed<'_, '_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        let CheckedSeed { seed, checker, parent, index, fields } = self;
        let origin = checker.enter_member::<S::Value>(parent, !fields.is_empty());
        if !checker.allows(StepKind::Member.at(parent).word(index).hash(origin.0)) {
            return Err(refusal());
        }
        let read = checker
            .nest(|checker| seed.deserialize(CheckedDeserializer { inner, checker, origin }));
        let read = read.unwrap_or_else(|| Err(refusal()));
        if read.is_err() {
            let field = visitor::name_of_field(fields, index);
            let part = ValuePart { field, type_name: type_name::<S::Value>() };
            checker.failed.get_or_insert(part);
        }
        read
    }
}

/// A deserializer that makes a `deserialize_*` call to `inner` only if the checker allows the step.
struct CheckedDeserializer<'c, 'o, D> {
    inner: D,
    checker: &'c mut StepChecker<'o>,
    /// Identifies the place in the type where the step is taken.
    origin: StepOrigin,
}

impl<'de, 'c, 'o, D: Deserializer<'de>> CheckedDeserializer<'c, 'o, D> {
    /// Checks a `deserialize_*` call whose visitor returns a `T`. `arguments` adds the names and
    /// lengths among the call's arguments to the hash of the step.
    ///
    /// Returns the inner deserializer, the checker, and the origin that identifies `T`.
    fn check<T>(
        self,
        kind: StepKind,
        arguments: impl FnOnce(StableHasher) -> StableHasher,
    ) -> Result<(D, &'c mut StepChecker<'o>, StepOrigin), D::Error> {
        let CheckedDeserializer { inner, checker, origin } = self;
        let inner_origin = checker.origin_of::<T>();
        if checker.is_trusting() {
            return Ok((inner, checker, inner_origin));
        }
        if checker.allows(arguments(kind.at(origin).hash(inner_origin.0))) {
            Ok((inner, checker, inner_origin))
        } else {
            Err(refusal())
        }
    }
}

macro_rules! leaves {
    ($($method:ident $kind:ident;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            let (inner, checker, inner_origin) =
                self.check::<V::Value>(StepKind::$kind, no_arguments)?;
            inner.$method(CheckedVisitor::new(visitor, checker, inner_origin))
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
        // The positional codec returns an error for this method, `deserialize_any` and
        // `deserialize_identifier`.
        deserialize_ignored_any Any;
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let origin = self.origin;
        let (inner, checker, inner_origin) = self.check::<V::Value>(StepKind::Any, no_arguments)?;
        // A visitor that returns a different type than the one that is being decoded might fill a
        // buffer, from which the type that is being decoded reads later. This buffering is a step
        // of its own, which the checker must allow.
        if origin.0 != inner_origin.0 && !checker.allows(buffering_step()) {
            return Err(refusal());
        }
        let contents = CheckedVisitor::new(visitor, checker, inner_origin);
        inner.deserialize_any(contents.with_many_indexes())
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let (inner, checker, inner_origin) = self.check::<V::Value>(StepKind::Any, no_arguments)?;
        let contents = CheckedVisitor::new(visitor, checker, inner_origin);
        inner.deserialize_identifier(contents.with_field_name())
    }

    // A type must take the same steps with a checker as without one.
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let (inner, checker, inner_origin) =
            self.check::<V::Value>(StepKind::Option, no_arguments)?;
        inner.deserialize_option(CheckedVisitor::new(visitor, checker, inner_origin))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let arguments = |hash: StableHasher| hash.text(name);
        let (inner, checker, inner_origin) =
            self.check::<V::Value>(StepKind::UnitStruct, arguments)?;
        inner.deserialize_unit_struct(name, CheckedVisitor::new(visitor, checker, inner_origin))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let arguments = |hash: StableHasher| hash.text(name);
        let (inner, checker, inner_origin) =
            self.check::<V::Value>(StepKind::Newtype, arguments)?;
        inner.deserialize_newtype_struct(name, CheckedVisitor::new(visitor, checker, inner_origin))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let (inner, checker, inner_origin) = self.check::<V::Value>(StepKind::Seq, no_arguments)?;
        inner.deserialize_seq(CheckedVisitor::new(visitor, checker, inner_origin).with_one_index())
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let arguments = |hash: StableHasher| hash.word(length as u64);
        let (inner, checker, inner_origin) = self.check::<V::Value>(StepKind::Tuple, arguments)?;
        let contents = CheckedVisitor::new(visitor, checker, inner_origin);
        // The name of an array type starts with a bracket. All elements of an array have one type.
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
        let (inner, checker, inner_origin) =
            self.check::<V::Value>(StepKind::TupleStruct, arguments)?;
        inner.deserialize_tuple_struct(
            name,
            length,
            CheckedVisitor::new(visitor, checker, inner_origin),
        )
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let (inner, checker, inner_origin) = self.check::<V::Value>(StepKind::Map, no_arguments)?;
        inner.deserialize_map(CheckedVisitor::new(visitor, checker, inner_origin))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let arguments = |hash: StableHasher| add_names(hash.text(name), fields);
        let (inner, checker, inner_origin) = self.check::<V::Value>(StepKind::Struct, arguments)?;
        let contents = CheckedVisitor::new(visitor, checker, inner_origin).with_fields(fields);
        inner.deserialize_struct(name, fields, contents)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        // The list of variants is not part of the step, so that a build that adds a variant at the
        // end can still read the earlier variants.
        let arguments = |hash: StableHasher| hash.text(name);
        let (inner, checker, inner_origin) = self.check::<V::Value>(StepKind::Enum, arguments)?;
        let contents = CheckedVisitor::new(visitor, checker, inner_origin).with_variants(variants);
        inner.deserialize_enum(name, variants, contents)
    }
}
