//! Wrappers around serde's visitors. They check how a type decodes its nested values: the members
//! of a struct, a tuple, a sequence or a map, and the variants of an enum.
//!
//! A *step* is one `deserialize_*` call, the read of one member, or the choice of a variant. The
//! *outline* of a stored value is the set of the steps that decoded it when it was stored. The
//! [`StepChecker`] refuses a step that is not in the outline.
//!
//! The step of a member contains its *member index*: the member's position, or a hash of the
//! field's name. A step also contains its *origin*, the place in the type where the step is taken.

use std::any::type_name;
use std::fmt;

use serde::de::value::{StringDeserializer, U32Deserializer};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};

use super::{CheckedDeserializer, CheckedSeed, add_names, refusal};
use crate::codec::Codec;
use crate::outline::{StepChecker, StepKind, StepOrigin, is_buffer};
use crate::stable_hash::StableHasher;

/// The member index of every key of a map.
const KEY: u64 = 0;
/// The member index of every value of a map. If the map is a struct, the index is instead a hash of
/// the field's name.
const VALUE: u64 = 1;
/// The number of different member indexes in a sequence that is decoded with `deserialize_any`.
/// Such a sequence can be a tuple or a list. A tuple's members need different indexes, and a list's
/// outline must stay small.
const MAX_INDEXES: u64 = 8;

/// A wrapper around the type's own visitor. It hands that visitor a checked deserializer for a
/// nested value, and checked access to the members or the variant.
pub(super) struct CheckedVisitor<'c, 'o, V> {
    visitor: V,
    checker: &'c mut StepChecker<'o>,
    /// The origin of the type that is decoded.
    origin: StepOrigin,
    /// The number of different member indexes. If there are more members, they share the last
    /// index.
    indexes: u64,
    /// The names of the variants, if the type is an enum.
    variants: &'static [&'static str],
    /// The names of the fields, if the type is a struct.
    fields: &'static [&'static str],
    /// True if the data is the name of a field.
    is_field_name: bool,
}

impl<'c, 'o, V> CheckedVisitor<'c, 'o, V> {
    pub(super) fn new(
        visitor: V,
        checker: &'c mut StepChecker<'o>,
        origin: StepOrigin,
    ) -> CheckedVisitor<'c, 'o, V> {
        CheckedVisitor {
            visitor,
            checker,
            origin,
            indexes: u64::MAX,
            variants: &[],
            fields: &[],
            is_field_name: false,
        }
    }

    /// Gives all members the same index, because all members have the same type.
    pub(super) fn with_one_index(self) -> CheckedVisitor<'c, 'o, V> {
        CheckedVisitor { indexes: 1, ..self }
    }

    /// Gives each of the first [`MAX_INDEXES`] members an index of its own. The members after them
    /// share the last index.
    pub(super) fn with_many_indexes(self) -> CheckedVisitor<'c, 'o, V> {
        CheckedVisitor { indexes: MAX_INDEXES, ..self }
    }

    pub(super) fn with_fields(self, fields: &'static [&'static str]) -> CheckedVisitor<'c, 'o, V> {
        CheckedVisitor { fields, ..self }
    }

    /// Says that the data is the name of a field. The checker remembers the name, because the step
    /// of the field's value contains it.
    pub(super) fn with_field_name(self) -> CheckedVisitor<'c, 'o, V> {
        CheckedVisitor { is_field_name: true, ..self }
    }

    pub(super) fn with_variants(
        self,
        variants: &'static [&'static str],
    ) -> CheckedVisitor<'c, 'o, V> {
        CheckedVisitor { variants, ..self }
    }
}

impl<V> CheckedVisitor<'_, '_, V> {
    fn keep_field_name(&mut self, name: &str) {
        if self.is_field_name && !self.checker.is_trusting() {
            self.checker.field = Some(field_index(name));
        }
    }
}

/// Returns the member index of a field that is found by its name.
fn field_index(name: &str) -> u64 {
    StableHasher::new(0).text(name).finish()
}

/// Returns the name of the field with this member index: its position, or a hash of its name.
pub(super) fn name_of_field(fields: &[&'static str], index: u64) -> Option<&'static str> {
    let mut fields = fields.iter().copied().zip(0..);
    fields
        .find(|(field, place)| *place == index || field_index(field) == index)
        .map(|(field, _)| field)
}

/// Forwards scalar data to the type's own visitor.
macro_rules! scalars {
    ($($method:ident $type:ty;)*) => {$(
        fn $method<E: de::Error>(self, data: $type) -> Result<V::Value, E> {
            self.visitor.$method(data)
        }
    )*};
}

/// Forwards text to the type's own visitor. If the text is the name of a field, remembers the name
/// first.
macro_rules! texts {
    ($($method:ident $type:ty;)*) => {$(
        fn $method<E: de::Error>(mut self, text: $type) -> Result<V::Value, E> {
            self.keep_field_name(&text);
            self.visitor.$method(text)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for CheckedVisitor<'_, '_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    scalars! {
        visit_bool bool;
        visit_i8 i8;
        visit_i16 i16;
        visit_i32 i32;
        visit_i64 i64;
        visit_i128 i128;
        visit_u8 u8;
        visit_u16 u16;
        visit_u32 u32;
        visit_u64 u64;
        visit_u128 u128;
        visit_f32 f32;
        visit_f64 f64;
        visit_char char;
        visit_bytes &[u8];
        visit_borrowed_bytes &'de [u8];
        visit_byte_buf Vec<u8>;
    }

    texts! {
        visit_str &str;
        visit_borrowed_str &'de str;
        visit_string String;
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let CheckedVisitor { visitor, checker, origin, .. } = self;
        let origin = origin.contents();
        let read = checker
            .nest(|checker| visitor.visit_some(CheckedDeserializer { inner, checker, origin }));
        read.unwrap_or_else(|| Err(refusal()))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let CheckedVisitor { visitor, checker, origin, .. } = self;
        let origin = origin.contents();
        let read = checker.nest(|checker| {
            visitor.visit_newtype_struct(CheckedDeserializer { inner, checker, origin })
        });
        read.unwrap_or_else(|| Err(refusal()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let CheckedVisitor { visitor, checker, origin, indexes, fields, .. } = self;
        visitor.visit_seq(CheckedMemberAccess { inner, checker, origin, indexes, fields, index: 0 })
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let CheckedVisitor { visitor, checker, origin, indexes, fields, .. } = self;
        let index = VALUE;
        visitor.visit_map(CheckedMemberAccess { inner, checker, origin, indexes, fields, index })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let CheckedVisitor { visitor, checker, origin, variants, .. } = self;
        visitor.visit_enum(CheckedEnumAccess { inner, checker, origin, variants })
    }
}

/// A wrapper that decodes the members of a struct, a tuple, a sequence or a map.
struct CheckedMemberAccess<'c, 'o, A> {
    inner: A,
    checker: &'c mut StepChecker<'o>,
    /// The origin of the type that contains the members.
    origin: StepOrigin,
    /// See [`CheckedVisitor::indexes`].
    indexes: u64,
    fields: &'static [&'static str],
    /// The index of the next member. In a map, the index of the next value.
    index: u64,
}

impl<'o, A> CheckedMemberAccess<'_, 'o, A> {
    /// Returns the inner access, and a checked seed for it, which decodes the member.
    fn member<S>(&mut self, seed: S, index: u64) -> (&mut A, CheckedSeed<'_, 'o, S>) {
        let (parent, fields) = (self.origin, self.fields);
        (&mut self.inner, CheckedSeed { seed, checker: &mut *self.checker, parent, index, fields })
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for CheckedMemberAccess<'_, '_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let index = self.index;
        self.index = (index + 1).min(self.indexes - 1);
        let (inner, member) = self.member(seed, index);
        inner.next_element_seed(member)
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for CheckedMemberAccess<'_, '_, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.checker.field = None;
        let (inner, member) = self.member(seed, KEY);
        let key = inner.next_key_seed(member)?;
        self.index = self.checker.field.take().unwrap_or(VALUE);
        Ok(key)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        // serde decodes the values of a flattened map into a buffer, and the map can have many
        // keys. All buffered values share one index, which keeps the outline small.
        let is_buffered = is_buffer(type_name::<S::Value>());
        let index = if is_buffered { VALUE } else { self.index };
        let (inner, member) = self.member(seed, index);
        inner.next_value_seed(member)
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// A wrapper that decodes which variant of an enum was stored, and gives access to the variant's
/// contents.
struct CheckedEnumAccess<'c, 'o, A> {
    inner: A,
    checker: &'c mut StepChecker<'o>,
    origin: StepOrigin,
    variants: &'static [&'static str],
}

impl<'de, 'c, 'o, A: EnumAccess<'de>> EnumAccess<'de> for CheckedEnumAccess<'c, 'o, A> {
    type Error = A::Error;
    type Variant = CheckedVariantAccess<'c, 'o, A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let CheckedEnumAccess { inner, checker, origin, variants } = self;
        let mut contents = StepOrigin::ROOT;
        let seed =
            CheckedVariantSeed { seed, checker, parent: origin, variants, contents: &mut contents };
        let (value, inner) = inner.variant_seed(seed)?;
        Ok((value, CheckedVariantAccess { inner, checker, origin: contents }))
    }
}

/// A seed that decodes which variant was stored. The named codec stores the variant's name, and the
/// positional codec stores its index. The step always contains the name, so the checker refuses an
/// index if the variant at the index has been renamed.
struct CheckedVariantSeed<'c, 'o, S> {
    seed: S,
    checker: &'c mut StepChecker<'o>,
    /// The origin of the enum.
    parent: StepOrigin,
    variants: &'static [&'static str],
    /// Receives the origin of the variant's contents.
    contents: &'c mut StepOrigin,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for CheckedVariantSeed<'_, '_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<S::Value, D::Error> {
        if self.checker.is_trusting() {
            return self.seed.deserialize(deserializer);
        }
        if self.checker.codec == Codec::Named {
            let name = String::deserialize(deserializer)?;
            self.allow(StepKind::Variant.at(self.parent).text(&name))?;
            let name: StringDeserializer<D::Error> = name.into_deserializer();
            return self.seed.deserialize(name);
        }
        let index = u32::deserialize(deserializer)?;
        // If the index is not the index of a variant, the type's own `Deserialize` refuses it.
        let name = self.variants.get(index as usize).copied().unwrap_or_default();
        self.allow(StepKind::Variant.at(self.parent).word(index.into()).text(name))?;
        let index: U32Deserializer<D::Error> = index.into_deserializer();
        self.seed.deserialize(index)
    }
}

impl<S> CheckedVariantSeed<'_, '_, S> {
    /// Returns an error if the checker does not allow the choice of the variant.
    fn allow<E: de::Error>(&mut self, step: StableHasher) -> Result<(), E> {
        if !self.checker.allows(step) {
            return Err(refusal());
        }
        *self.contents = StepOrigin::after(step);
        Ok(())
    }
}

/// A wrapper that decodes the contents of a variant.
struct CheckedVariantAccess<'c, 'o, A> {
    inner: A,
    checker: &'c mut StepChecker<'o>,
    origin: StepOrigin,
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for CheckedVariantAccess<'_, '_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        if !self.checker.allows(StepKind::Unit.at(self.origin)) {
            return Err(refusal());
        }
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        let CheckedVariantAccess { inner, checker, origin } = self;
        if !checker.allows(StepKind::Newtype.at(origin)) {
            return Err(refusal());
        }
        let member = CheckedSeed { seed, checker, parent: origin, index: 0, fields: &[] };
        inner.newtype_variant_seed(member)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        if !self.checker.allows(StepKind::TupleStruct.at(self.origin).word(length as u64)) {
            return Err(refusal());
        }
        self.inner.tuple_variant(length, CheckedVisitor::new(visitor, self.checker, self.origin))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        if !self.checker.allows(add_names(StepKind::Struct.at(self.origin), fields)) {
            return Err(refusal());
        }
        let contents = CheckedVisitor::new(visitor, self.checker, self.origin).with_fields(fields);
        self.inner.struct_variant(fields, contents)
    }
}
