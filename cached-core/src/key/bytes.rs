//! The canonical bytes of a key, or of a part of one.

use std::ops::Deref;

use serde::ser::Serialize;
use smallvec::SmallVec;

use super::serializer::{END, KeySerializer, KeySink, UnorderedEntries};
use super::{DynKeyPart, KeyError, KeyHeader};

/// A key longer than this moves to the heap; ordinary ones stay on the stack.
const INLINE: usize = 192;

/// KeyBytes that are only added to. `SmallVec` does the same, in more instructions.
pub struct KeyBytes {
    inline: [u8; INLINE],
    length: usize,
    /// All of the bytes, once they do not fit.
    heap: Vec<u8>,
}

impl Default for KeyBytes {
    fn default() -> KeyBytes {
        KeyBytes { inline: [0; INLINE], length: 0, heap: Vec::new() }
    }
}

impl KeyBytes {
    /// Begins a key of this process.
    pub(crate) fn begin(&mut self, head: KeyHeader) {
        self.add(&head.to_bytes());
    }

    #[inline]
    pub(super) fn add(&mut self, bytes: &[u8]) {
        match self.inline.get_mut(self.length..self.length.saturating_add(bytes.len())) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.length += bytes.len();
            }
            None => self.add_to_heap(bytes),
        }
    }

    #[cold]
    fn add_to_heap(&mut self, bytes: &[u8]) {
        if self.length <= INLINE {
            self.heap.extend_from_slice(&self.inline[..self.length]);
            // Nothing fits in any more.
            self.length = INLINE + 1;
        }
        self.heap.extend_from_slice(bytes);
    }

    /// Puts `tail` in the place of as many bytes at the end.
    fn replace_tail(&mut self, tail: &[u8]) {
        let bytes = match self.length {
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
        self.inline.get(..self.length).unwrap_or(&self.heap)
    }
}

impl<'b> KeySink for &'b mut KeyBytes {
    type Error = KeyError;
    type Entries = ByteEntries<'b>;

    fn brackets<const N: usize>(self, bytes: [u8; N]) -> Result<Self, KeyError> {
        self.add(&bytes);
        Ok(self)
    }

    fn piece<const N: usize>(self, head: [u8; N], bytes: &[u8]) -> Result<Self, KeyError> {
        self.add(&head);
        self.add(bytes);
        Ok(self)
    }

    fn part(self, part: DynKeyPart<'_>) -> Result<Self, KeyError> {
        part.encode(self)
    }

    fn entries(self) -> ByteEntries<'b> {
        ByteEntries { starts: EntryOffsets::default(), bytes: self }
    }
}

/// UnorderedEntries that are added to bytes.
pub struct ByteEntries<'b> {
    bytes: &'b mut KeyBytes,
    starts: EntryOffsets,
}

impl<'b> UnorderedEntries<&'b mut KeyBytes> for ByteEntries<'b> {
    fn begin(&mut self) {
        self.starts.begin(self.bytes);
    }

    fn add<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), KeyError> {
        part.serialize(KeySerializer(&mut *self.bytes)).map(drop)
    }

    fn end(self) -> Result<&'b mut KeyBytes, KeyError> {
        self.starts.sort(self.bytes);
        self.bytes.brackets([END])
    }
}

/// Where each of some entries starts.
#[derive(Default)]
pub(super) struct EntryOffsets(SmallVec<[usize; 16]>);

impl EntryOffsets {
    pub(super) fn begin(&mut self, bytes: &KeyBytes) {
        self.0.push(bytes.len());
    }

    /// Sorts the entries, which are the last of these bytes, by their bytes if they are not.
    pub(super) fn sort(&self, bytes: &mut KeyBytes) {
        let EntryOffsets(starts) = self;
        let end = bytes.len();
        let entry = |index: usize| starts[index]..starts.get(index + 1).copied().unwrap_or(end);
        let is_sorted =
            (1..starts.len()).all(|index| bytes[entry(index - 1)] <= bytes[entry(index)]);
        if is_sorted {
            return;
        }
        let mut order: SmallVec<[usize; 16]> = (0..starts.len()).collect();
        order.sort_by(|&a, &b| bytes[entry(a)].cmp(&bytes[entry(b)]));
        let mut sorted: SmallVec<[u8; INLINE]> = SmallVec::new();
        for index in order {
            sorted.extend_from_slice(&bytes[entry(index)]);
        }
        bytes.replace_tail(&sorted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_what_was_added_however_long_the_pieces_are() {
        for piece in 0..70 {
            let (mut bytes, mut expected) = (KeyBytes::default(), Vec::new());
            while expected.len() < 3 * INLINE {
                let added: Vec<u8> = (0..piece).map(|i| (expected.len() + i) as u8 | 1).collect();
                let _ = (&mut bytes).piece([7, piece as u8], &added).expect("takes all");
                expected.extend_from_slice(&[7, piece as u8]);
                expected.extend_from_slice(&added);
                assert_eq!(*bytes, *expected);
            }
        }
    }

    #[test]
    fn a_tail_is_replaced_on_the_stack_and_on_the_heap() {
        for length in [10, INLINE, INLINE + 1, 3 * INLINE] {
            let mut bytes = KeyBytes::default();
            (0..length).for_each(|byte| bytes.add(&[byte as u8]));
            bytes.replace_tail(b"end");
            assert_eq!(bytes[length - 3..], *b"end");
            assert_eq!(bytes.len(), length);
        }
    }
}
