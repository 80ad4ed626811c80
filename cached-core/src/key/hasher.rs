//! Hashes a key while serde visits the parts of the key. The key is not written to a buffer.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use serde::ser::Serialize;

use super::serializer::{FieldSink, KeySerializer, KeySink};
use super::{DynKeyPart, KeyHeader, SerializeFailure};

/// A [`KeySink`] that hashes the key's bytes instead of storing them. It leaves out the bytes that
/// are passed to [`KeySink::unhashed`].
///
/// Keys with the same bytes have the same hash in this process. Keys with different bytes can
/// collide, so a table must compare a key that it finds with the key that it looks for.
#[derive(Clone, Copy)]
pub struct KeyHasher(u64);

impl KeyHasher {
    #[inline]
    pub(crate) fn new(index: u32) -> KeyHasher {
        KeyHasher(secret() ^ u64::from(index))
    }

    /// Returns the header of a key that belongs to the declaration with this index.
    #[inline]
    pub(crate) fn header(self, index: u32) -> KeyHeader {
        KeyHeader::new(self.0 as u32, index)
    }

    #[inline(always)]
    fn mix(self, first: u64, second: u64) -> KeyHasher {
        KeyHasher(mix(self.0, first, second))
    }
}

impl KeySink for KeyHasher {
    type Error = SerializeFailure;
    type Fields = FieldHasher;

    #[inline(always)]
    fn unhashed<const N: usize>(self, _: [u8; N]) -> Result<KeyHasher, SerializeFailure> {
        Ok(self)
    }

    #[inline(always)]
    fn piece<const N: usize>(
        self,
        prefix: [u8; N],
        bytes: &[u8],
    ) -> Result<KeyHasher, SerializeFailure> {
        // Up to 32 bytes are read as two overlapping words, which takes neither a loop nor a call.
        let prefix = prefix.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte)) << 32;
        Ok(match (bytes, bytes.len()) {
            ([], _) => self.mix(0, prefix),
            (&[first, ..], length @ 1..=3) => {
                let three = [first, bytes[length / 2], bytes[length - 1], 0];
                self.mix(u32::from_le_bytes(three).into(), prefix)
            }
            (_, 4..=7) => {
                let [first, last] = ends::<4>(bytes).map(u32::from_le_bytes);
                self.mix(first.into(), prefix ^ u64::from(last))
            }
            (_, 8..=15) => {
                let [first, last] = ends::<8>(bytes).map(u64::from_le_bytes);
                self.mix(first, prefix ^ last)
            }
            (_, 16..=32) => {
                let [first, last] = ends::<16>(bytes).map(u128::from_le_bytes);
                self.mix(first as u64, prefix ^ (first >> 64) as u64)
                    .mix(last as u64, (last >> 64) as u64)
            }
            _ => self.mix(0, prefix).mix_long(bytes),
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

    fn fields(self) -> FieldHasher {
        FieldHasher { before: self, sum: 0, field: self }
    }
}

impl KeyHasher {
    #[inline(never)]
    fn mix_long(self, bytes: &[u8]) -> KeyHasher {
        let (words, rest) = bytes.as_chunks::<8>();
        let hasher =
            words.iter().fold(self, |hasher, word| hasher.mix(u64::from_le_bytes(*word), 8));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        hasher.mix(u64::from_le_bytes(last), rest.len() as u64)
    }
}

/// Returns the first `N` and the last `N` bytes. `bytes` must have at least `N` bytes.
#[inline(always)]
fn ends<const N: usize>(bytes: &[u8]) -> [[u8; N]; 2] {
    [bytes.first_chunk(), bytes.last_chunk()].map(|end| end.copied().unwrap_or([0; N]))
}

/// Multiplies two factors and XORs the halves of the product, as `wyhash` and `foldhash` do.
///
/// The previous hash, which depends on the secret, is mixed into both factors. So an attacker who
/// does not know the secret cannot make a factor 0.
#[inline(always)]
fn mix(hash: u64, first: u64, second: u64) -> u64 {
    // The constant is arbitrary: the first 64 bits of the fractional part of pi.
    let second = second ^ hash.rotate_left(32) ^ 0x243f_6a88_85a3_08d3;
    let product = u128::from(first ^ hash) * u128::from(second);
    product as u64 ^ (product >> 64) as u64
}

/// Returns the random seed of this process. An attacker who does not know it cannot choose keys
/// that collide.
#[inline]
fn secret() -> u64 {
    static SECRET: OnceLock<u64> = OnceLock::new();
    *SECRET.get_or_init(|| RandomState::new().hash_one(0))
}

/// A [`FieldSink`] that hashes a struct's fields or a map's entries. It hashes each field
/// separately and adds up the hashes, so the order of the fields does not matter.
pub struct FieldHasher {
    /// The hash of everything before the struct or map.
    before: KeyHasher,
    sum: u64,
    /// The hash of the field that is being written.
    field: KeyHasher,
}

impl FieldSink<KeyHasher> for FieldHasher {
    #[inline]
    fn begin(&mut self) {
        self.sum = self.sum.wrapping_add(self.field.0);
        self.field = self.before;
    }

    #[inline]
    fn add<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), SerializeFailure> {
        self.field = part.serialize(KeySerializer(self.field))?;
        Ok(())
    }

    #[inline]
    fn end(mut self) -> Result<KeyHasher, SerializeFailure> {
        self.begin();
        Ok(self.before.mix(self.sum, 0))
    }
}
