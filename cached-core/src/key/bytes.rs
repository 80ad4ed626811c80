//! A buffer that holds the encoded bytes of a cache key while they are written.

use std::ops::Deref;

use serde::ser::Serialize;
use smallvec::SmallVec;

use super::serializer::{END, FieldSink, KeySerializer, KeySink};
use super::unordered::unordered_name;
use super::{DynKeyPart, KeyError, KeyHeader};

/// A key of up to this many bytes stays on the stack. Most keys are short enough.
const INLINE: usize = 192;

/// A buffer for the bytes of a key, or of a part of a key.
///
/// The buffer is not a `SmallVec`, because an append to a `SmallVec` takes more instructions.
pub struct KeyBytes {
    inline: [u8; INLINE],
    /// The number of bytes in `inline`, or `INLINE + 1` if all bytes are in `heap`.
    inline_length: usize,
    /// All bytes, if there are more than [`INLINE`].
    heap: Vec<u8>,
    /// The type name of a collection in the key that has no stable order, if there is one. Such a
    /// collection can give equal values different bytes.
    unordered: Option<&'static str>,
}

impl Default for KeyBytes {
    fn default() -> KeyBytes {
        KeyBytes { inline: [0; INLINE], inline_length: 0, heap: Vec::new(), unordered: None }
    }
}

impl KeyBytes {
    pub(crate) fn write_header(&mut self, header: KeyHeader) {
        self.add(&header.to_bytes());
    }

    /// Returns the type name of a collection without a stable order, if the key contains one.
    pub(crate) fn unordered(&self) -> Option<&'static str> {
        self.unordered
    }

    #[inline]
    pub(super) fn add(&mut self, bytes: &[u8]) {
        match self
            .inline
            .get_mut(self.inline_length..self.inline_length.saturating_add(bytes.len()))
        {
            Some(free) => {
                free.copy_from_slice(bytes);
                self.inline_length += bytes.len();
            }
            None => self.add_to_heap(bytes),
        }
    }

    #[cold]
    fn add_to_heap(&mut self, bytes: &[u8]) {
        if self.inline_length <= INLINE {
            self.heap.extend_from_slice(&self.inline[..self.inline_length]);
            // With this length, `add` finds no room in `inline`, so later bytes go to the heap.
            self.inline_length = INLINE + 1;
        }
        self.heap.extend_from_slice(bytes);
    }

    /// Overwrites the end of the buffer with `tail`, which must not be longer than the buffer.
    fn replace_tail(&mut self, tail: &[u8]) {
        let bytes = match self.inline_length {
            inline @ ..=INLINE => &mut self.inline[..inline],
            _ => &mut self.heap[..],
        };
        let start = bytes.len() - tail.len();
        bytes[start..].copy_from_slice(tail);
    }
}

impl Deref for KeyBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.inline.get(..self.inline_length).unwrap_or(&self.heap)
    }
}

impl<'b> KeySink for &'b mut KeyBytes {
    type Error = KeyError;
    type Fields = FieldEncoder<'b>;

    fn unhashed<const N: usize>(self, bytes: [u8; N]) -> Result<Self, KeyError> {
        self.add(&bytes);
        Ok(self)
    }

    fn piece<const N: usize>(self, prefix: [u8; N], bytes: &[u8]) -> Result<Self, KeyError> {
        self.add(&prefix);
        self.add(bytes);
        Ok(self)
    }

    fn part(self, part: DynKeyPart<'_>) -> Result<Self, KeyError> {
        part.encode(self)
    }

    #[inline]
    fn collection<Collection>(self) -> Self {
        if let Some(name) = unordered_name::<Collection>() {
            self.unordered = Some(name);
        }
        self
    }

    fn fields(self) -> FieldEncoder<'b> {
        FieldEncoder { offsets: FieldOffsets::default(), bytes: self }
    }
}

/// Encodes a struct's fields or a map's entries, and finally sorts them. The key then does not
/// depend on the order in which they were added.
pub struct FieldEncoder<'b> {
    bytes: &'b mut KeyBytes,
    offsets: FieldOffsets,
}

impl<'b> FieldSink<&'b mut KeyBytes> for FieldEncoder<'b> {
    fn begin(&mut self) {
        self.offsets.push(self.bytes);
    }

    fn add<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), KeyError> {
        part.serialize(KeySerializer(&mut *self.bytes)).map(drop)
    }

    fn end(self) -> Result<&'b mut KeyBytes, KeyError> {
        self.offsets.sort_fields(self.bytes);
        self.bytes.unhashed([END])
    }
}

/// The offsets at which the fields of a struct, or the entries of a map, start.
#[derive(Default)]
pub(super) struct FieldOffsets(SmallVec<[usize; 16]>);

impl FieldOffsets {
    /// Records that a field starts at the end of `bytes`.
    pub(super) fn push(&mut self, bytes: &KeyBytes) {
        self.0.push(bytes.len());
    }

    /// Sorts the fields by their bytes. The fields must be the last bytes of the buffer.
    pub(super) fn sort_fields(&self, bytes: &mut KeyBytes) {
        let FieldOffsets(offsets) = self;
        let end = bytes.len();
        let field = |index: usize| offsets[index]..offsets.get(index + 1).copied().unwrap_or(end);
        let is_sorted =
            (1..offsets.len()).all(|index| bytes[field(index - 1)] <= bytes[field(index)]);
        if is_sorted {
            return;
        }
        let mut order: SmallVec<[usize; 16]> = (0..offsets.len()).collect();
        order.sort_by(|&a, &b| bytes[field(a)].cmp(&bytes[field(b)]));
        let mut sorted: SmallVec<[u8; INLINE]> = SmallVec::new();
        for index in order {
            sorted.extend_from_slice(&bytes[field(index)]);
        }
        bytes.replace_tail(&sorted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_length_are_appended() {
        for piece in 0..70 {
            let (mut bytes, mut expected) = (KeyBytes::default(), Vec::new());
            while expected.len() < 3 * INLINE {
                let added: Vec<u8> = (0..piece).map(|i| (expected.len() + i) as u8 | 1).collect();
                let _ =
                    (&mut bytes).piece([7, piece as u8], &added).expect("a buffer takes all bytes");
                expected.extend_from_slice(&[7, piece as u8]);
                expected.extend_from_slice(&added);
                assert_eq!(*bytes, *expected);
            }
        }
    }

    #[test]
    fn a_tail_is_replaced_on_stack_and_heap() {
        for length in [10, INLINE, INLINE + 1, 3 * INLINE] {
            let mut bytes = KeyBytes::default();
            (0..length).for_each(|byte| bytes.add(&[byte as u8]));
            bytes.replace_tail(b"end");
            assert_eq!(bytes[length - 3..], *b"end");
            assert_eq!(bytes.len(), length);
        }
    }
}
