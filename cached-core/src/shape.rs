//! The shape of a value: a hash of the names and kinds that its `Serialize` goes through.
//!
//! A positional codec reads two swapped fields, or a skipped one, as another value without an
//! error. So the shape is taken when a value is stored, and again from what was decoded: the two
//! agree only if the reader's type walks through the same structs, fields, variants and kinds, in
//! the same order. A `HashMap` that was decoded has another order, so of a map each entry's
//! contents are hashed too, and the entries added up. A set with elements of several shapes has
//! neither, and does not read back as what was written.

use std::fmt;

use serde::ser::{self, Serialize};

use crate::stable_hash::StableHash;

/// The shape of `value`, or why it has none that can be relied on.
pub(crate) fn of<V: Serialize + ?Sized>(value: &V) -> Result<u64, Unshaped> {
    value.serialize(Walk { contents: false })
}

/// Why a value has no reliable shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unshaped {
    /// It left a field out, which a positional codec cannot tell from the next one.
    SkippedField,
    /// Its own `Serialize` failed.
    Failed,
}

impl Unshaped {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Unshaped::SkippedField => {
                "the value skips a field (`skip_serializing_if`), which the codec cannot tell from the next one"
            }
            Unshaped::Failed => "the value's own `Serialize` failed",
        }
    }
}

impl fmt::Display for Unshaped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for Unshaped {}

impl ser::Error for Unshaped {
    fn custom<T: fmt::Display>(_message: T) -> Unshaped {
        Unshaped::Failed
    }
}

/// One number for each kind of the serde data model; stored shapes depend on them.
#[derive(Clone, Copy)]
enum Kind {
    Bool = 1,
    I8,
    I16,
    I32,
    I64,
    I128,
    U8,
    U16,
    U32,
    U64,
    U128,
    F32,
    F64,
    Char,
    Str,
    Bytes,
    None,
    Some,
    Unit,
    UnitStruct,
    UnitVariant,
    NewtypeStruct,
    NewtypeVariant,
    Seq,
    Tuple,
    TupleStruct,
    TupleVariant,
    Map,
    Struct,
    StructVariant,
}

fn hash_of(kind: Kind) -> StableHash {
    StableHash::new(kind as u64)
}

#[derive(Clone, Copy)]
struct Walk {
    /// Whether what the leaves hold is hashed, beside what they are.
    contents: bool,
}

impl Walk {
    fn leaf(self, kind: Kind, contents: &[u8]) -> Result<u64, Unshaped> {
        let hash = hash_of(kind);
        Ok(if self.contents { hash.bytes(contents) } else { hash }.finish())
    }
}

/// A form under way, whose members come in order.
struct Members {
    walk: Walk,
    hash: StableHash,
    count: u64,
}

impl Members {
    fn new(walk: Walk, hash: StableHash) -> Result<Members, Unshaped> {
        Ok(Members { walk, hash, count: 0 })
    }

    fn add<T: Serialize + ?Sized>(&mut self, member: &T) -> Result<(), Unshaped> {
        self.count += 1;
        self.hash = self.hash.word(member.serialize(self.walk)?);
        Ok(())
    }

    fn finish(self) -> Result<u64, Unshaped> {
        Ok(self.hash.word(self.count).finish())
    }
}

macro_rules! leaves {
    ($($method:ident $type:ty, $kind:ident;)*) => {$(
        fn $method(self, value: $type) -> Result<u64, Unshaped> {
            self.leaf(Kind::$kind, &value.to_le_bytes())
        }
    )*};
}

impl ser::Serializer for Walk {
    type Ok = u64;
    type Error = Unshaped;
    type SerializeSeq = Members;
    type SerializeTuple = Members;
    type SerializeTupleStruct = Members;
    type SerializeTupleVariant = Members;
    type SerializeMap = Entries;
    type SerializeStruct = Members;
    type SerializeStructVariant = Members;

    leaves! {
        serialize_i8 i8, I8;
        serialize_i16 i16, I16;
        serialize_i32 i32, I32;
        serialize_i64 i64, I64;
        serialize_i128 i128, I128;
        serialize_u8 u8, U8;
        serialize_u16 u16, U16;
        serialize_u32 u32, U32;
        serialize_u64 u64, U64;
        serialize_u128 u128, U128;
        serialize_f32 f32, F32;
        serialize_f64 f64, F64;
    }

    fn serialize_bool(self, value: bool) -> Result<u64, Unshaped> {
        self.leaf(Kind::Bool, &[value.into()])
    }

    fn serialize_char(self, value: char) -> Result<u64, Unshaped> {
        self.leaf(Kind::Char, &u32::from(value).to_le_bytes())
    }

    fn serialize_str(self, value: &str) -> Result<u64, Unshaped> {
        self.leaf(Kind::Str, value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<u64, Unshaped> {
        self.leaf(Kind::Bytes, value)
    }

    // The codec's own answer, so that a type takes the same way here and there.
    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_none(self) -> Result<u64, Unshaped> {
        self.leaf(Kind::None, &[])
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<u64, Unshaped> {
        Ok(hash_of(Kind::Some).word(value.serialize(self)?).finish())
    }

    fn serialize_unit(self) -> Result<u64, Unshaped> {
        self.leaf(Kind::Unit, &[])
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<u64, Unshaped> {
        Ok(hash_of(Kind::UnitStruct).text(name).finish())
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<u64, Unshaped> {
        Ok(hash_of(Kind::UnitVariant).text(name).text(variant).finish())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<u64, Unshaped> {
        Ok(hash_of(Kind::NewtypeStruct).text(name).word(value.serialize(self)?).finish())
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<u64, Unshaped> {
        let hash = hash_of(Kind::NewtypeVariant).text(name).text(variant);
        Ok(hash.word(value.serialize(self)?).finish())
    }

    fn serialize_seq(self, _length: Option<usize>) -> Result<Members, Unshaped> {
        Members::new(self, hash_of(Kind::Seq))
    }

    fn serialize_tuple(self, _length: usize) -> Result<Members, Unshaped> {
        Members::new(self, hash_of(Kind::Tuple))
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        _length: usize,
    ) -> Result<Members, Unshaped> {
        Members::new(self, hash_of(Kind::TupleStruct).text(name))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<Members, Unshaped> {
        Members::new(self, hash_of(Kind::TupleVariant).text(name).text(variant))
    }

    fn serialize_map(self, _length: Option<usize>) -> Result<Entries, Unshaped> {
        Ok(Entries { sum: 0, count: 0, key: 0 })
    }

    fn serialize_struct(self, name: &'static str, _length: usize) -> Result<Members, Unshaped> {
        Members::new(self, hash_of(Kind::Struct).text(name))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<Members, Unshaped> {
        Members::new(self, hash_of(Kind::StructVariant).text(name).text(variant))
    }
}

macro_rules! members {
    ($($form:ident $add:ident),*) => {$(
        impl ser::$form for Members {
            type Ok = u64;
            type Error = Unshaped;
            fn $add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unshaped> {
                self.add(value)
            }
            fn end(self) -> Result<u64, Unshaped> {
                self.finish()
            }
        }
    )*};
}

members! {
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field
}

macro_rules! fields {
    ($($form:ident),*) => {$(
        impl ser::$form for Members {
            type Ok = u64;
            type Error = Unshaped;
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), Unshaped> {
                self.hash = self.hash.text(name);
                self.add(value)
            }
            fn skip_field(&mut self, _name: &'static str) -> Result<(), Unshaped> {
                Err(Unshaped::SkippedField)
            }
            fn end(self) -> Result<u64, Unshaped> {
                self.finish()
            }
        }
    )*};
}

fields! { SerializeStruct, SerializeStructVariant }

/// A map under way, whose entries come in any order.
struct Entries {
    sum: u64,
    count: u64,
    key: u64,
}

impl ser::SerializeMap for Entries {
    type Ok = u64;
    type Error = Unshaped;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unshaped> {
        self.key = key.serialize(Walk { contents: true })?;
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unshaped> {
        let value = value.serialize(Walk { contents: true })?;
        let entry = hash_of(Kind::Map).word(self.key).word(value).finish();
        self.sum = self.sum.wrapping_add(entry);
        self.count += 1;
        Ok(())
    }
    fn end(self) -> Result<u64, Unshaped> {
        Ok(hash_of(Kind::Map).word(self.sum).word(self.count).finish())
    }
}

#[cfg(test)]
mod tests;
