//! Lease markers: the holder of a lease stores one in place of memcached's empty placeholder.
//!
//! memcached's own lease lasts as long as it was asked for, however long the fetch takes. So a lease
//! is won for a short time, and its holder replaces the placeholder by a marker again and again until
//! it has a value. A process that reads a marker learns that a living process fetches, how long it
//! has fetched, and how long it expects to take.
//!
//! ```text
//! magic 2 | format 1 | nonce 8 | elapsed 4 | expected 4
//! ```
//!
//! The magic is a frame's and the format is not. So a build that does not know markers takes one for
//! another build's value, and leaves it alone. It does so for 19 bytes or more.

use std::time::Duration;

use crate::frame::MAGIC;

const FORMAT: u8 = b'L';
const LENGTH: usize = 19;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeaseMarker {
    /// Differs between holders.
    pub(super) nonce: u64,
    /// How long the holder has fetched.
    pub(super) elapsed: Duration,
    /// How long the holder expects the whole fetch to take; zero if that is not known.
    pub(super) expected: Duration,
}

impl LeaseMarker {
    pub(super) fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2] = FORMAT;
        bytes[3..11].copy_from_slice(&self.nonce.to_be_bytes());
        bytes[11..15].copy_from_slice(&milliseconds(self.elapsed).to_be_bytes());
        bytes[15..].copy_from_slice(&milliseconds(self.expected).to_be_bytes());
        bytes
    }

    /// Returns `None` if the bytes of an item are not a marker.
    pub(super) fn decode(bytes: &[u8]) -> Option<LeaseMarker> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        if bytes[..2] != MAGIC || bytes[2] != FORMAT {
            return None;
        }
        let number = |at: usize| {
            let mut number = [0; 4];
            number.copy_from_slice(&bytes[at..at + 4]);
            Duration::from_millis(u32::from_be_bytes(number).into())
        };
        let mut nonce = [0; 8];
        nonce.copy_from_slice(&bytes[3..11]);
        let nonce = u64::from_be_bytes(nonce);
        Some(LeaseMarker { nonce, elapsed: number(11), expected: number(15) })
    }
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_marker_decodes_as_a_marker() {
        let expected = Duration::from_secs(2);
        let marker = LeaseMarker { nonce: 7, elapsed: Duration::from_millis(500), expected };
        let bytes = marker.encode();
        assert_eq!(LeaseMarker::decode(&bytes), Some(marker));
        assert_eq!(LeaseMarker::decode(&bytes[..18]), None);
        let mut frame_of_format_1 = bytes;
        frame_of_format_1[2] = 1;
        assert_eq!(LeaseMarker::decode(&frame_of_format_1), None);
        assert_eq!(crate::frame::open(b"key", &bytes), crate::frame::FrameContents::Foreign);
    }
}
