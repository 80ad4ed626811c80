//! Reads inside a value: the members of a struct, a sequence or a map, and an enum's variant.

use std::fmt;

use serde::de::value::U32Deserializer;
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};

use super::{Guided, Member, refused, texts};
use crate::outline::{Guide, Place, Request};

/// A map's keys are members of this index, and its values of the next.
const KEY: u64 = 0;
const VALUE: u64 = 1;

/// The visitor of a type that contains others.
pub(super) struct Contents<'g, 'o, V> {
    visitor: V,
    guide: &'g mut Guide<'o>,
    place: Place,
    /// Whether each member has an index of its own.
    is_indexed: bool,
    /// An enum's variants.
    variants: &'static [&'static str],
}

impl<'g, 'o, V> Contents<'g, 'o, V> {
    pub(super) fn new(visitor: V, guide: &'g mut Guide<'o>, place: Place) -> Contents<'g, 'o, V> {
        Contents { visitor, guide, place, is_indexed: true, variants: &[] }
    }

    /// For members of one type, however many there are.
    pub(super) fn of_one_place(self) -> Contents<'g, 'o, V> {
        Contents { is_indexed: false, ..self }
    }

    pub(super) fn of_variants(self, variants: &'static [&'static str]) -> Contents<'g, 'o, V> {
        Contents { variants, ..self }
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Contents<'_, '_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let Contents { visitor, guide, place, .. } = self;
        let place = place.contents();
        let read = guide.nest(|guide| visitor.visit_some(Guided { inner, guide, place }));
        read.unwrap_or_else(|| Err(refused()))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let Contents { visitor, guide, place, .. } = self;
        let place = place.contents();
        let read = guide.nest(|guide| visitor.visit_newtype_struct(Guided { inner, guide, place }));
        read.unwrap_or_else(|| Err(refused()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let Contents { visitor, guide, place, is_indexed, .. } = self;
        visitor.visit_seq(Members { inner, guide, place, is_indexed, index: 0 })
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let Contents { visitor, guide, place, .. } = self;
        visitor.visit_map(Members { inner, guide, place, is_indexed: false, index: 0 })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let Contents { visitor, guide, place, variants, .. } = self;
        visitor.visit_enum(Enum { inner, guide, place, variants })
    }
}

struct Members<'g, 'o, A> {
    inner: A,
    guide: &'g mut Guide<'o>,
    place: Place,
    is_indexed: bool,
    index: u64,
}

impl<'o, A> Members<'_, 'o, A> {
    fn member<S>(&mut self, seed: S, index: u64) -> (&mut A, Member<'_, 'o, S>) {
        (&mut self.inner, Member { seed, guide: &mut *self.guide, of: self.place, index })
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Members<'_, '_, A> {
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

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<'_, '_, A> {
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

/// An enum whose variant is not read yet.
struct Enum<'g, 'o, A> {
    inner: A,
    guide: &'g mut Guide<'o>,
    place: Place,
    variants: &'static [&'static str],
}

impl<'de, 'g, 'o, A: EnumAccess<'de>> EnumAccess<'de> for Enum<'g, 'o, A> {
    type Error = A::Error;
    type Variant = Variant<'g, 'o, A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let Enum { inner, guide, place, variants } = self;
        let mut variant = Place::ROOT;
        let seed = VariantIndex { seed, guide, of: place, variants, variant: &mut variant };
        let (value, inner) = inner.variant_seed(seed)?;
        Ok((value, Variant { inner, guide, place: variant }))
    }
}

/// The index of a variant, which is read next. It must stand for a variant of the same name.
struct VariantIndex<'g, 'o, S> {
    seed: S,
    guide: &'g mut Guide<'o>,
    of: Place,
    variants: &'static [&'static str],
    /// Is set to the place of the variant's contents.
    variant: &'g mut Place,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for VariantIndex<'_, '_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        let index = u32::deserialize(deserializer)?;
        // Beyond the last variant there is no name, and the type itself refuses the index.
        let name = self.variants.get(index as usize).copied().unwrap_or_default();
        let request = Request::Variant.at(self.of).word(index.into()).text(name);
        if !self.guide.grants(request) {
            return Err(refused());
        }
        *self.variant = Place::after(request);
        let index: U32Deserializer<D::Error> = index.into_deserializer();
        self.seed.deserialize(index)
    }
}

/// A variant whose contents are read next.
struct Variant<'g, 'o, A> {
    inner: A,
    guide: &'g mut Guide<'o>,
    place: Place,
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Variant<'_, '_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        if !self.guide.grants(Request::Unit.at(self.place)) {
            return Err(refused());
        }
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        let Variant { inner, guide, place } = self;
        if !guide.grants(Request::Newtype.at(place)) {
            return Err(refused());
        }
        inner.newtype_variant_seed(Member { seed, guide, of: place, index: 0 })
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        if !self.guide.grants(Request::TupleStruct.at(self.place).word(length as u64)) {
            return Err(refused());
        }
        self.inner.tuple_variant(length, Contents::new(visitor, self.guide, self.place))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        if !self.guide.grants(texts(Request::Struct.at(self.place), fields)) {
            return Err(refused());
        }
        self.inner.struct_variant(fields, Contents::new(visitor, self.guide, self.place))
    }
}
