//! Estimates the memory that a value takes, as far as serde shows it.
//!
//! `size_of` says what a value takes in its own place; what it owns on the heap is counted while it is serialized,
//! to nowhere: texts by their length, sequences and maps by their elements at the size that these have in memory.
//! serde hands over the elements of a `Vec` behind a reference, which hides their type's size. So the size of an
//! element is what its content adds up to, and all elements take as much as the largest: an enum does, and an
//! `Option`. Room that is reserved and not used, and what a type leaves out of its `Serialize`, are not seen.

use std::fmt::{self, Write};

use serde::ser::{self, Serialize};

/// The size of a `String`, a `Vec` and about that of a map, in their own place.
const HANDLE: usize = size_of::<Vec<u8>>();
/// The two counts of an `Arc`, before what it holds.
const COUNTS: usize = 2 * size_of::<usize>();

/// Returns how many bytes the value takes, in an `Arc` of its own; `None` where its own `Serialize` fails.
pub(crate) fn of<V: Serialize>(value: &V) -> Option<usize> {
    let mut heap = 0;
    let place = size_of::<V>();
    add_placed(value, place, &mut heap).ok()?;
    Some(allocation(COUNTS + place) + heap)
}

/// Returns what an allocator takes for so many bytes: it rounds up, and keeps the length beside them.
fn allocation(bytes: usize) -> usize {
    const ROUND: usize = 16;
    const LENGTH: usize = 8;
    const LEAST: usize = 32;
    if bytes == 0 { 0 } else { (bytes + LENGTH).next_multiple_of(ROUND).max(LEAST) }
}

/// Adds what a value owns on the heap, where its place is known to have so many bytes.
#[inline]
fn add_placed<T: Serialize + ?Sized>(
    value: &T,
    place: usize,
    heap: &mut usize,
) -> Result<(), WeightError> {
    let content = value.serialize(WeightSerializer { heap })?;
    // More than a pointer's place holds is behind a pointer: a `Box`, an `Arc`.
    if place <= size_of::<usize>() && content > place {
        *heap += allocation(content);
    }
    Ok(())
}

/// Adds what a value owns on the heap, and returns the size of its own place as far as its content shows it.
struct WeightSerializer<'h> {
    heap: &'h mut usize,
}

/// A value's own `Serialize` failed.
#[derive(Debug)]
struct WeightError;

impl fmt::Display for WeightError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value cannot be serialized")
    }
}

impl std::error::Error for WeightError {}

impl ser::Error for WeightError {
    fn custom<T: fmt::Display>(_: T) -> WeightError {
        WeightError
    }
}

/// The elements of a sequence or a map, which are on the heap.
struct ElementsWeight<'h> {
    heap: &'h mut usize,
    count: usize,
    /// The size of the largest element, or of the largest key and the largest value.
    largest: [usize; 2],
    is_map: bool,
}

/// The fields of a struct, a tuple or a variant, which are in its place.
struct FieldsWeight<'h> {
    heap: &'h mut usize,
    size: usize,
}

impl<'h> WeightSerializer<'h> {
    fn elements(self, is_map: bool) -> ElementsWeight<'h> {
        ElementsWeight { heap: self.heap, count: 0, largest: [0; 2], is_map }
    }

    fn fields(self) -> FieldsWeight<'h> {
        FieldsWeight { heap: self.heap, size: 0 }
    }
}

impl ElementsWeight<'_> {
    #[inline]
    fn add<T: Serialize + ?Sized>(&mut self, which: usize, value: &T) -> Result<(), WeightError> {
        let size = value.serialize(WeightSerializer { heap: self.heap })?;
        self.largest[which] = self.largest[which].max(size);
        Ok(())
    }

    /// Adds the allocation that holds them, and returns the size of its owner.
    fn finish(self) -> usize {
        /// The fewest entries that a map has room for, between a hash table's 4 and a tree's 11.
        const FEWEST: usize = 8;
        let size = match self.is_map {
            false => self.largest[0],
            true => self.largest.iter().map(|size| size.next_multiple_of(8)).sum(),
        };
        let room = match (self.is_map, self.count) {
            (false, count) => count,
            (true, 0) => 0,
            // A hash table is filled to seven eighths of a power of two, a tree about as far.
            (true, count) => (count + count / 7).next_power_of_two().max(FEWEST),
        };
        *self.heap += allocation(room.saturating_mul(size));
        HANDLE
    }
}

impl FieldsWeight<'_> {
    #[inline]
    fn add<T: Serialize + ?Sized>(&mut self, field: &T) -> Result<(), WeightError> {
        let place = size_of_val(field);
        self.size += place;
        add_placed(field, place, self.heap)
    }
}

/// The size of a text's owner in its place, after adding the text.
fn text(heap: &mut usize, length: usize) -> usize {
    *heap += allocation(length);
    HANDLE
}

macro_rules! sized {
    ($($method:ident($type:ty);)*) => {$(
        #[inline]
        fn $method(self, _: $type) -> Result<usize, WeightError> {
            Ok(size_of::<$type>())
        }
    )*};
}

impl<'h> ser::Serializer for WeightSerializer<'h> {
    type Ok = usize;
    type Error = WeightError;
    type SerializeSeq = ElementsWeight<'h>;
    type SerializeTuple = FieldsWeight<'h>;
    type SerializeTupleStruct = FieldsWeight<'h>;
    type SerializeTupleVariant = FieldsWeight<'h>;
    type SerializeMap = ElementsWeight<'h>;
    type SerializeStruct = FieldsWeight<'h>;
    type SerializeStructVariant = FieldsWeight<'h>;

    sized! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_i128(i128);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_u128(u128);
        serialize_f32(f32);
        serialize_f64(f64);
        serialize_char(char);
    }

    fn serialize_str(self, value: &str) -> Result<usize, WeightError> {
        Ok(text(self.heap, value.len()))
    }

    /// Counts the text, where others would make it.
    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<usize, WeightError> {
        struct Length(usize);
        impl Write for Length {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0 += text.len();
                Ok(())
            }
        }
        let mut length = Length(0);
        write!(length, "{value}").map_err(|_| WeightError)?;
        Ok(text(self.heap, length.0))
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<usize, WeightError> {
        Ok(text(self.heap, value.len()))
    }

    // serde does not say what a `Some` would hold. Few options are smaller than a pointer.
    fn serialize_none(self) -> Result<usize, WeightError> {
        Ok(size_of::<usize>())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<usize, WeightError> {
        let mut fields = self.fields();
        fields.add(value)?;
        Ok(fields.size)
    }

    fn serialize_unit(self) -> Result<usize, WeightError> {
        Ok(0)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<usize, WeightError> {
        Ok(0)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
    ) -> Result<usize, WeightError> {
        Ok(1)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<usize, WeightError> {
        self.serialize_some(value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<usize, WeightError> {
        self.serialize_some(value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<ElementsWeight<'h>, WeightError> {
        Ok(self.elements(false))
    }

    fn serialize_tuple(self, _: usize) -> Result<FieldsWeight<'h>, WeightError> {
        Ok(self.fields())
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<FieldsWeight<'h>, WeightError> {
        Ok(self.fields())
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<FieldsWeight<'h>, WeightError> {
        Ok(self.fields())
    }

    fn serialize_map(self, _: Option<usize>) -> Result<ElementsWeight<'h>, WeightError> {
        Ok(self.elements(true))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<FieldsWeight<'h>, WeightError> {
        Ok(self.fields())
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<FieldsWeight<'h>, WeightError> {
        Ok(self.fields())
    }

    /// As the codec, which writes what is weighed here.
    fn is_human_readable(&self) -> bool {
        false
    }
}

impl ser::SerializeSeq for ElementsWeight<'_> {
    type Ok = usize;
    type Error = WeightError;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), WeightError> {
        self.count += 1;
        self.add(0, value)
    }

    fn end(self) -> Result<usize, WeightError> {
        Ok(self.finish())
    }
}

impl ser::SerializeMap for ElementsWeight<'_> {
    type Ok = usize;
    type Error = WeightError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), WeightError> {
        self.count += 1;
        self.add(0, key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), WeightError> {
        self.add(1, value)
    }

    fn end(self) -> Result<usize, WeightError> {
        Ok(self.finish())
    }
}

macro_rules! fields {
    ($($trait:ident $method:ident($($name:ty)?);)*) => {$(
        impl ser::$trait for FieldsWeight<'_> {
            type Ok = usize;
            type Error = WeightError;

            #[inline]
            fn $method<T: Serialize + ?Sized>(
                &mut self,
                $(_: $name,)?
                field: &T,
            ) -> Result<(), WeightError> {
                self.add(field)
            }

            fn end(self) -> Result<usize, WeightError> {
                Ok(self.size)
            }
        }
    )*};
}

fields! {
    SerializeTuple serialize_element();
    SerializeTupleStruct serialize_field();
    SerializeTupleVariant serialize_field();
    SerializeStruct serialize_field(&'static str);
    SerializeStructVariant serialize_field(&'static str);
}

#[cfg(test)]
mod tests;
