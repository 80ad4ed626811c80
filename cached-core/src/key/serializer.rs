//! A serde serializer that writes the arguments of a call as the bytes of a cache key. The encoding
//! is a prefix code: no value's bytes are the beginning of another value's bytes.
//!
//! The serializer writes to a [`KeySink`]: a buffer, a hasher or a comparer.

use std::fmt::{self, Write as _};

use serde::ser::{self, Serialize};
use smallvec::SmallVec;

use super::DynKeyPart;
#[cfg(doc)]
use super::KeyPart;

pub(crate) const END: u8 = 0x00;
pub(crate) const NONE: u8 = 0x01;
pub(crate) const SOME: u8 = 0x02;
pub(super) const UNIT: u8 = 0x03;
pub(super) const FALSE: u8 = 0x04;
pub(super) const TRUE: u8 = 0x05;
pub(super) const FLOAT: u8 = 0x06;
pub(super) const CHAR: u8 = 0x07;
pub(super) const STR: u8 = 0x08;
pub(super) const BYTES: u8 = 0x09;
pub(crate) const SEQ: u8 = 0x0A;
pub(super) const TUPLE: u8 = 0x0B;
pub(super) const MAP: u8 = 0x0C;
pub(super) const STRUCT: u8 = 0x0D;
pub(super) const UNIT_VARIANT: u8 = 0x0E;
pub(super) const NEWTYPE_VARIANT: u8 = 0x0F;
pub(super) const TUPLE_VARIANT: u8 = 0x10;
pub(super) const STRUCT_VARIANT: u8 = 0x11;
/// An integer `n >= 0` has the tag `NON_NEGATIVE + k`, where `k` (0 to 16) is the length of `n` in
/// bytes.
pub(super) const NON_NEGATIVE: u8 = 0x20;
/// An integer `n < 0` has the tag `NEGATIVE + k`, where `k` (0 to 16) is the length of `-(n + 1)`
/// in bytes.
pub(super) const NEGATIVE: u8 = 0x40;

/// The destination of a key's encoding: a buffer, a hasher, or a
/// [`KeyComparer`](super::KeyComparer).
///
/// Each method takes the sink by value and returns the sink, so that a small sink stays in
/// registers.
pub trait KeySink: Sized {
    /// The reason why a value cannot be written.
    type Error: ser::Error;
    /// Collects the fields of a struct, or the entries of a map, while they are written.
    type Fields: FieldSink<Self>;

    /// Writes bytes that a hasher leaves out: the bytes around the fields of a struct or map, and
    /// the bytes between the parts of a key.
    ///
    /// A hasher does not need the bytes around fields, because it hashes each field separately. It
    /// does need the bytes around a sequence, which [`piece`](Self::piece) writes. Without them,
    /// `[[1], [2]]` and `[[1, 2]]` would have the same hash.
    fn unhashed<const N: usize>(self, bytes: [u8; N]) -> Result<Self, Self::Error>;

    /// Writes `prefix`, which is a tag, a length or both, and then the bytes of the value.
    fn piece<const N: usize>(self, prefix: [u8; N], bytes: &[u8]) -> Result<Self, Self::Error>;

    /// Writes an integer without its leading zero bytes, in big-endian order. The written tag is
    /// `tag` plus the length of the integer in bytes.
    #[inline]
    fn number(self, tag: u8, magnitude: u128) -> Result<Self, Self::Error> {
        let bytes = magnitude.to_be_bytes();
        let skipped = magnitude.leading_zeros() as usize / 8;
        let tag = tag + (bytes.len() - skipped) as u8;
        self.piece([tag], &bytes[skipped..])
    }

    /// Begins the fields of a struct or the entries of a map. The caller must have written the tag
    /// of the struct or map.
    fn fields(self) -> Self::Fields;

    /// Tells the sink that the elements of a `Collection` follow. All sinks but the buffer ignore
    /// this call. The buffer uses it to find collections without a stable order, such as hash sets.
    #[inline(always)]
    fn collection<Collection>(self) -> Self {
        self
    }

    /// Writes one part of a key. Each kind of sink calls its own method of [`KeyPart`].
    fn part(self, part: DynKeyPart<'_>) -> Result<Self, Self::Error>;
}

/// The destination of a struct's fields or a map's entries. Their order does not change the key.
pub trait FieldSink<S: KeySink> {
    /// Begins the next field or entry.
    fn begin(&mut self);

    /// Writes the name, key or value of the current field or entry.
    fn add<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), S::Error>;

    /// Ends the struct or map with [`END`], and returns the sink.
    fn end(self) -> Result<S, S::Error>;
}

/// A serde serializer that writes one value to a sink and returns the sink.
pub(crate) struct KeySerializer<S>(pub(crate) S);

impl<S: KeySink> KeySerializer<S> {
    /// Writes a tag, the length of the bytes in LEB128, and the bytes.
    #[inline(always)]
    fn length_prefixed(self, tag: u8, bytes: &[u8]) -> Result<S, S::Error> {
        match one_byte_length(bytes) {
            Some(length) => self.0.piece([tag, length], bytes),
            None => long_piece(self.0.piece([tag], &[])?, bytes),
        }
    }

    #[inline(always)]
    fn variant(self, tag: u8, variant: &'static str) -> Result<S, S::Error> {
        let name = variant.as_bytes();
        match one_byte_length(name) {
            Some(length) => self.0.piece([tag, STR, length], name),
            None => long_piece(self.0.piece([tag, STR], &[])?, name),
        }
    }
}

/// Returns the number of bytes, or `None` if this number needs more than one byte in LEB128.
#[inline(always)]
fn one_byte_length(bytes: &[u8]) -> Option<u8> {
    (bytes.len() < 0x80).then_some(bytes.len() as u8)
}

#[cold]
fn long_piece<S: KeySink>(mut sink: S, bytes: &[u8]) -> Result<S, S::Error> {
    let mut length = bytes.len();
    while length >= 0x80 {
        sink = sink.piece([(length as u8 & 0x7f) | 0x80], &[])?;
        length >>= 7;
    }
    sink.piece([length as u8], bytes)
}

macro_rules! integers {
    ($($signed:ident $unsigned:ident $signed_type:ty, $unsigned_type:ty;)*) => {$(
        #[inline]
        fn $signed(self, value: $signed_type) -> Result<S, S::Error> {
            match value < 0 {
                true => self.0.number(NEGATIVE, !i128::from(value) as u128),
                false => self.0.number(NON_NEGATIVE, i128::from(value) as u128),
            }
        }
        #[inline]
        fn $unsigned(self, value: $unsigned_type) -> Result<S, S::Error> {
            self.0.number(NON_NEGATIVE, u128::from(value))
        }
    )*};
}

impl<S: KeySink> ser::Serializer for KeySerializer<S> {
    type Ok = S;
    type Error = S::Error;
    type SerializeSeq = SequenceSerializer<S>;
    type SerializeTuple = SequenceSerializer<S>;
    type SerializeTupleStruct = SequenceSerializer<S>;
    type SerializeTupleVariant = SequenceSerializer<S>;
    type SerializeMap = MapSerializer<S>;
    type SerializeStruct = MapSerializer<S>;
    type SerializeStructVariant = MapSerializer<S>;

    integers! {
        serialize_i8 serialize_u8 i8, u8;
        serialize_i16 serialize_u16 i16, u16;
        serialize_i32 serialize_u32 i32, u32;
        serialize_i64 serialize_u64 i64, u64;
        serialize_i128 serialize_u128 i128, u128;
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<S, S::Error> {
        self.0.piece([if value { TRUE } else { FALSE }], &[])
    }

    #[inline]
    fn serialize_f32(self, value: f32) -> Result<S, S::Error> {
        self.serialize_f64(f64::from(value))
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<S, S::Error> {
        // The bits of a NaN differ between machines, but all NaNs must have the same key. `-0.0`
        // and `0.0` keep their different bits, because a function can tell them apart.
        let bits = if value.is_nan() { 0x7ff8_0000_0000_0000 } else { value.to_bits() };
        self.0.piece([FLOAT], &bits.to_be_bytes())
    }

    #[inline]
    fn serialize_char(self, value: char) -> Result<S, S::Error> {
        self.0.piece([CHAR], &u32::from(value).to_be_bytes())
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<S, S::Error> {
        self.length_prefixed(STR, value.as_bytes())
    }

    /// Writes a short string without allocating. Types that serialize through `Display`, such as
    /// chrono's `NaiveDate`, call this method.
    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<S, S::Error> {
        let mut text = DisplayBuffer(SmallVec::new());
        write!(text, "{value}").map_err(ser::Error::custom)?;
        self.length_prefixed(STR, &text.0)
    }

    #[inline]
    fn serialize_bytes(self, value: &[u8]) -> Result<S, S::Error> {
        self.length_prefixed(BYTES, value)
    }

    #[inline]
    fn serialize_none(self) -> Result<S, S::Error> {
        self.0.piece([NONE], &[])
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S, S::Error> {
        value.serialize(KeySerializer(self.0.piece([SOME], &[])?))
    }

    #[inline]
    fn serialize_unit(self) -> Result<S, S::Error> {
        self.0.piece([UNIT], &[])
    }

    #[inline]
    fn serialize_unit_struct(self, _name: &'static str) -> Result<S, S::Error> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<S, S::Error> {
        self.variant(UNIT_VARIANT, variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<S, S::Error> {
        value.serialize(self)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S, S::Error> {
        value.serialize(KeySerializer(self.variant(NEWTYPE_VARIANT, variant)?))
    }

    #[inline]
    fn serialize_seq(self, _length: Option<usize>) -> Result<SequenceSerializer<S>, S::Error> {
        Ok(SequenceSerializer(Some(self.0.piece([SEQ], &[])?)))
    }

    /// Serializes the elements as the default method does, and passes the type of the collection to
    /// the sink. The standard collections call this method with a reference to the collection.
    #[inline]
    fn collect_seq<I>(self, elements: I) -> Result<S, S::Error>
    where
        I: IntoIterator,
        I::Item: Serialize,
    {
        let mut sequence = KeySerializer(self.0.collection::<I>()).serialize_seq(None)?;
        for element in elements {
            sequence.add(&element)?;
        }
        sequence.end()
    }

    #[inline]
    fn serialize_tuple(self, _length: usize) -> Result<SequenceSerializer<S>, S::Error> {
        Ok(SequenceSerializer(Some(self.0.piece([TUPLE], &[])?)))
    }

    #[inline]
    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        length: usize,
    ) -> Result<SequenceSerializer<S>, S::Error> {
        self.serialize_tuple(length)
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<SequenceSerializer<S>, S::Error> {
        Ok(SequenceSerializer(Some(self.variant(TUPLE_VARIANT, variant)?)))
    }

    fn serialize_map(self, _length: Option<usize>) -> Result<MapSerializer<S>, S::Error> {
        Ok(MapSerializer::new(self.0.unhashed([MAP])?))
    }

    fn serialize_struct(
        self,
        _name: &'static str,
        _length: usize,
    ) -> Result<MapSerializer<S>, S::Error> {
        Ok(MapSerializer::new(self.0.unhashed([STRUCT])?))
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<MapSerializer<S>, S::Error> {
        Ok(MapSerializer::new(self.variant(STRUCT_VARIANT, variant)?))
    }
}

/// A buffer that a value's `Display` writes to.
struct DisplayBuffer(SmallVec<[u8; 64]>);

impl fmt::Write for DisplayBuffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Serializes the elements of a sequence or a tuple. It contains `None` after an element could not
/// be written.
pub(crate) struct SequenceSerializer<S>(Option<S>);

impl<S: KeySink> SequenceSerializer<S> {
    #[inline]
    fn add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        let sink = self.0.take().ok_or_else(failed_before)?;
        self.0 = Some(value.serialize(KeySerializer(sink))?);
        Ok(())
    }

    #[inline]
    fn end(self) -> Result<S, S::Error> {
        self.0.ok_or_else(failed_before)?.piece([END], &[])
    }
}

/// Returns the error for a type that continues to serialize after one of its elements has failed.
#[cold]
fn failed_before<E: ser::Error>() -> E {
    E::custom("an earlier part of the value could not be written")
}

macro_rules! ordered {
    ($($form:ident $add:ident),*) => {$(
        impl<S: KeySink> ser::$form for SequenceSerializer<S> {
            type Ok = S;
            type Error = S::Error;
            #[inline]
            fn $add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
                self.add(value)
            }
            #[inline]
            fn end(self) -> Result<S, S::Error> {
                self.end()
            }
        }
    )*};
}

ordered! {
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field
}

/// Serializes a struct's fields or a map's entries. It contains `None` after a field or entry could
/// not be written.
pub(crate) struct MapSerializer<S: KeySink>(Option<S::Fields>);

impl<S: KeySink> MapSerializer<S> {
    fn new(sink: S) -> MapSerializer<S> {
        MapSerializer(Some(sink.fields()))
    }

    fn begin(&mut self) {
        if let Some(fields) = &mut self.0 {
            fields.begin();
        }
    }

    fn add<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), S::Error> {
        let added = self.0.as_mut().ok_or_else(failed_before)?.add(part);
        if added.is_err() {
            self.0 = None;
        }
        added
    }

    fn end(self) -> Result<S, S::Error> {
        self.0.ok_or_else(failed_before)?.end()
    }
}

impl<S: KeySink> ser::SerializeMap for MapSerializer<S> {
    type Ok = S;
    type Error = S::Error;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        self.begin();
        self.add(key)
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        self.add(value)
    }
    fn end(self) -> Result<S, S::Error> {
        self.end()
    }
}

macro_rules! fields {
    ($($form:ident),*) => {$(
        impl<S: KeySink> ser::$form for MapSerializer<S> {
            type Ok = S;
            type Error = S::Error;
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), S::Error> {
                self.begin();
                self.add(name)?;
                self.add(value)
            }
            fn end(self) -> Result<S, S::Error> {
                self.end()
            }
        }
    )*};
}

fields! { SerializeStruct, SerializeStructVariant }
