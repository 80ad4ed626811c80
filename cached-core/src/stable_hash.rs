//! A hasher whose results are equal in every build and on every machine, so that they can be
//! stored.

/// A hasher that computes a 64-bit FNV-1a hash (Fowler, Noll, Vo).
///
/// The last step is MurmurHash3's `fmix64`. It lets a caller add up finished hashes: sums of
/// different hashes are unlikely to be equal.
#[derive(Clone, Copy)]
pub(crate) struct StableHasher(u64);

const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

impl StableHasher {
    pub(crate) fn new(word: u64) -> StableHasher {
        StableHasher(0xcbf2_9ce4_8422_2325).word(word)
    }

    pub(crate) fn word(self, word: u64) -> StableHasher {
        match u8::try_from(word) {
            // Most words are below 256, so seven of their bytes are zero. Hashing a zero byte only
            // multiplies the hash by the prime.
            Ok(byte) => {
                StableHasher((self.0 ^ u64::from(byte)).wrapping_mul(FNV_PRIME.wrapping_pow(8)))
            }
            Err(_) => word.to_le_bytes().iter().fold(self, |hash, &byte| hash.byte(byte)),
        }
    }

    /// Mixes in a number that is already a hash, in one step instead of eight.
    pub(crate) fn hash(self, hash: u64) -> StableHasher {
        let mixed = (self.0.rotate_left(23) ^ hash).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        StableHasher(mixed ^ (mixed >> 32))
    }

    pub(crate) fn text(self, text: &str) -> StableHasher {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn bytes(self, bytes: &[u8]) -> StableHasher {
        bytes.iter().fold(self.word(bytes.len() as u64), |hash, &byte| hash.byte(byte))
    }

    fn byte(self, byte: u8) -> StableHasher {
        StableHasher((self.0 ^ u64::from(byte)).wrapping_mul(FNV_PRIME))
    }

    pub(crate) fn finish(self) -> u64 {
        let mut x = self.0;
        x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        x ^ (x >> 33)
    }
}
