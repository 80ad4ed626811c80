//! The frame around a value's bytes in memcached.
//!
//! ```text
//! magic 2 | format 1 | shape 8 | payload … | checksum 8
//! ```
//!
//! The checksum covers the whole canonical key and all bytes before it, so an entry of another
//! key, a truncated one and a garbled one are told from an entry of this key before a byte of the
//! payload is decoded.

use sha2::{Digest as _, Sha256};

pub(crate) const MAGIC: [u8; 2] = *b"cc";
const FORMAT: u8 = 1;
const HEADER: usize = 11;
const CHECKSUM: usize = 8;

/// The stored bytes of a payload under a key.
pub(crate) fn seal(key: &[u8], shape: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + payload.len() + CHECKSUM);
    frame.extend_from_slice(&MAGIC);
    frame.push(FORMAT);
    frame.extend_from_slice(&shape.to_be_bytes());
    frame.extend_from_slice(payload);
    let sum = checksum(key, &frame);
    frame.extend_from_slice(&sum);
    frame
}

/// What stored bytes turn out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened<'f> {
    /// Whole, and of this key.
    Payload { shape: u64, payload: &'f [u8] },
    /// Whole as far as we can tell, of a format that another build writes: leave it to that build.
    Foreign,
    /// Of no use to anybody: garbled, truncated, or another key's.
    Corrupt,
}

pub(crate) fn open<'f>(key: &[u8], frame: &'f [u8]) -> Opened<'f> {
    if frame.len() < HEADER + CHECKSUM || frame[..2] != MAGIC {
        return Opened::Corrupt;
    }
    let (body, sum) = frame.split_at(frame.len() - CHECKSUM);
    if frame[2] != FORMAT {
        return Opened::Foreign;
    }
    if sum != checksum(key, body) {
        return Opened::Corrupt;
    }
    let mut shape = [0; 8];
    shape.copy_from_slice(&body[3..HEADER]);
    Opened::Payload { shape: u64::from_be_bytes(shape), payload: &body[HEADER..] }
}

fn checksum(key: &[u8], body: &[u8]) -> [u8; CHECKSUM] {
    let mut hash = Sha256::new();
    // The key's length keeps a byte from moving between key and body.
    hash.update((key.len() as u64).to_be_bytes());
    hash.update(key);
    hash.update(body);
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&hash.finalize()[..CHECKSUM]);
    sum
}

#[cfg(test)]
mod tests;
