//! A hash of a key, made without its bytes.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use serde::ser::Serialize;

use super::serializer::{KeySerializer, KeySink, UnorderedEntries};
use super::{DynKeyPart, KeyHeader, SerializeFailure};

/// Hashes what is written to it, and nothing that only brackets it. What gives the same bytes gives
/// the same hash in this process; what gives others may, too. For tables where a collision costs a
/// look elsewhere.
#[derive(Clone, Copy)]
pub struct KeyHasher(u64);

impl KeyHasher {
    #[inline]
    pub(crate) fn new(index: u32) -> KeyHasher {
        KeyHasher(secret() ^ u64::from(index))
    }

    /// The head of a key of the declaration with this index.
    #[inline]
    pub(crate) fn head(self, index: u32) -> KeyHeader {
        KeyHeader::new(self.0 as u32, index)
    }

    #[inline(always)]
    fn mix(self, first: u64, second: u64) -> KeyHasher {
        KeyHasher(mix(self.0, first, second))
    }
}

impl KeySink for KeyHasher {
    type Error = SerializeFailure;
    type Entries = HashedEntries;

    #[inline(always)]
    fn brackets<const N: usize>(self, _: [u8; N]) -> Result<KeyHasher, SerializeFailure> {
        Ok(self)
    }

    #[inline(always)]
    fn piece<const N: usize>(
        self,
        head: [u8; N],
        bytes: &[u8],
    ) -> Result<KeyHasher, SerializeFailure> {
        // As pieces of a fixed length that overlap: without a loop, and without a call.
        let head = head.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte)) << 32;
        Ok(match (bytes, bytes.len()) {
            ([], _) => self.mix(0, head),
            (&[first, ..], length @ 1..=3) => {
                let three = [first, bytes[length / 2], bytes[length - 1], 0];
                self.mix(u32::from_le_bytes(three).into(), head)
            }
            (_, 4..=7) => {
                let [first, last] = ends::<4>(bytes).map(u32::from_le_bytes);
                self.mix(first.into(), head ^ u64::from(last))
            }
            (_, 8..=15) => {
                let [first, last] = ends::<8>(bytes).map(u64::from_le_bytes);
                self.mix(first, head ^ last)
            }
            (_, 16..=32) => {
                let [first, last] = ends::<16>(bytes).map(u128::from_le_bytes);
                self.mix(first as u64, head ^ (first >> 64) as u64)
                    .mix(last as u64, (last >> 64) as u64)
            }
            _ => self.mix(0, head).all(bytes),
        })
    }

    #[inline(always)]
    fn number(self, tag: u8, magnitude: u128) -> Result<KeyHasher, SerializeFailure> {
        Ok(self.mix(magnitude as u64, (magnitude >> 64) as u64 ^ (u64::from(tag) << 32)))
    }

    #[inline(always)]
    fn part(self, part: DynKeyPart<'_>) -> Result<KeyHasher, SerializeFailure> {
        part.hash(self)
    }

    fn entries(self) -> HashedEntries {
        HashedEntries { before: self, sum: 0, entry: self }
    }
}

impl KeyHasher {
    #[inline(never)]
    fn all(self, bytes: &[u8]) -> KeyHasher {
        let (words, rest) = bytes.as_chunks::<8>();
        let hasher =
            words.iter().fold(self, |hasher, word| hasher.mix(u64::from_le_bytes(*word), 8));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        hasher.mix(u64::from_le_bytes(last), rest.len() as u64)
    }
}

/// The first and the last bytes of some that are as many at least.
#[inline(always)]
fn ends<const N: usize>(bytes: &[u8]) -> [[u8; N]; 2] {
    [bytes.first_chunk(), bytes.last_chunk()].map(|end| end.copied().unwrap_or([0; N]))
}

/// Both halves of a product, as `wyhash` and `foldhash` do. What is hashed so far is in both factors:
/// nobody who does not know the secret can make one of them 0.
#[inline(always)]
fn mix(hash: u64, first: u64, second: u64) -> u64 {
    // Digits of pi.
    let second = second ^ hash.rotate_left(32) ^ 0x243f_6a88_85a3_08d3;
    let product = u128::from(first ^ hash) * u128::from(second);
    product as u64 ^ (product >> 64) as u64
}

/// So that whoever chooses keys cannot choose such that collide.
#[inline]
fn secret() -> u64 {
    static SECRET: OnceLock<u64> = OnceLock::new();
    *SECRET.get_or_init(|| RandomState::new().hash_one(0))
}

/// UnorderedEntries under way: each is hashed by itself, and their sum does not know their order.
pub struct HashedEntries {
    before: KeyHasher,
    sum: u64,
    /// The hash of the entry under way.
    entry: KeyHasher,
}

impl UnorderedEntries<KeyHasher> for HashedEntries {
    #[inline]
    fn begin(&mut self) {
        self.sum = self.sum.wrapping_add(self.entry.0);
        self.entry = self.before;
    }

    #[inline]
    fn add<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), SerializeFailure> {
        self.entry = part.serialize(KeySerializer(self.entry))?;
        Ok(())
    }

    #[inline]
    fn end(mut self) -> Result<KeyHasher, SerializeFailure> {
        self.begin();
        Ok(self.before.mix(self.sum, 0))
    }
}
