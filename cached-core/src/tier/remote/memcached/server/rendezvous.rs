//! Rendezvous hashing (Thaler and Ravishankar 1998): each key belongs to the server with the
//! highest score for the key. If a server leaves, only its own keys move to other servers.

use crate::key::Digest;

/// The FNV-1a hash of a server's address. Every process, machine and build computes the same hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RendezvousSeed(u64);

impl RendezvousSeed {
    pub(super) fn of(address: &str) -> RendezvousSeed {
        RendezvousSeed(address.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        }))
    }

    /// Returns the server's score for a key: the seed XOR the start of the key's digest, mixed by
    /// the finalizer of SplitMix64.
    pub(super) fn score(self, digest: Digest) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&digest.as_bytes()[..8]);
        let mut x = self.0 ^ u64::from_be_bytes(word);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_never_change() {
        let digest = Digest::of(b"key");
        let scores = ["10.0.0.1:11211", "cache-a:11211"]
            .map(|address| RendezvousSeed::of(address).score(digest));
        assert_eq!(scores, [16926019881397665348, 1166268213767805196]);
    }
}
