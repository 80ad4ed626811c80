//! The forms of the serde data model, as the trace writes them and makes values up for them.

use std::any::type_name;

use serde::de::value::U32Deserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::{Ended, Trace};

/// Made up in turn for a type that takes a text: most take any.
const TEXTS: &[&str] = &[
    "",
    "1",
    "a",
    "2000-01-01",
    "00:00:00",
    "2000-01-01T00:00:00",
    "2000-01-01T00:00:00Z",
    "00000000-0000-0000-0000-000000000000",
    "127.0.0.1",
    "127.0.0.1:1",
    "::1",
    "[::1]:1",
    "http://a/",
    "a@b.cc",
    "EUR",
    "UTC",
    "+00:00",
    "1.0.0",
    "en",
];

/// The same for bytes.
const BYTES: &[&[u8]] = &[&[], &[0; 4], &[0; 8], &[0; 12], &[0; 16], &[0; 32], &[0; 64]];

/// One byte for each form; fingerprints depend on them.
const ANY: u8 = b'?';
const STR: u8 = b's';
const BYTE_BUF: u8 = b'b';
const UNIT: u8 = b'0';
const OPTION: u8 = b'o';
const UNIT_STRUCT: u8 = b'U';
const NEWTYPE: u8 = b'N';
const SEQ: u8 = b'q';
const TUPLE: u8 = b't';
const TUPLE_STRUCT: u8 = b'T';
const MAP: u8 = b'm';
const STRUCT: u8 = b'S';
const ENUM: u8 = b'E';
const FIELD: u8 = b'.';
const VARIANT: u8 = b'|';
const IDENTIFIER: u8 = b'i';
const IGNORED: u8 = b'_';
const END: u8 = b';';

/// What a collection is called, without its path and its elements. A list and a set ask for the same
/// and write the same, but the set has lost the list's order. How the compiler writes a path may
/// change; the last word of it has not.
fn collection<T>() -> &'static str {
    let path = type_name::<T>();
    let path = path.split_once('<').map_or(path, |(path, _)| path);
    path.rsplit_once("::").map_or(path, |(_, name)| name)
}

/// Deserializes made-up values, and writes down what it is asked for.
pub(super) struct Tracer<'t>(pub(super) &'t mut Trace);

macro_rules! leaves {
    ($($method:ident $visit:ident $letter:literal $value:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
            self.0.bytes.extend_from_slice($letter);
            self.0.last = None;
            visitor.$visit($value)
        }
    )*};
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Ended;

    leaves! {
        deserialize_bool visit_bool b"z" false;
        deserialize_char visit_char b"c" 'a';
        deserialize_i8 visit_i8 b"i1" 1;
        deserialize_i16 visit_i16 b"i2" 1;
        deserialize_i32 visit_i32 b"i4" 1;
        deserialize_i64 visit_i64 b"i8" 1;
        deserialize_i128 visit_i128 b"ig" 1;
        deserialize_u8 visit_u8 b"u1" 1;
        deserialize_u16 visit_u16 b"u2" 1;
        deserialize_u32 visit_u32 b"u4" 1;
        deserialize_u64 visit_u64 b"u8" 1;
        deserialize_u128 visit_u128 b"ug" 1;
        deserialize_f32 visit_f32 b"f4" 1.0;
        deserialize_f64 visit_f64 b"f8" 1.0;
    }

    // The codec's own answer, so that a type takes the same way here and there.
    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Ended> {
        self.0.word(ANY);
        Err(Ended::Opaque)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        self.0.word(STR);
        let choice = self.0.choose(type_name::<V>(), TEXTS.len());
        visitor.visit_str(TEXTS[choice])
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        self.0.word(BYTE_BUF);
        let choice = self.0.choose(type_name::<V>(), BYTES.len());
        visitor.visit_bytes(BYTES[choice])
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        self.0.word(OPTION);
        self.within::<V, _>(|trace| match trace.closing {
            0 => visitor.visit_some(Tracer(trace)),
            _ => visitor.visit_none(),
        })
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        self.0.word(UNIT);
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Ended> {
        self.0.word(UNIT_STRUCT);
        self.0.text(name);
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Ended> {
        self.0.word(NEWTYPE);
        self.0.text(name);
        self.within::<V, _>(|trace| visitor.visit_newtype_struct(Tracer(trace)))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        self.0.word(SEQ);
        self.0.text(collection::<V::Value>());
        self.within::<V, _>(|trace| {
            let count = usize::from(trace.closing == 0);
            visitor.visit_seq(Members { trace, fields: &[], count })
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        count: usize,
        visitor: V,
    ) -> Result<V::Value, Ended> {
        self.0.word(TUPLE);
        self.within::<V, _>(|trace| visitor.visit_seq(Members { trace, fields: &[], count }))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        count: usize,
        visitor: V,
    ) -> Result<V::Value, Ended> {
        self.0.word(TUPLE_STRUCT);
        self.0.text(name);
        self.within::<V, _>(|trace| visitor.visit_seq(Members { trace, fields: &[], count }))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        self.0.word(MAP);
        self.0.text(collection::<V::Value>());
        self.within::<V, _>(|trace| {
            let count = usize::from(trace.closing == 0);
            visitor.visit_map(Members { trace, fields: &[], count })
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Ended> {
        self.0.word(STRUCT);
        self.0.text(name);
        self.0.texts(fields);
        self.within::<V, _>(|trace| {
            visitor.visit_seq(Members { trace, fields, count: fields.len() })
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Ended> {
        self.0.word(ENUM);
        self.0.text(name);
        self.0.texts(variants);
        self.variant::<V, _>(variants.len(), |trace, choice| {
            let variant = variants.get(choice).copied().unwrap_or_default();
            trace.word(VARIANT);
            trace.text(variant);
            visitor.visit_enum(Variant { trace, index: choice as u32 })
        })
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        self.0.word(IDENTIFIER);
        visitor.visit_u64(0)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        self.0.word(IGNORED);
        visitor.visit_unit()
    }
}

/// So many members, with names where they have some.
struct Members<'t> {
    trace: &'t mut Trace,
    fields: &'static [&'static str],
    count: usize,
}

impl Members<'_> {
    /// Whether there is one more.
    fn next(&mut self) -> bool {
        if self.count == 0 {
            self.trace.word(END);
            return false;
        }
        self.count -= 1;
        self.trace.word(FIELD);
        if let [field, rest @ ..] = self.fields {
            self.fields = rest;
            self.trace.text(field);
        }
        true
    }
}

impl<'de> SeqAccess<'de> for Members<'_> {
    type Error = Ended;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Ended> {
        self.next().then(|| seed.deserialize(Tracer(self.trace))).transpose()
    }
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = Ended;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Ended> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Ended> {
        seed.deserialize(Tracer(self.trace))
    }
}

/// One variant of an enum.
struct Variant<'t> {
    trace: &'t mut Trace,
    index: u32,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Ended;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Ended> {
        let index: U32Deserializer<Ended> = self.index.into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Ended;

    fn unit_variant(self) -> Result<(), Ended> {
        self.trace.word(UNIT);
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Ended> {
        self.trace.word(NEWTYPE);
        seed.deserialize(Tracer(self.trace))
    }

    fn tuple_variant<V: Visitor<'de>>(self, count: usize, visitor: V) -> Result<V::Value, Ended> {
        self.trace.word(TUPLE);
        visitor.visit_seq(Members { trace: self.trace, fields: &[], count })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Ended> {
        self.trace.word(STRUCT);
        self.trace.texts(fields);
        visitor.visit_seq(Members { trace: self.trace, fields, count: fields.len() })
    }
}
