//! The shape of a value: a hash of the type names, the field names and the kinds of data that the
//! value's `Serialize` passes to its serializer.
//!
//! The codec writes no names. If two fields are swapped or one is skipped, the codec decodes another
//! value without an error. So the shape is computed when a value is stored, and again from the decoded
//! value. The two shapes are equal only if the reader's type has the same structs, fields, variants
//! and kinds of data in the same order.
//!
//! A decoded `HashMap` may iterate in another order than the original. So the shape of a map is a sum of
//! hashes, one for each entry, and each hash includes the entry's contents. serde treats a set as a
//! sequence, so the shape of a `HashSet` depends on the order of elements that differ in shape. If the
//! decoded set has another order, its shape is different, and the value is not stored.

use std::fmt;

use serde::ser::{self, Serialize};

use crate::stable_hash::StableHasher;

/// Returns the shape of `value`.
///
/// # Errors
/// Fails if the value skips a field, or if its `Serialize` fails.
pub(crate) fn of<V: Serialize + ?Sized>(value: &V) -> Result<u64, ShapeError> {
    value.serialize(ShapeSerializer { includes_contents: false })
}

/// The reason why a value has no reliable shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShapeError {
    /// The value's `Serialize` skips a field. The codec would read the next field in its place.
    SkippedField,
    /// The value's `Serialize` returned an error.
    Failed,
}

impl ShapeError {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            ShapeError::SkippedField => {
                "the value skips a field (`skip_serializing_if`), which the codec cannot tell from the next one"
            }
            ShapeError::Failed => "the value's own `Serialize` failed",
        }
    }
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for ShapeError {}

impl ser::Error for ShapeError {
    fn custom<T: fmt::Display>(_message: T) -> ShapeError {
        ShapeError::Failed
    }
}

/// The kinds of data in serde's data model. Stored shapes are hashes that include these numbers, so the
/// numbers must not change.
#[derive(Clone, Copy)]
enum DataKind {
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

fn hash_of_kind(kind: DataKind) -> StableHasher {
    StableHasher::new(kind as u64)
}

/// A serializer that computes the shape of a value.
#[derive(Clone, Copy)]
struct ShapeSerializer {
    /// True if numbers, strings and bytes are hashed with their data, false if only their kind is hashed.
    includes_contents: bool,
}

impl ShapeSerializer {
    fn leaf(self, kind: DataKind, contents: &[u8]) -> Result<u64, ShapeError> {
        let hash = hash_of_kind(kind);
        Ok(if self.includes_contents { hash.bytes(contents) } else { hash }.finish())
    }
}

/// Hashes the members of a sequence, a tuple, a struct or a variant in their order.
struct MembersHasher {
    serializer: ShapeSerializer,
    hash: StableHasher,
    count: u64,
}

impl MembersHasher {
    fn new(serializer: ShapeSerializer, hash: StableHasher) -> Result<MembersHasher, ShapeError> {
        Ok(MembersHasher { serializer, hash, count: 0 })
    }

    fn add<T: Serialize + ?Sized>(&mut self, member: &T) -> Result<(), ShapeError> {
        self.count += 1;
        self.hash = self.hash.word(member.serialize(self.serializer)?);
        Ok(())
    }

    fn finish(self) -> Result<u64, ShapeError> {
        Ok(self.hash.word(self.count).finish())
    }
}

macro_rules! leaves {
    ($($method:ident $type:ty, $kind:ident;)*) => {$(
        fn $method(self, value: $type) -> Result<u64, ShapeError> {
            self.leaf(DataKind::$kind, &value.to_le_bytes())
        }
    )*};
}

impl ser::Serializer for ShapeSerializer {
    type Ok = u64;
    type Error = ShapeError;
    type SerializeSeq = MembersHasher;
    type SerializeTuple = MembersHasher;
    type SerializeTupleStruct = MembersHasher;
    type SerializeTupleVariant = MembersHasher;
    type SerializeMap = MapHasher;
    type SerializeStruct = MembersHasher;
    type SerializeStructVariant = MembersHasher;

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

    fn serialize_bool(self, value: bool) -> Result<u64, ShapeError> {
        self.leaf(DataKind::Bool, &[value.into()])
    }

    fn serialize_char(self, value: char) -> Result<u64, ShapeError> {
        self.leaf(DataKind::Char, &u32::from(value).to_le_bytes())
    }

    fn serialize_str(self, value: &str) -> Result<u64, ShapeError> {
        self.leaf(DataKind::Str, value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<u64, ShapeError> {
        self.leaf(DataKind::Bytes, value)
    }

    // The codec's serializer also returns false, so a type serializes in the same way for both.
    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_none(self) -> Result<u64, ShapeError> {
        self.leaf(DataKind::None, &[])
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<u64, ShapeError> {
        Ok(hash_of_kind(DataKind::Some).word(value.serialize(self)?).finish())
    }

    fn serialize_unit(self) -> Result<u64, ShapeError> {
        self.leaf(DataKind::Unit, &[])
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<u64, ShapeError> {
        Ok(hash_of_kind(DataKind::UnitStruct).text(name).finish())
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<u64, ShapeError> {
        Ok(hash_of_kind(DataKind::UnitVariant).text(name).text(variant).finish())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<u64, ShapeError> {
        Ok(hash_of_kind(DataKind::NewtypeStruct).text(name).word(value.serialize(self)?).finish())
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<u64, ShapeError> {
        let hash = hash_of_kind(DataKind::NewtypeVariant).text(name).text(variant);
        Ok(hash.word(value.serialize(self)?).finish())
    }

    fn serialize_seq(self, _length: Option<usize>) -> Result<MembersHasher, ShapeError> {
        MembersHasher::new(self, hash_of_kind(DataKind::Seq))
    }

    fn serialize_tuple(self, _length: usize) -> Result<MembersHasher, ShapeError> {
        MembersHasher::new(self, hash_of_kind(DataKind::Tuple))
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        _length: usize,
    ) -> Result<MembersHasher, ShapeError> {
        MembersHasher::new(self, hash_of_kind(DataKind::TupleStruct).text(name))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<MembersHasher, ShapeError> {
        MembersHasher::new(self, hash_of_kind(DataKind::TupleVariant).text(name).text(variant))
    }

    fn serialize_map(self, _length: Option<usize>) -> Result<MapHasher, ShapeError> {
        Ok(MapHasher { entry_sum: 0, count: 0, key_shape: 0 })
    }

    fn serialize_struct(
        self,
        name: &'static str,
        _length: usize,
    ) -> Result<MembersHasher, ShapeError> {
        MembersHasher::new(self, hash_of_kind(DataKind::Struct).text(name))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<MembersHasher, ShapeError> {
        MembersHasher::new(self, hash_of_kind(DataKind::StructVariant).text(name).text(variant))
    }
}

macro_rules! members {
    ($($trait:ident $add:ident),*) => {$(
        impl ser::$trait for MembersHasher {
            type Ok = u64;
            type Error = ShapeError;
            fn $add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ShapeError> {
                self.add(value)
            }
            fn end(self) -> Result<u64, ShapeError> {
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
    ($($trait:ident),*) => {$(
        impl ser::$trait for MembersHasher {
            type Ok = u64;
            type Error = ShapeError;
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), ShapeError> {
                self.hash = self.hash.text(name);
                self.add(value)
            }
            fn skip_field(&mut self, _name: &'static str) -> Result<(), ShapeError> {
                Err(ShapeError::SkippedField)
            }
            fn end(self) -> Result<u64, ShapeError> {
                self.finish()
            }
        }
    )*};
}

fields! { SerializeStruct, SerializeStructVariant }

/// Hashes the entries of a map. The result does not depend on the order of the entries.
struct MapHasher {
    entry_sum: u64,
    count: u64,
    key_shape: u64,
}

impl ser::SerializeMap for MapHasher {
    type Ok = u64;
    type Error = ShapeError;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), ShapeError> {
        self.key_shape = key.serialize(ShapeSerializer { includes_contents: true })?;
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ShapeError> {
        let value = value.serialize(ShapeSerializer { includes_contents: true })?;
        let entry = hash_of_kind(DataKind::Map).word(self.key_shape).word(value).finish();
        self.entry_sum = self.entry_sum.wrapping_add(entry);
        self.count += 1;
        Ok(())
    }
    fn end(self) -> Result<u64, ShapeError> {
        Ok(hash_of_kind(DataKind::Map).word(self.entry_sum).word(self.count).finish())
    }
}

#[cfg(test)]
mod tests;
