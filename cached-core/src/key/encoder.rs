//! The encoder: the serde data model as a prefix code.

use serde::ser::{self, Serialize};
use smallvec::SmallVec;

use super::buffer::Buffer;
use super::{KeyError, KeyPart};

const END: u8 = 0x00;
const NONE: u8 = 0x01;
const SOME: u8 = 0x02;
const UNIT: u8 = 0x03;
const FALSE: u8 = 0x04;
const TRUE: u8 = 0x05;
const FLOAT: u8 = 0x06;
const CHAR: u8 = 0x07;
pub(super) const STR: u8 = 0x08;
const BYTES: u8 = 0x09;
const SEQ: u8 = 0x0A;
const TUPLE: u8 = 0x0B;
const MAP: u8 = 0x0C;
const STRUCT: u8 = 0x0D;
const UNIT_VARIANT: u8 = 0x0E;
const NEWTYPE_VARIANT: u8 = 0x0F;
const TUPLE_VARIANT: u8 = 0x10;
const STRUCT_VARIANT: u8 = 0x11;
/// Plus the number of magnitude bytes, 0 to 16.
const NON_NEGATIVE: u8 = 0x20;
/// Plus the number of bytes of `-(n + 1)`, 0 to 16.
const NEGATIVE: u8 = 0x40;

/// A key while it is written: its head, then all that follows the name in its canonical bytes.
#[derive(Default)]
pub struct Encoder {
    bytes: Buffer,
}

impl Encoder {
    /// The key of the declaration with this index, up to its version. Each addition waits for the one
    /// before it, so what can be added at once is.
    #[inline]
    pub(crate) fn key(
        &mut self,
        index: u32,
        identifier: &[&dyn KeyPart],
        version: Option<&dyn KeyPart>,
    ) -> Result<(), KeyError> {
        self.bytes.start(index, SEQ);
        for part in identifier {
            part.encode(self)?;
        }
        match version {
            None => self.bytes.brackets([END, NONE]),
            Some(version) => {
                self.bytes.brackets([END, SOME]);
                version.encode(self)?;
            }
        }
        Ok(())
    }

    /// Adds the parts as one sequence.
    pub(crate) fn parts(&mut self, parts: &[&dyn KeyPart]) -> Result<(), KeyError> {
        self.bytes.brackets([SEQ]);
        for part in parts {
            part.encode(self)?;
        }
        self.bytes.brackets([END]);
        Ok(())
    }

    /// What was written, with its hash in its head.
    #[inline]
    pub(crate) fn finish(&mut self) -> &[u8] {
        self.bytes.finish()
    }

    #[inline]
    pub(crate) fn str(&mut self, text: &str) {
        self.counted([STR], text.as_bytes());
    }

    /// Tags, a LEB128 length, then the bytes.
    #[inline]
    fn counted<const N: usize>(&mut self, tags: [u8; N], bytes: &[u8]) {
        if bytes.len() < 0x80 {
            let mut head = [0; 4];
            head[..N].copy_from_slice(&tags);
            head[N] = bytes.len() as u8;
            return self.bytes.extend(head, N + 1, bytes);
        }
        self.long(&tags, bytes);
    }

    #[cold]
    fn long(&mut self, tags: &[u8], bytes: &[u8]) {
        tags.iter().for_each(|&tag| self.bytes.push(tag));
        let mut length = bytes.len();
        while length >= 0x80 {
            self.bytes.push((length as u8 & 0x7f) | 0x80);
            length >>= 7;
        }
        self.bytes.extend([length as u8, 0, 0, 0], 1, bytes);
    }

    fn magnitude(&mut self, tag: u8, magnitude: u128) {
        let bytes = magnitude.to_be_bytes();
        let skipped = magnitude.leading_zeros() as usize / 8;
        let tag = tag + (bytes.len() - skipped) as u8;
        self.bytes.extend([tag, 0, 0, 0], 1, &bytes[skipped..]);
    }

    fn variant(&mut self, tag: u8, variant: &'static str) {
        self.counted([tag, STR], variant.as_bytes());
    }

    /// Ends a sorted form whose entries start at `starts`: sorts them by their bytes if they are not.
    fn sort_entries(&mut self, starts: &[usize]) {
        let end = self.bytes.len();
        let entry = |index: usize| starts[index]..starts.get(index + 1).copied().unwrap_or(end);
        let sorted =
            (1..starts.len()).all(|index| self.bytes[entry(index - 1)] <= self.bytes[entry(index)]);
        if !sorted {
            let mut order: SmallVec<[usize; 16]> = (0..starts.len()).collect();
            order.sort_by(|&a, &b| self.bytes[entry(a)].cmp(&self.bytes[entry(b)]));
            let mut sorted = Vec::with_capacity(end - starts[0]);
            for index in order {
                sorted.extend_from_slice(&self.bytes[entry(index)]);
            }
            self.bytes.replace_tail(starts[0], &sorted);
        }
        self.bytes.brackets([END]);
    }
}

/// The length of a value in this encoding, which writes what other codecs cannot.
pub(crate) fn length_of<T: Serialize>(value: &T) -> Option<usize> {
    let mut encoder = Encoder::default();
    value.serialize(&mut encoder).ok()?;
    Some(encoder.bytes.len())
}

macro_rules! integers {
    ($($signed:ident $unsigned:ident $signed_type:ty, $unsigned_type:ty;)*) => {$(
        #[inline]
        fn $signed(self, value: $signed_type) -> Result<(), KeyError> {
            if value < 0 {
                self.magnitude(NEGATIVE, !i128::from(value) as u128);
            } else {
                self.magnitude(NON_NEGATIVE, i128::from(value) as u128);
            }
            Ok(())
        }
        #[inline]
        fn $unsigned(self, value: $unsigned_type) -> Result<(), KeyError> {
            self.magnitude(NON_NEGATIVE, u128::from(value));
            Ok(())
        }
    )*};
}

impl<'e> ser::Serializer for &'e mut Encoder {
    type Ok = ();
    type Error = KeyError;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Sorted<'e>;
    type SerializeStruct = Sorted<'e>;
    type SerializeStructVariant = Sorted<'e>;

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

    fn serialize_bool(self, value: bool) -> Result<(), KeyError> {
        self.bytes.push(if value { TRUE } else { FALSE });
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), KeyError> {
        self.serialize_f64(f64::from(value))
    }

    fn serialize_f64(self, value: f64) -> Result<(), KeyError> {
        // The bits of a NaN differ between machines; it must be one key everywhere.
        let bits = if value.is_nan() { 0x7ff8_0000_0000_0000 } else { value.to_bits() };
        self.bytes.extend([FLOAT, 0, 0, 0], 1, &bits.to_be_bytes());
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), KeyError> {
        self.bytes.extend([CHAR, 0, 0, 0], 1, &u32::from(value).to_be_bytes());
        Ok(())
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), KeyError> {
        self.str(value);
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), KeyError> {
        self.counted([BYTES], value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), KeyError> {
        self.bytes.push(NONE);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), KeyError> {
        self.bytes.push(SOME);
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), KeyError> {
        self.bytes.push(UNIT);
        Ok(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), KeyError> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<(), KeyError> {
        self.variant(UNIT_VARIANT, variant);
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), KeyError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), KeyError> {
        self.variant(NEWTYPE_VARIANT, variant);
        value.serialize(self)
    }

    fn serialize_seq(self, _length: Option<usize>) -> Result<Self, KeyError> {
        self.bytes.brackets([SEQ]);
        Ok(self)
    }

    fn serialize_tuple(self, _length: usize) -> Result<Self, KeyError> {
        self.bytes.brackets([TUPLE]);
        Ok(self)
    }

    fn serialize_tuple_struct(self, _name: &'static str, length: usize) -> Result<Self, KeyError> {
        self.serialize_tuple(length)
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<Self, KeyError> {
        self.variant(TUPLE_VARIANT, variant);
        Ok(self)
    }

    fn serialize_map(self, _length: Option<usize>) -> Result<Sorted<'e>, KeyError> {
        self.bytes.brackets([MAP]);
        Ok(Sorted::new(self))
    }

    fn serialize_struct(self, _name: &'static str, _length: usize) -> Result<Sorted<'e>, KeyError> {
        self.bytes.brackets([STRUCT]);
        Ok(Sorted::new(self))
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<Sorted<'e>, KeyError> {
        self.variant(STRUCT_VARIANT, variant);
        Ok(Sorted::new(self))
    }
}

macro_rules! ordered {
    ($($form:ident $add:ident),*) => {$(
        impl ser::$form for &mut Encoder {
            type Ok = ();
            type Error = KeyError;
            fn $add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), KeyError> {
                value.serialize(&mut **self)
            }
            fn end(self) -> Result<(), KeyError> {
                self.bytes.brackets([END]);
                Ok(())
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

/// A map or struct under way: where each of its entries starts.
pub struct Sorted<'e> {
    encoder: &'e mut Encoder,
    starts: SmallVec<[usize; 16]>,
    /// The hash before the first one.
    hash: u64,
}

impl<'e> Sorted<'e> {
    fn new(encoder: &'e mut Encoder) -> Sorted<'e> {
        let hash = encoder.bytes.hash();
        Sorted { encoder, starts: SmallVec::new(), hash }
    }

    fn start(&mut self) {
        self.starts.push(self.encoder.bytes.len());
    }

    fn field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), KeyError> {
        self.start();
        self.encoder.str(name);
        value.serialize(&mut *self.encoder)
    }

    fn finish(self) {
        self.encoder.sort_entries(&self.starts);
        // As they were written they were hashed in an order that a map may not have the next time.
        if let Some(&first) = self.starts.first() {
            self.encoder.bytes.hash_again(first, self.hash);
        }
    }
}

impl ser::SerializeMap for Sorted<'_> {
    type Ok = ();
    type Error = KeyError;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), KeyError> {
        self.start();
        key.serialize(&mut *self.encoder)
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), KeyError> {
        value.serialize(&mut *self.encoder)
    }
    fn end(self) -> Result<(), KeyError> {
        self.finish();
        Ok(())
    }
}

macro_rules! fields {
    ($($form:ident),*) => {$(
        impl ser::$form for Sorted<'_> {
            type Ok = ();
            type Error = KeyError;
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), KeyError> {
                self.field(name, value)
            }
            fn end(self) -> Result<(), KeyError> {
                self.finish();
                Ok(())
            }
        }
    )*};
}

fields! { SerializeStruct, SerializeStructVariant }

#[cfg(test)]
mod tests;
