//! Bytes on the stack, as long as they are few, and a hash of them.

use std::ops::Deref;

/// A key longer than this moves to the heap; ordinary ones stay on the stack.
const INLINE: usize = 192;
/// What is added at once where it fits: a head, and so many bytes.
const SHORT: usize = 32;
const HEAD: usize = 4;
const WINDOW: usize = HEAD + SHORT;

/// Bytes that are only added to. `SmallVec` does the same; this one adds a few bytes, as keys
/// mostly do, in a quarter of the instructions, and hashes them while it has them at hand: what was
/// just written is slow to read.
pub(super) struct Buffer {
    inline: [u8; INLINE],
    length: usize,
    /// All of the bytes, once they do not fit.
    heap: Vec<u8>,
    hash: u64,
}

impl Default for Buffer {
    #[inline]
    fn default() -> Buffer {
        Buffer { inline: [0; INLINE], length: 0, heap: Vec::new(), hash: 0 }
    }
}

impl Buffer {
    /// Begins with room for the hash, a number, and a bracket.
    #[inline]
    pub(super) fn start(&mut self, number: u32, bracket: u8) {
        self.inline[4..8].copy_from_slice(&number.to_ne_bytes());
        self.inline[8] = bracket;
        self.length = 9;
        self.hash = number.into();
    }

    /// Adds bytes that the hash has no use for.
    #[inline]
    pub(super) fn brackets<const N: usize>(&mut self, bytes: [u8; N]) {
        match self.inline.get_mut(self.length..).and_then(<[u8]>::first_chunk_mut) {
            Some(place) => {
                *place = bytes;
                self.length += N;
            }
            None => self.spill(&bytes),
        }
    }

    #[inline]
    pub(super) fn push(&mut self, byte: u8) {
        self.hash = mix(self.hash, byte.into(), 0);
        self.brackets([byte]);
    }

    /// Adds the first bytes of a head, `length` of them, and others. The rest of the head is 0.
    #[inline(always)]
    pub(super) fn extend(&mut self, head: [u8; HEAD], length: usize, tail: &[u8]) {
        if tail.len() > SHORT || self.length > INLINE - WINDOW {
            return self.extend_slowly(&head[..length], tail);
        }
        let window = &mut self.inline[self.length..self.length + WINDOW];
        window[..HEAD].copy_from_slice(&head);
        let words = copy(&mut window[length..], tail);
        self.length += length + tail.len();
        let head = u64::from(u32::from_le_bytes(head)) << 32;
        self.hash = mix(self.hash, words[0], words[1] ^ head);
        if tail.len() > SHORT / 2 {
            self.hash = mix(self.hash, words[2], words[3]);
        }
    }

    #[cold]
    #[inline(never)]
    fn extend_slowly(&mut self, head: &[u8], tail: &[u8]) {
        for bytes in [head, tail] {
            self.hash = mix_all(self.hash, bytes);
            self.add(bytes);
        }
    }

    /// Without the hash.
    fn add(&mut self, bytes: &[u8]) {
        match self.inline.get_mut(self.length..self.length.saturating_add(bytes.len())) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.length += bytes.len();
            }
            None => self.spill(bytes),
        }
    }

    #[cold]
    #[inline(never)]
    fn spill(&mut self, bytes: &[u8]) {
        if self.length <= INLINE {
            self.heap.extend_from_slice(&self.inline[..self.length]);
            // Nothing fits in any more.
            self.length = INLINE + 1;
        }
        self.heap.extend_from_slice(bytes);
    }

    /// What was added, with its hash in front. The same additions give the same hash; others may,
    /// too.
    #[inline]
    pub(super) fn finish(&mut self) -> &[u8] {
        let hash = (self.hash as u32).to_ne_bytes();
        let written = self.written();
        if let Some(front) = written.first_chunk_mut() {
            *front = hash;
        }
        written
    }

    #[inline]
    fn written(&mut self) -> &mut [u8] {
        match self.length {
            inline @ ..=INLINE => &mut self.inline[..inline],
            _ => &mut self.heap[..],
        }
    }

    /// The hash so far.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// Hashes all that follows the first `length` bytes anew, as one piece: `before` was the hash when
    /// there were so many.
    pub(super) fn hash_again(&mut self, length: usize, before: u64) {
        self.hash = mix_all(before, &self[length..]);
    }

    /// Puts `tail` in the place of what follows the first `length` bytes, and is as long.
    pub(super) fn replace_tail(&mut self, length: usize, tail: &[u8]) {
        self.written()[length..].copy_from_slice(tail);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.inline.get(..self.length).unwrap_or(&self.heap)
    }
}

/// Both halves of a product, as `wyhash` and `foldhash` do. It has no secret: whoever makes keys that
/// collide makes them slow to find, here and nowhere else.
#[inline(always)]
fn mix(hash: u64, first: u64, second: u64) -> u64 {
    // Digits of pi.
    let first = first ^ hash ^ 0x243f_6a88_85a3_08d3;
    let product = u128::from(first) * u128::from(second ^ 0x1319_8a2e_0370_7344);
    product as u64 ^ (product >> 64) as u64
}

fn mix_all(hash: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(hash, |hash, word| mix(hash, u64::from_le_bytes(*word), 8));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(hash, u64::from_le_bytes(last), rest.len() as u64)
}

/// Copies up to [`SHORT`] bytes without a call, as pieces of a fixed length that overlap, and
/// returns what they are: all bytes are in these words, but not each length has words of its own.
#[inline(always)]
fn copy(place: &mut [u8], bytes: &[u8]) -> [u64; 4] {
    match bytes.len() {
        0 => [0; 4],
        length @ 1..=3 => {
            let three = [bytes[0], bytes[length / 2], bytes[length - 1]];
            (place[0], place[length / 2], place[length - 1]) = three.into();
            [u32::from_le_bytes([three[0], three[1], three[2], 0]).into(), 0, 0, 0]
        }
        4..=7 => {
            let [first, last] = overlapping::<4>(place, bytes);
            [u32::from_le_bytes(first).into(), u32::from_le_bytes(last).into(), 0, 0]
        }
        8..=15 => {
            let [first, last] = overlapping::<8>(place, bytes).map(u64::from_le_bytes);
            [first, last, 0, 0]
        }
        _ => {
            let [first, last] = overlapping::<16>(place, bytes).map(u128::from_le_bytes);
            [first as u64, (first >> 64) as u64, last as u64, (last >> 64) as u64]
        }
    }
}

#[inline(always)]
fn overlapping<const PIECE: usize>(place: &mut [u8], bytes: &[u8]) -> [[u8; PIECE]; 2] {
    let first = bytes.first_chunk().copied().unwrap_or([0; PIECE]);
    let last = bytes.last_chunk().copied().unwrap_or([0; PIECE]);
    if let Some(place) = place.get_mut(..bytes.len()) {
        if let Some(to) = place.first_chunk_mut() {
            *to = first;
        }
        if let Some(to) = place.last_chunk_mut() {
            *to = last;
        }
    }
    [first, last]
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
                buffer.extend([7, piece as u8, 0, 0], 2, &added);
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
