//! The frame: the bytes that memcached stores for one value. A frame has these parts, among others:
//! - The *payload* is the value as the codec has encoded it. There are two codecs, the positional
//!   and the named one.
//! - The *shape* (see `shape`) is a hash of the value's structure.
//! - The *outline* (see `outline`) is a list of hashes that describes how the value's type is
//!   decoded.
//!
//! This is the layout, with the length of each part in bytes:
//!
//! ```text
//! magic 2 | format 1 | shape 8 | outline's hash 8 | number of entries 2 | outline's entries, 4 each | payload … | checksum 8
//! ```
//!
//! This is format 2. It is used with the positional codec, which writes no field names. Format 3 is
//! used with the named codec, which writes them. Format 3 also contains a fingerprint of the
//! program that wrote the frame: a hash of the executable file.
//!
//! ```text
//! magic 2 | format 1 | shape 8 | outline's hash 8 | number of entries 2 | program 8 | outline's entries, 4 each | payload … | checksum 8
//! ```
//!
//! All numbers are big-endian. The header ends where the outline's entries begin. The checksum
//! covers the header, the payload, and the bytes that identify the key outside of the process (the
//! *canonical key*). It does not cover the outline's entries, because the outline's hash in the
//! header covers them. Leaving them out saves time: SHA-256 already takes half the time of a remote
//! hit.
//!
//! The checksum is compared before the payload is decoded. It reveals a garbled frame, a truncated
//! frame, and a frame of another key.

use sha2::{Digest as _, Sha256};

use crate::codec::Codec;
use crate::encoded::EncodedView;
use crate::outline::{ENTRY_BYTES, Outline};

pub(crate) const MAGIC: [u8; 2] = *b"cc";
/// The format of a frame whose value the positional codec has encoded. Format 1 had no outline.
const FORMAT_POSITIONAL: u8 = 2;
/// The format of a frame whose value the named codec has encoded. Builds of the program that do not
/// know this format leave the frame alone.
const FORMAT_NAMED: u8 = 3;
// The offset of each part of the header.
const SHAPE: usize = 3;
const OUTLINE_HASH: usize = 11;
const OUTLINE_COUNT: usize = 19;
const PROGRAM: usize = 21;
/// The length of the longest header.
const LONGEST_HEADER: usize = 29;
/// The length of the checksum.
const CHECKSUM: usize = 8;
/// The length of the shortest frame that another build may have written: format 1 without a
/// payload.
const SHORTEST_FOREIGN: usize = 19;

/// Returns the frame of a value for a canonical key, or `None` if the value's outline is too long.
pub(crate) fn encode(key: &[u8], value: EncodedView<'_>) -> Option<Vec<u8>> {
    let EncodedView { codec, shape, outline, payload, program } = value;
    let count = u16::try_from(outline.entries.len() / ENTRY_BYTES).ok()?;
    let length = LONGEST_HEADER + outline.entries.len() + payload.len() + CHECKSUM;
    let mut frame = Vec::with_capacity(length);
    frame.extend_from_slice(&MAGIC);
    frame.push(match codec {
        Codec::Positional => FORMAT_POSITIONAL,
        Codec::Named => FORMAT_NAMED,
    });
    frame.extend_from_slice(&shape.to_be_bytes());
    frame.extend_from_slice(&outline.hash.to_be_bytes());
    frame.extend_from_slice(&count.to_be_bytes());
    if codec == Codec::Named {
        frame.extend_from_slice(&program.to_be_bytes());
    }
    let header = frame.len();
    frame.extend_from_slice(outline.entries);
    frame.extend_from_slice(payload);
    let sum = checksum(key, &frame[..header], payload);
    frame.extend_from_slice(&sum);
    Some(frame)
}

/// The result of [`open`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OpenedFrame<'f> {
    /// A complete frame of this key.
    Stored(EncodedView<'f>),
    /// A frame in another format. Another build wrote the frame and can read it, so this build must
    /// not remove the frame.
    Foreign,
    /// Bytes that no build can use: garbled, truncated, or a frame of another key.
    Corrupt,
}

/// Checks the bytes of an item in memcached. `key` is the canonical key under which the bytes were
/// read.
pub(crate) fn open<'f>(key: &[u8], frame: &'f [u8]) -> OpenedFrame<'f> {
    if frame.len() < SHORTEST_FOREIGN || frame[..2] != MAGIC {
        return OpenedFrame::Corrupt;
    }
    let codec = match frame[2] {
        FORMAT_POSITIONAL => Codec::Positional,
        FORMAT_NAMED => Codec::Named,
        _ => return OpenedFrame::Foreign,
    };
    parse(key, codec, frame).map_or(OpenedFrame::Corrupt, OpenedFrame::Stored)
}

fn parse<'f>(key: &[u8], codec: Codec, frame: &'f [u8]) -> Option<EncodedView<'f>> {
    let (body, sum) = frame.split_last_chunk::<CHECKSUM>()?;
    let (header, rest) = body.split_at_checked(match codec {
        Codec::Positional => PROGRAM,
        Codec::Named => LONGEST_HEADER,
    })?;
    let count = u16::from_be_bytes(*header[OUTLINE_COUNT..].first_chunk()?);
    let (entries, payload) = rest.split_at_checked(usize::from(count) * ENTRY_BYTES)?;
    let number = |at: usize| header[at..].first_chunk().copied().map(u64::from_be_bytes);
    let (shape, outline) = (number(SHAPE)?, Outline::new(entries));
    let program = if codec == Codec::Named { number(PROGRAM)? } else { 0 };
    let is_intact = outline.hash == number(OUTLINE_HASH)? && *sum == checksum(key, header, payload);
    is_intact.then_some(EncodedView { codec, shape, outline, payload, program })
}

fn checksum(key: &[u8], header: &[u8], payload: &[u8]) -> [u8; CHECKSUM] {
    let mut hash = Sha256::new();
    // Without the key's length, the checksum would not show where the key ends and the header
    // begins.
    hash.update((key.len() as u64).to_be_bytes());
    hash.update(key);
    hash.update(header);
    hash.update(payload);
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&hash.finalize()[..CHECKSUM]);
    sum
}

#[cfg(test)]
mod tests;
