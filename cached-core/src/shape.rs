//! The shape of a value: a hash of the type names, the field names and the kinds of data that the
//! value's `Serialize` passes to its serializer.
//!
//! There are two codecs: the named codec writes the names of fields, and the positional codec
//! writes no names. If two fields are swapped or one is skipped, the positional codec decodes a
//! wrong value without an error. So the shape is computed when a value is stored, and again from
//! the decoded value. The two shapes are equal only if the reader's type has the same structs,
//! fields, variants and kinds of data in the same order.
//!
//! A decoded `HashMap` might iterate in another order than the original. So the shape of a map is
//! the sum of one hash for each entry. Each of these hashes includes the entry's contents. serde
//! treats a `HashSet` as a sequence. If the elements of a set have different shapes, the shape of
//! the set therefore depends on their order, and can be another one after decoding. Such a value is
//! not stored.
//!
//! A type can serialize differently for a human-readable codec, so a value has one shape for each
//! codec.

use std::any::type_name;
use std::cell::RefCell;
use std::fmt;

use serde::ser::{self, Serialize};

use crate::codec::Codec;
use crate::stable_hash::StableHasher;
use crate::unstorable::ValuePart;

/// How deeply members, `Some`s and newtypes may be nested. The serializer calls itself for each
/// level, and a deeper value would exhaust the stack. The module `outline`, which decodes values,
/// allows half as many levels, because decoding takes more of the stack.
const MAX_DEPTH: usize = 1024;

/// The largest number of parts whose shapes are recorded. The record shows which part of a value
/// causes an error, or in which part two values differ.
const MAX_PARTS: usize = 64 << 10;

/// Returns the shape of `value`.
///
/// # Errors
/// Fails if the value's `Serialize` fails, if the value is nested too deeply, or if the value skips
/// a field and the codec is positional.
pub(crate) fn of<V: Serialize + ?Sized>(value: &V, codec: Codec) -> Result<u64, ShapeError> {
    value.serialize(ShapeSerializer { codec, depth: 0, includes_contents: false, parts: None })
}

/// Returns the innermost part in which two values of one type have different shapes.
pub(crate) fn first_difference<V: Serialize>(
    value: &V,
    other: &V,
    codec: Codec,
) -> Option<ValuePart> {
    let (mut parts, mut others) = (parts_of(value, codec), parts_of(other, codec));
    let mut found = None;
    // The parts can be compared only if both lists have the same fields and types.
    while parts.len() == others.len()
        && parts.iter().zip(&others).all(|(part, other)| part.part == other.part)
    {
        let mut pairs = parts.into_iter().zip(others);
        let Some((part, other)) = pairs.find(|(part, other)| part.shape != other.shape) else {
            break;
        };
        found = Some(part.part);
        (parts, others) = (part.inner, other.inner);
    }
    found
}

/// Returns the innermost part whose `Serialize` fails.
pub(crate) fn failing_part<V: Serialize>(value: &V, codec: Codec) -> Option<ValuePart> {
    let mut parts = parts_of(value, codec);
    let mut found = None;
    while let Some(part) = parts.into_iter().find(|part| part.shape.is_err()) {
        found = Some(part.part);
        parts = part.inner;
    }
    found
}

fn parts_of<V: Serialize>(value: &V, codec: Codec) -> Vec<PartShape> {
    let parts = RefCell::new(PartRecorder { open: vec![Vec::new()], count: 0 });
    let serializer =
        ShapeSerializer { codec, depth: 0, includes_contents: false, parts: Some(&parts) };
    // The error can be ignored, because it is recorded with the part that failed.
    let _ = value.serialize(serializer);
    parts.into_inner().open.pop().unwrap_or_default()
}

/// The shape of one part of a value, and the shapes of the parts inside it.
struct PartShape {
    part: ValuePart,
    shape: Result<u64, ShapeError>,
    inner: Vec<PartShape>,
}

/// A recorder of the shapes of the parts of one value.
struct PartRecorder {
    /// One list for each part that is still being serialized, from the outermost to the innermost.
    /// Each list contains the finished parts directly inside that part.
    open: Vec<Vec<PartShape>>,
    count: usize,
}

impl PartRecorder {
    fn begin(&mut self) {
        self.open.push(Vec::new());
    }

    fn end(&mut self, part: ValuePart, shape: Result<u64, ShapeError>) {
        let inner = self.open.pop().unwrap_or_default();
        self.count += 1;
        if let Some(parts) = self.open.last_mut()
            && (self.count < MAX_PARTS || shape.is_err())
        {
            parts.push(PartShape { part, shape, inner });
        }
    }
}

/// The reason why a value has no reliable shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShapeError {
    /// The value's `Serialize` skips a field. The positional codec would read the next field in its
    /// place.
    SkippedField,
    /// The value is nested more than [`MAX_DEPTH`] levels deep.
    TooDeep,
    /// The value's `Serialize` returned an error.
    Failed,
}

impl ShapeError {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            ShapeError::SkippedField => "skips a field, which a positional codec cannot write",
            ShapeError::TooDeep => "is nested too deeply",
            ShapeError::Failed => "has a `Serialize` that fails",
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

/// The kinds of data in serde's data model. Stored shapes are hashes that include these numbers, so
/// the numbers must not change.
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

/// The number that replaces a skipped field's value in the shape.
const SKIPPED: u64 = 1 << 32;

fn hash_of_kind(kind: DataKind) -> StableHasher {
    StableHasher::new(kind as u64)
}

/// A serializer that computes the shape of a value.
#[derive(Clone, Copy)]
struct ShapeSerializer<'p> {
    codec: Codec,
    /// The number of parts around this one.
    depth: usize,
    /// True if numbers, strings and bytes are hashed with their data, false if only their kind is
    /// hashed.
    includes_contents: bool,
    /// Receives the shape of each part, if a part is searched for.
    parts: Option<&'p RefCell<PartRecorder>>,
}

impl<'p> ShapeSerializer<'p> {
    /// Returns the serializer for the entries of a map. The parts of an entry are not recorded,
    /// because entries have no order in which two maps could be compared.
    fn for_entries(self) -> ShapeSerializer<'p> {
        ShapeSerializer { includes_contents: true, parts: None, ..self }
    }

    /// Returns the shape of one part of the value.
    fn part<T: Serialize + ?Sized>(
        self,
        field: Option<&'static str>,
        part: &T,
    ) -> Result<u64, ShapeError> {
        if self.depth == MAX_DEPTH {
            return Err(ShapeError::TooDeep);
        }
        let serializer = ShapeSerializer { depth: self.depth + 1, ..self };
        let Some(parts) = self.parts else { return part.serialize(serializer) };
        parts.borrow_mut().begin();
        let shape = part.serialize(serializer);
        parts.borrow_mut().end(ValuePart { field, type_name: type_name::<T>() }, shape);
        shape
    }

    fn leaf(self, kind: DataKind, contents: &[u8]) -> Result<u64, ShapeError> {
        let hash = hash_of_kind(kind);
        Ok(if self.includes_contents { hash.bytes(contents) } else { hash }.finish())
    }
}

/// A hasher of the members of a sequence, a tuple, a struct or a variant, in their order.
struct MembersHasher<'p> {
    serializer: ShapeSerializer<'p>,
    hash: StableHasher,
    count: u64,
}

impl<'p> MembersHasher<'p> {
    fn new(
        serializer: ShapeSerializer<'p>,
        hash: StableHasher,
    ) -> Result<MembersHasher<'p>, ShapeError> {
        Ok(MembersHasher { serializer, hash, count: 0 })
    }

    fn add<T: Serialize + ?Sized>(
        &mut self,
        field: Option<&'static str>,
        member: &T,
    ) -> Result<(), ShapeError> {
        self.count += 1;
        self.hash = self.hash.word(self.serializer.part(field, member)?);
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

impl<'p> ser::Serializer for ShapeSerializer<'p> {
    type Ok = u64;
    type Error = ShapeError;
    type SerializeSeq = MembersHasher<'p>;
    type SerializeTuple = MembersHasher<'p>;
    type SerializeTupleStruct = MembersHasher<'p>;
    type SerializeTupleVariant = MembersHasher<'p>;
    type SerializeMap = MapHasher<'p>;
    type SerializeStruct = MembersHasher<'p>;
    type SerializeStructVariant = MembersHasher<'p>;

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

    // A type must serialize here exactly as it does for the codec.
    fn is_human_readable(&self) -> bool {
        self.codec == Codec::Named
    }

    fn serialize_none(self) -> Result<u64, ShapeError> {
        self.leaf(DataKind::None, &[])
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<u64, ShapeError> {
        Ok(hash_of_kind(DataKind::Some).word(self.part(None, value)?).finish())
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
        Ok(hash_of_kind(DataKind::NewtypeStruct).text(name).word(self.part(None, value)?).finish())
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<u64, ShapeError> {
        let hash = hash_of_kind(DataKind::NewtypeVariant).text(name).text(variant);
        Ok(hash.word(self.part(None, value)?).finish())
    }

    fn serialize_seq(self, _length: Option<usize>) -> Result<MembersHasher<'p>, ShapeError> {
        MembersHasher::new(self, hash_of_kind(DataKind::Seq))
    }

    fn serialize_tuple(self, _length: usize) -> Result<MembersHasher<'p>, ShapeError> {
        MembersHasher::new(self, hash_of_kind(DataKind::Tuple))
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        _length: usize,
    ) -> Result<MembersHasher<'p>, ShapeError> {
        MembersHasher::new(self, hash_of_kind(DataKind::TupleStruct).text(name))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<MembersHasher<'p>, ShapeError> {
        MembersHasher::new(self, hash_of_kind(DataKind::TupleVariant).text(name).text(variant))
    }

    fn serialize_map(self, _length: Option<usize>) -> Result<MapHasher<'p>, ShapeError> {
        Ok(MapHasher { serializer: self.for_entries(), entry_sum: 0, count: 0, key_shape: 0 })
    }

    fn serialize_struct(
        self,
        name: &'static str,
        _length: usize,
    ) -> Result<MembersHasher<'p>, ShapeError> {
        MembersHasher::new(self, hash_of_kind(DataKind::Struct).text(name))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<MembersHasher<'p>, ShapeError> {
        MembersHasher::new(self, hash_of_kind(DataKind::StructVariant).text(name).text(variant))
    }
}

macro_rules! members {
    ($($trait:ident $add:ident),*) => {$(
        impl ser::$trait for MembersHasher<'_> {
            type Ok = u64;
            type Error = ShapeError;
            fn $add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ShapeError> {
                self.add(None, value)
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
        impl ser::$trait for MembersHasher<'_> {
            type Ok = u64;
            type Error = ShapeError;
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), ShapeError> {
                self.hash = self.hash.text(name);
                self.add(Some(name), value)
            }
            fn skip_field(&mut self, name: &'static str) -> Result<(), ShapeError> {
                if self.serializer.codec == Codec::Positional {
                    return Err(ShapeError::SkippedField);
                }
                self.hash = self.hash.text(name).word(SKIPPED);
                Ok(())
            }
            fn end(self) -> Result<u64, ShapeError> {
                self.finish()
            }
        }
    )*};
}

fields! { SerializeStruct, SerializeStructVariant }

/// A hasher of the entries of a map. The result does not depend on the order of the entries.
struct MapHasher<'p> {
    serializer: ShapeSerializer<'p>,
    entry_sum: u64,
    count: u64,
    key_shape: u64,
}

impl ser::SerializeMap for MapHasher<'_> {
    type Ok = u64;
    type Error = ShapeError;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), ShapeError> {
        self.key_shape = self.serializer.part(None, key)?;
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ShapeError> {
        let value = self.serializer.part(None, value)?;
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
