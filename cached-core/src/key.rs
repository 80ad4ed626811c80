//! Cache keys: name, identifier and version as canonical bytes, and their digest for memcached.
//!
//! A key has two forms:
//!
//! - Inside the process it is a [`KeyHeader`], which holds a hash and the declaration's index, and
//!   then the key's body: the encoded identifier, version and type arguments.
//! - Whatever leaves the process is derived from the [`canonical_bytes`], which have the cache name
//!   in place of the header.
//!
//! The encoding is a prefix code. Every value starts with a tag that says its form, and every
//! sequence, map and struct ends with [`END`], which is not a tag. Therefore two different keys
//! never have the same bytes, whatever characters they contain. Golden vectors pin the encoding.
//! These rules are not obvious:
//!
//! - Integers are encoded by value: `1u8` and `1i64` are the same key; `1` and `"1"` are not.
//! - Floats are encoded as the bits of an `f64`. `-0.0` and `0.0` differ; every NaN is one key.
//! - Newtype structs are transparent, and type names are left out.
//! - Fields and variants are written by name. Fields and map entries are sorted, so reordering a
//!   type's declaration changes no key.
//! - `is_human_readable` is false.
//! - A `HashSet` has no stable order, so a key with one would miss at random. Use a `BTreeSet`.

mod bytes;
mod comparer;
#[cfg(feature = "memcached")]
mod digest;
mod hasher;
mod parts;
mod serializer;

use std::fmt;
use std::hash::{self, BuildHasher};

use serde::ser::{self, Serialize};

#[cfg(not(feature = "memcached"))]
pub(crate) use crate::tier::remote::no_remote::Key;
pub(crate) use bytes::KeyBytes;
pub(crate) use comparer::KeyComparer;
#[cfg(feature = "memcached")]
pub use digest::{Digest, Key};
pub(crate) use hasher::KeyHasher;
pub(crate) use parts::DynKeyPart;
pub use parts::KeyParts;
pub(crate) use serializer::{END, KeySerializer, KeySink, NONE, SEQ, SOME};

/// The first of the canonical bytes. It must change with the encoding, so that old entries are
/// misses.
const FORMAT: u8 = 1;
const HEADER_LENGTH: usize = 8;

/// The first bytes of a key inside the process: a hash of the key's body, and the index of its
/// declaration.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct KeyHeader(u64);

impl KeyHeader {
    #[inline]
    fn new(hash: u32, index: u32) -> KeyHeader {
        KeyHeader(u64::from(index) << 32 | u64::from(hash))
    }

    #[inline]
    pub(crate) fn read(key: &[u8]) -> KeyHeader {
        KeyHeader(key.first_chunk().map_or(0, |header| u64::from_ne_bytes(*header)))
    }

    #[inline]
    fn to_bytes(self) -> [u8; HEADER_LENGTH] {
        self.0.to_ne_bytes()
    }

    #[inline]
    pub(crate) fn index(self) -> usize {
        (self.0 >> 32) as usize
    }

    #[inline]
    pub(crate) fn hash(self) -> u32 {
        self.0 as u32
    }

    /// Returns the header with every bit of the result depending on it. Tables use both the highest
    /// and the lowest bits.
    pub(crate) fn spread(self) -> u64 {
        spread(self.0)
    }
}

fn spread(word: u64) -> u64 {
    // Fibonacci hashing: the multiplier is 2^64 divided by the golden ratio. It mixes upwards only,
    // so the halves are swapped.
    word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

/// A hasher for tables of keys, which takes the hash from each key's header. That hash covers the
/// declaration too.
#[derive(Clone, Copy, Default)]
pub(crate) struct PrecomputedBuildHasher;

impl BuildHasher for PrecomputedBuildHasher {
    type Hasher = PrecomputedHasher;

    fn build_hasher(&self) -> PrecomputedHasher {
        PrecomputedHasher::default()
    }
}

#[derive(Default)]
pub(crate) struct PrecomputedHasher(u32);

impl hash::Hasher for PrecomputedHasher {
    /// Takes a hash that was read from a header.
    #[inline]
    fn write_u32(&mut self, hash: u32) {
        self.0 = hash;
    }

    /// Takes a whole key.
    fn write(&mut self, key: &[u8]) {
        self.0 = KeyHeader::read(key).hash();
    }

    /// Ignores the length that a slice writes before its bytes.
    fn write_usize(&mut self, _: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        spread(self.0.into())
    }
}

/// A key to look up in a table. It need not exist as bytes.
pub(crate) trait KeyQuery {
    fn header(&self) -> KeyHeader;

    /// Returns true if this is the body of the wanted key. The caller must have compared the
    /// headers.
    fn matches(&self, body: &[u8]) -> bool;
}

/// Returns a key without its header.
#[inline]
pub(crate) fn key_body(key: &[u8]) -> &[u8] {
    key.get(HEADER_LENGTH..).unwrap_or_default()
}

impl KeyQuery for &[u8] {
    #[inline]
    fn header(&self) -> KeyHeader {
        KeyHeader::read(self)
    }

    #[inline]
    fn matches(&self, other: &[u8]) -> bool {
        key_body(self) == other
    }
}

/// Returns the canonical bytes of a key: its header is replaced by the cache name.
pub(crate) fn canonical_bytes(name: &str, key: &[u8]) -> KeyBytes {
    canonical_bytes_of_body(name, key_body(key))
}

/// Returns the canonical bytes of a key that is given without its header.
pub(crate) fn canonical_bytes_of_body(name: &str, body: &[u8]) -> KeyBytes {
    let mut bytes = KeyBytes::default();
    // A name has 48 bytes at most, so its LEB128 length is one byte.
    bytes.add(&[FORMAT, serializer::STR, name.len() as u8]);
    bytes.add(name.as_bytes());
    bytes.add(body);
    bytes
}

/// A value that can be part of a key: every [`Serialize`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of a cache key",
    label = "not `Serialize`",
    note = "derive `serde::Serialize` for it, name the part that matters with `identifier = …`, or, where it does not change the answer, write `skip(…)`"
)]
pub trait KeyPart {
    #[doc(hidden)]
    fn hash(&self, hasher: KeyHasher) -> Result<KeyHasher, SerializeFailure>;

    #[doc(hidden)]
    fn compare<'k>(&self, key: KeyComparer<'k>) -> Result<KeyComparer<'k>, SerializeFailure>;

    #[doc(hidden)]
    fn encode<'b>(&self, bytes: &'b mut KeyBytes) -> Result<&'b mut KeyBytes, KeyError>;
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + ?Sized> KeyPart for T {
    #[inline]
    fn hash(&self, hasher: KeyHasher) -> Result<KeyHasher, SerializeFailure> {
        self.serialize(KeySerializer(hasher))
    }

    #[inline]
    fn compare<'k>(&self, key: KeyComparer<'k>) -> Result<KeyComparer<'k>, SerializeFailure> {
        self.serialize(KeySerializer(key))
    }

    fn encode<'b>(&self, bytes: &'b mut KeyBytes) -> Result<&'b mut KeyBytes, KeyError> {
        self.serialize(KeySerializer(bytes))
    }
}

/// An argument cannot be encoded as part of a key, because its own `Serialize` failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError(Box<str>);

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the key could not be encoded: {}", self.0)
    }
}

impl std::error::Error for KeyError {}

impl ser::Error for KeyError {
    fn custom<T: fmt::Display>(message: T) -> KeyError {
        KeyError(message.to_string().into())
    }
}

/// An argument's own `Serialize` failed while its key was hashed or compared.
///
/// It carries no message, so that the path of a hit stays short. Encoding the key as bytes fails
/// again, with a [`KeyError`] that has the message.
#[derive(Debug)]
pub struct SerializeFailure;

impl fmt::Display for SerializeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the key could not be encoded")
    }
}

impl std::error::Error for SerializeFailure {}

impl ser::Error for SerializeFailure {
    fn custom<T: fmt::Display>(_: T) -> SerializeFailure {
        SerializeFailure
    }
}

#[cfg(test)]
mod tests;
