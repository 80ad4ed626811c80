//! Estimates a value's weight, which is the memory that the value takes.
//!
//! `size_of` gives the size of the value itself. A serializer then visits the value and adds up its
//! memory on the heap, without writing anything. A string counts by its length, and a sequence or a
//! map by its elements.
//!
//! `size_of` cannot measure the elements of a `Vec`: the serializer receives references to them,
//! and would measure the references. An element's size is therefore the sum of the sizes of its
//! contents. Every element counts as much as the largest, because an enum or an `Option` always
//! takes the space of its largest variant.
//!
//! The estimate omits the unused capacity of a string or a `Vec`, and data that `Serialize` skips.
//! It also omits parts that are nested more than [`MAX_DEPTH`] levels deep, because the serializer
//! calls itself for each level and would otherwise exhaust the stack.

use std::fmt::{self, Write};

use serde::ser::{self, Serialize};

/// The size of a `String` or a `Vec` without its heap data. A map is assumed to have the same size.
const COLLECTION_SIZE: usize = size_of::<Vec<u8>>();
/// The size of the two reference counts that an `Arc` stores in front of its value.
const ARC_COUNTS: usize = 2 * size_of::<usize>();

/// How deeply fields, elements and `Some`s may be nested. Deeper parts are not visited.
const MAX_DEPTH: usize = 1024;

/// Estimates how many bytes `value` takes when it is stored in an `Arc`. Returns `None` if the
/// value's `Serialize` fails.
pub(crate) fn of<V: Serialize>(value: &V) -> Option<usize> {
    let mut heap = 0;
    add_sized(value, size_of::<V>(), &mut heap, 0).ok()?;
    Some(of_own_size::<V>() + heap)
}

/// Returns how many bytes a `V` takes when it is stored in an `Arc`. Other heap memory that the `V`
/// owns is not counted.
pub(crate) fn of_own_size<V>() -> usize {
    arc_block_size(size_of::<V>())
}

/// Estimates how many bytes an allocator reserves for an `Arc` of a value with this size.
pub(crate) fn arc_block_size(bytes: usize) -> usize {
    block_size(ARC_COUNTS + bytes)
}

/// Estimates how many bytes an allocator reserves for a block of `bytes`. A typical allocator adds
/// a header to the block and rounds its size up.
pub(crate) fn block_size(bytes: usize) -> usize {
    const ALIGNMENT: usize = 16;
    const HEADER_SIZE: usize = 8;
    const MIN_BLOCK: usize = 32;
    if bytes == 0 { 0 } else { (bytes + HEADER_SIZE).next_multiple_of(ALIGNMENT).max(MIN_BLOCK) }
}

/// Adds the heap memory of `value` to `heap`. `size` must be the size of the value without its heap
/// memory.
#[inline]
fn add_sized<T: Serialize + ?Sized>(
    value: &T,
    size: usize,
    heap: &mut usize,
    depth: usize,
) -> Result<(), WeightError> {
    if depth > MAX_DEPTH {
        return Ok(());
    }
    let content = value.serialize(WeightSerializer { heap, depth })?;
    // If the contents are larger than the value, the value is a pointer to them: a `Box` or an
    // `Arc`.
    if size <= size_of::<usize>() && content > size {
        *heap += block_size(content);
    }
    Ok(())
}

/// A serializer that adds the heap memory of a value to `heap`. It returns the size of the value
/// itself, estimated from the contents.
struct WeightSerializer<'h> {
    heap: &'h mut usize,
    /// The number of values that this value is nested in.
    depth: usize,
}

/// The error that is returned if a value's `Serialize` fails.
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

/// A weigher of a sequence or a map, whose elements are on the heap.
struct ElementsWeigher<'h> {
    heap: &'h mut usize,
    depth: usize,
    count: usize,
    /// `largest[0]` is the size of the largest element of a sequence, or of the largest key of a
    /// map. `largest[1]` is the size of the largest value of a map.
    largest: [usize; 2],
    is_map: bool,
}

/// A weigher of a struct, a tuple or a variant, whose fields are inside the value.
struct FieldsWeigher<'h> {
    heap: &'h mut usize,
    depth: usize,
    size: usize,
}

impl<'h> WeightSerializer<'h> {
    fn elements(self, is_map: bool) -> ElementsWeigher<'h> {
        ElementsWeigher { heap: self.heap, depth: self.depth, count: 0, largest: [0; 2], is_map }
    }

    fn fields(self) -> FieldsWeigher<'h> {
        FieldsWeigher { heap: self.heap, depth: self.depth, size: 0 }
    }
}

impl ElementsWeigher<'_> {
    #[inline]
    fn add<T: Serialize + ?Sized>(&mut self, which: usize, value: &T) -> Result<(), WeightError> {
        if self.depth == MAX_DEPTH {
            return Ok(());
        }
        let serializer = WeightSerializer { heap: self.heap, depth: self.depth + 1 };
        let size = value.serialize(serializer)?;
        self.largest[which] = self.largest[which].max(size);
        Ok(())
    }

    /// Adds to `heap` the size of the block that contains all elements. Returns the size of the
    /// collection without this block.
    fn finish(self) -> usize {
        /// The assumed capacity of a small map. A hash table starts with 4 slots, and a B-tree node
        /// has 11.
        const MIN_MAP_CAPACITY: usize = 8;
        let size = match self.is_map {
            false => self.largest[0],
            true => self.largest.iter().map(|size| size.next_multiple_of(8)).sum(),
        };
        let capacity = match (self.is_map, self.count) {
            (false, count) => count,
            (true, 0) => 0,
            // The number of slots in a hash table is a power of two, and at most seven eighths of
            // the slots are full. A B-tree has about the same number of slots.
            (true, count) => (count + count / 7).next_power_of_two().max(MIN_MAP_CAPACITY),
        };
        *self.heap += block_size(capacity.saturating_mul(size));
        COLLECTION_SIZE
    }
}

impl FieldsWeigher<'_> {
    #[inline]
    fn add<T: Serialize + ?Sized>(&mut self, field: &T) -> Result<(), WeightError> {
        let size = size_of_val(field);
        self.size += size;
        add_sized(field, size, self.heap, self.depth + 1)
    }
}

/// Adds the heap memory of a string. Returns the size of the `String` without this memory.
fn add_string(heap: &mut usize, length: usize) -> usize {
    *heap += block_size(length);
    COLLECTION_SIZE
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
    type SerializeSeq = ElementsWeigher<'h>;
    type SerializeTuple = FieldsWeigher<'h>;
    type SerializeTupleStruct = FieldsWeigher<'h>;
    type SerializeTupleVariant = FieldsWeigher<'h>;
    type SerializeMap = ElementsWeigher<'h>;
    type SerializeStruct = FieldsWeigher<'h>;
    type SerializeStructVariant = FieldsWeigher<'h>;

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
        Ok(add_string(self.heap, value.len()))
    }

    /// Counts the formatted text without building it.
    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<usize, WeightError> {
        struct TextLength(usize);
        impl Write for TextLength {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0 += text.len();
                Ok(())
            }
        }
        let mut length = TextLength(0);
        write!(length, "{value}").map_err(|_| WeightError)?;
        Ok(add_string(self.heap, length.0))
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<usize, WeightError> {
        Ok(add_string(self.heap, value.len()))
    }

    // The size of a `None` is unknown here, because serde does not pass on the type of the
    // `Option`. The size of a pointer is a low guess: few `Option`s are smaller.
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

    fn serialize_seq(self, _: Option<usize>) -> Result<ElementsWeigher<'h>, WeightError> {
        Ok(self.elements(false))
    }

    fn serialize_tuple(self, _: usize) -> Result<FieldsWeigher<'h>, WeightError> {
        Ok(self.fields())
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<FieldsWeigher<'h>, WeightError> {
        Ok(self.fields())
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<FieldsWeigher<'h>, WeightError> {
        Ok(self.fields())
    }

    fn serialize_map(self, _: Option<usize>) -> Result<ElementsWeigher<'h>, WeightError> {
        Ok(self.elements(true))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<FieldsWeigher<'h>, WeightError> {
        Ok(self.fields())
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<FieldsWeigher<'h>, WeightError> {
        Ok(self.fields())
    }

    // The serializer that encodes values for memcached also returns false. Most types therefore
    // serialize here as they do there.
    fn is_human_readable(&self) -> bool {
        false
    }
}

impl ser::SerializeSeq for ElementsWeigher<'_> {
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

impl ser::SerializeMap for ElementsWeigher<'_> {
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
        impl ser::$trait for FieldsWeigher<'_> {
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
