//! The wrappers through which nested values are decoded: the members of a struct, a tuple, a sequence
//! or a map, and the variants of an enum.

use std::fmt;

use serde::de::value::U32Deserializer;
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};

use super::{CheckedDeserializer, CheckedSeed, add_names, refusal};
use crate::outline::{StepChecker, StepKind, StepOrigin};

/// The member index of every key of a map.
const KEY: u64 = 0;
/// The member index of every value of a map.
const VALUE: u64 = 1;

/// A visitor that calls the type's own visitor with a checked deserializer, or with checked access to
/// the members or the variant.
pub(super) struct CheckedVisitor<'c, 'o, V> {
    visitor: V,
    checker: &'c mut StepChecker<'o>,
    /// The origin of the type that is decoded.
    origin: StepOrigin,
    /// True if each member has an index of its own, false if all members have index 0.
    is_indexed: bool,
    /// The names of the variants, if the type is an enum.
    variants: &'static [&'static str],
}

impl<'c, 'o, V> CheckedVisitor<'c, 'o, V> {
    pub(super) fn new(
        visitor: V,
        checker: &'c mut StepChecker<'o>,
        origin: StepOrigin,
    ) -> CheckedVisitor<'c, 'o, V> {
        CheckedVisitor { visitor, checker, origin, is_indexed: true, variants: &[] }
    }

    /// Gives all members the same index, because all members have the same type.
    pub(super) fn with_one_index(self) -> CheckedVisitor<'c, 'o, V> {
        CheckedVisitor { is_indexed: false, ..self }
    }

    pub(super) fn with_variants(
        self,
        variants: &'static [&'static str],
    ) -> CheckedVisitor<'c, 'o, V> {
        CheckedVisitor { variants, ..self }
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for CheckedVisitor<'_, '_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
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
        let CheckedVisitor { visitor, checker, origin, is_indexed, .. } = self;
        visitor.visit_seq(CheckedMemberAccess { inner, checker, origin, is_indexed, index: 0 })
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let CheckedVisitor { visitor, checker, origin, .. } = self;
        visitor.visit_map(CheckedMemberAccess {
            inner,
            checker,
            origin,
            is_indexed: false,
            index: 0,
        })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let CheckedVisitor { visitor, checker, origin, variants, .. } = self;
        visitor.visit_enum(CheckedEnumAccess { inner, checker, origin, variants })
    }
}

/// Decodes the members of a struct, a tuple, a sequence or a map.
struct CheckedMemberAccess<'c, 'o, A> {
    inner: A,
    checker: &'c mut StepChecker<'o>,
    /// The origin of the type that contains the members.
    origin: StepOrigin,
    /// See [`CheckedVisitor::is_indexed`].
    is_indexed: bool,
    /// The index of the next member.
    index: u64,
}

impl<'o, A> CheckedMemberAccess<'_, 'o, A> {
    /// Returns the inner access, and the seed with which the inner access decodes the member.
    fn member<S>(&mut self, seed: S, index: u64) -> (&mut A, CheckedSeed<'_, 'o, S>) {
        (
            &mut self.inner,
            CheckedSeed { seed, checker: &mut *self.checker, parent: self.origin, index },
        )
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for CheckedMemberAccess<'_, '_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let index = self.index;
        self.index += u64::from(self.is_indexed);
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
        let (inner, member) = self.member(seed, KEY);
        inner.next_key_seed(member)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let (inner, member) = self.member(seed, VALUE);
        inner.next_value_seed(member)
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// Decodes the index of an enum's variant, and gives access to the contents of the variant.
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

/// Decodes the index of a variant. The step contains the variant's name, so the checker refuses an index
/// that now has another name.
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

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        let index = u32::deserialize(deserializer)?;
        // An index after the last variant has no name. The type's own `Deserialize` refuses the index.
        let name = self.variants.get(index as usize).copied().unwrap_or_default();
        let step = StepKind::Variant.at(self.parent).word(index.into()).text(name);
        if !self.checker.allows(step) {
            return Err(refusal());
        }
        *self.contents = StepOrigin::after(step);
        let index: U32Deserializer<D::Error> = index.into_deserializer();
        self.seed.deserialize(index)
    }
}

/// Decodes the contents of a variant.
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
        inner.newtype_variant_seed(CheckedSeed { seed, checker, parent: origin, index: 0 })
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
        self.inner.struct_variant(fields, CheckedVisitor::new(visitor, self.checker, self.origin))
    }
}
