//! Lease markers, which show other processes that a fetch is under way.
//!
//! A *lease* is the right to fetch a missing value, and a *fetch* is a run of the annotated
//! function. When memcached grants a lease, it stores an empty placeholder under the key.
//!
//! memcached's placeholder lasts for a fixed time, however long the fetch takes. This time is
//! short. The holder of the lease therefore replaces the placeholder with a marker, and stores a
//! new marker every half second until the fetch ends. The marker tells other processes that the
//! holder is alive, how long the fetch has taken so far, and how long the whole fetch is expected
//! to take. A marker has five fields, here with their sizes in bytes:
//!
//! ```text
//! magic 2 | format 1 | nonce 8 | elapsed 4 | expected 4
//! ```
//!
//! A marker begins with the magic bytes of a *frame* (an encoded value), followed by a format byte
//! that no frame has. A build of the program that does not know markers therefore treats a marker
//! as a value of another build, and does not replace the marker. Such a build treats an item below
//! 19 bytes (the shortest frame) as corrupt, so the marker must not become shorter.

use std::time::Duration;

use crate::frame::MAGIC;

const FORMAT: u8 = b'L';
const LENGTH: usize = 19;

/// The decoded content of a marker: which lease it belongs to, and the progress of the fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeaseMarker {
    /// A random number that differs between leases.
    pub(super) nonce: u64,
    /// How long the fetch has taken so far.
    pub(super) elapsed: Duration,
    /// How long the whole fetch is expected to take; zero if unknown.
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

    /// Decodes the bytes of an item. Returns `None` if they are not a marker.
    pub(super) fn decode(bytes: &[u8]) -> Option<LeaseMarker> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        if bytes[..2] != MAGIC || bytes[2] != FORMAT {
            return None;
        }
        let millis = |at: usize| {
            let mut number = [0; 4];
            number.copy_from_slice(&bytes[at..at + 4]);
            Duration::from_millis(u32::from_be_bytes(number).into())
        };
        let mut nonce = [0; 8];
        nonce.copy_from_slice(&bytes[3..11]);
        let nonce = u64::from_be_bytes(nonce);
        Some(LeaseMarker { nonce, elapsed: millis(11), expected: millis(15) })
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
        assert_eq!(crate::frame::open(b"key", &bytes), crate::frame::OpenedFrame::Foreign);
    }
}
