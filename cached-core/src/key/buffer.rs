//! Bytes on the stack, as long as they are few.

use std::ops::Deref;

/// A key longer than this moves to the heap; ordinary ones stay on the stack.
const INLINE: usize = 192;

/// Bytes that are only added to. `SmallVec` does the same; this one adds a few bytes, as keys
/// mostly do, in a quarter of the instructions.
pub(crate) struct Buffer {
    inline: [u8; INLINE],
    length: usize,
    /// All of the bytes, once they do not fit.
    heap: Vec<u8>,
}

impl Default for Buffer {
    #[inline]
    fn default() -> Buffer {
        Buffer { inline: [0; INLINE], length: 0, heap: Vec::new() }
    }
}

impl Buffer {
    #[inline]
    pub(crate) fn push(&mut self, byte: u8) {
        match self.inline.get_mut(self.length) {
            Some(place) => {
                *place = byte;
                self.length += 1;
            }
            None => self.spill(&[byte]),
        }
    }

    /// Adds a few bytes of a fixed number, one more, and others.
    #[inline(always)]
    pub(crate) fn extend<const N: usize>(&mut self, head: [u8; N], next: u8, tail: &[u8]) {
        let end = self.length.saturating_add(N + 1).saturating_add(tail.len());
        let place = self.inline.get_mut(self.length..end);
        match place.and_then(|place| place.split_first_chunk_mut()) {
            Some((place, [after, rest @ ..])) => {
                *place = head;
                *after = next;
                copy(rest, tail);
                self.length = end;
            }
            _ => {
                self.spill(&head);
                self.spill(&[next]);
                self.spill(tail);
            }
        }
    }

    #[cold]
    fn spill(&mut self, bytes: &[u8]) {
        if self.length <= INLINE {
            self.heap.extend_from_slice(&self.inline[..self.length]);
            // Nothing fits in any more.
            self.length = INLINE + 1;
        }
        self.heap.extend_from_slice(bytes);
    }

    /// Puts `tail` in the place of what follows the first `length` bytes, and is as long.
    pub(crate) fn replace_tail(&mut self, length: usize, tail: &[u8]) {
        let bytes = match self.length {
            inline @ ..=INLINE => &mut self.inline[..inline],
            _ => &mut self.heap[..],
        };
        bytes[length..].copy_from_slice(tail);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.inline.get(..self.length).unwrap_or(&self.heap)
    }
}

/// Copies without a call where there are few bytes: as two pieces of a fixed length that overlap.
#[inline(always)]
fn copy(place: &mut [u8], bytes: &[u8]) {
    match bytes.len() {
        0 => {}
        length @ 1..=3 => {
            place[0] = bytes[0];
            place[length / 2] = bytes[length / 2];
            place[length - 1] = bytes[length - 1];
        }
        4..=7 => overlapping::<4>(place, bytes),
        8..=15 => overlapping::<8>(place, bytes),
        16..=32 => overlapping::<16>(place, bytes),
        _ => place.copy_from_slice(bytes),
    }
}

#[inline(always)]
fn overlapping<const PIECE: usize>(place: &mut [u8], bytes: &[u8]) {
    if let (Some(to), Some(from)) = (place.first_chunk_mut(), bytes.first_chunk::<PIECE>()) {
        *to = *from;
    }
    if let (Some(to), Some(from)) = (place.last_chunk_mut(), bytes.last_chunk::<PIECE>()) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_holds_what_was_added_however_long_the_pieces_are() {
        for piece in 0..70 {
            let (mut buffer, mut expected) = (Buffer::default(), Vec::new());
            while expected.len() < 3 * INLINE {
                let added: Vec<u8> = (0..piece).map(|i| (expected.len() + i) as u8 | 1).collect();
                buffer.extend([7], piece as u8, &added);
                buffer.push(9);
                expected.extend_from_slice(&[7, piece as u8]);
                expected.extend_from_slice(&added);
                expected.push(9);
                assert_eq!(*buffer, *expected);
            }
        }
    }

    #[test]
    fn a_tail_is_replaced_on_the_stack_and_on_the_heap() {
        for length in [10, INLINE, INLINE + 1, 3 * INLINE] {
            let mut buffer = Buffer::default();
            (0..length).for_each(|byte| buffer.push(byte as u8));
            buffer.replace_tail(length - 3, b"end");
            assert_eq!(buffer[length - 3..], *b"end");
            assert_eq!(buffer[..length - 3].len(), length - 3);
        }
    }
}
