//! Cache keys, their encoding as bytes, and their digests for memcached.
//!
//! A key has two forms:
//!
//! - Inside the process, a key is a [`KeyHeader`] followed by the key's body. The header contains a
//!   hash and the index of the function's declaration. The body is the encoded identifier, version
//!   and type arguments.
//! - Outside of the process, a key is the digest of its [`canonical_bytes`]. In these bytes, a
//!   format number and the cache name replace the header.
//!
//! The encoding is a prefix code: no key's bytes are the beginning of another key's bytes. Every
//! value starts with a tag that says its form, and every sequence, map and struct ends with
//! [`END`], which is not a tag. Two different keys therefore never have the same bytes. Some rules
//! of the encoding are not obvious:
//!
//! - Integers are encoded by value: `1u8` and `1i64` are the same key; `1` and `"1"` are not.
//! - Floats are encoded as the bits of an `f64`. `-0.0` and `0.0` differ; all NaNs are one key.
//! - Newtype structs are transparent, and type names are left out.
//! - Fields and variants are written by name. Fields and map entries are sorted, so reordering
//!   the fields of a struct changes no key.
//! - Values are serialized as for a binary format: `is_human_readable` is false.
//! - A set is encoded in the order of its elements. A `HashSet` has a random order, so a key that
//!   contains a `HashSet` misses at random. A `BTreeSet` is suitable. The attribute rejects a
//!   parameter whose type is visibly a `HashSet`. The module `unordered` finds a `HashSet` inside
//!   another type.

mod bytes;
mod comparer;
#[cfg(feature = "memcached")]
mod digest;
mod hasher;
mod parts;
mod serializer;
mod unordered;

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

/// The format number, which is the first of the canonical bytes. A change of the encoding must also
/// change this number, so that old entries are not found.
const FORMAT: u8 = 1;
const HEADER_LENGTH: usize = 8;

/// The first bytes of a key inside the process: a hash of the key, and the index of the function's
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
    pub(crate) fn to_bytes(self) -> [u8; HEADER_LENGTH] {
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

    /// Returns a 64-bit hash of the header for hash tables. A table uses the hash's highest and
    /// lowest bits.
    pub(crate) fn spread(self) -> u64 {
        spread(self.0)
    }
}

fn spread(word: u64) -> u64 {
    // Fibonacci hashing: the multiplier is 2^64 divided by the golden ratio. Multiplication carries
    // low bits into high bits only, so the lowest bits of the product are the weakest. Swapping the
    // product's halves moves these weak bits to the middle.
    word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

/// The `BuildHasher` of a table of keys. It makes a [`PrecomputedHasher`] for each key.
#[derive(Clone, Copy, Default)]
pub(crate) struct PrecomputedBuildHasher;

impl BuildHasher for PrecomputedBuildHasher {
    type Hasher = PrecomputedHasher;

    fn build_hasher(&self) -> PrecomputedHasher {
        PrecomputedHasher::default()
    }
}

/// A hasher that takes the hash in a key's header and spreads it over 64 bits. The index is not
/// hashed again, because the header's hash already depends on it.
#[derive(Default)]
pub(crate) struct PrecomputedHasher(u32);

impl hash::Hasher for PrecomputedHasher {
    /// Sets the hash. The caller must have read it from a key's header.
    #[inline]
    fn write_u32(&mut self, hash: u32) {
        self.0 = hash;
    }

    /// Sets the hash to the hash in the header of this key.
    fn write(&mut self, key: &[u8]) {
        self.0 = KeyHeader::read(key).hash();
    }

    /// Ignores the length that the `Hash` of a slice writes before the bytes.
    fn write_usize(&mut self, _: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        spread(self.0.into())
    }
}

/// A key to look up in a table: the bytes of a key, or the arguments of a call.
pub(crate) trait KeyQuery {
    fn header(&self) -> KeyHeader;

    /// Returns true if `body` is the body of this key. The headers must be known to be equal.
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

/// Returns the canonical bytes of a key: a format number, the cache name and the key's body.
pub(crate) fn canonical_bytes(name: &str, key: &[u8]) -> KeyBytes {
    canonical_bytes_of_body(name, key_body(key))
}

/// Returns the canonical bytes of a key that is given without its header.
pub(crate) fn canonical_bytes_of_body(name: &str, body: &[u8]) -> KeyBytes {
    let mut bytes = KeyBytes::default();
    // A name has 48 bytes at most, so the LEB128 length of a name is one byte.
    bytes.add(&[FORMAT, serializer::STR, name.len() as u8]);
    bytes.add(name.as_bytes());
    bytes.add(body);
    bytes
}

/// A type whose values can be parts of a key: every type that implements [`Serialize`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of a cache key",
    label = "not `Serialize`",
    note = "name the part of it that changes the answer, for example `identifier = (client.base_url, number)`, or derive `serde::Serialize` for it; `skip(…)` claims that every `{Self}` gives the same answer"
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

/// The error of an argument that cannot be part of a key, because the argument's `Serialize`
/// failed.
///
/// `Display` writes the text of the argument's error on one line. The text might contain a part of
/// the argument. `Debug` does not show the text.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyError(Box<str>);

impl fmt::Debug for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyError").finish_non_exhaustive()
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the key could not be encoded: {}", self.0)
    }
}

impl std::error::Error for KeyError {}

impl ser::Error for KeyError {
    fn custom<T: fmt::Display>(message: T) -> KeyError {
        KeyError(message.to_string().replace(['\n', '\r'], " ").into())
    }
}

/// The error of an argument whose `Serialize` failed while a key was hashed or compared.
///
/// The error has no message, because building one would add instructions to every hit. After this
/// error, the call encodes the same key as bytes. That fails too, with a [`KeyError`] that has the
/// message.
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
