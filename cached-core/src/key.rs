//! The key: name, identifier and version as canonical bytes, and their digest for memcached.
//!
//! Within the process the name is left to the declaration's index: a key is a head, which is a hash
//! of the rest and that index, and then what follows the name in the canonical bytes. What leaves
//! the process is made of the [`canonical_bytes`] bytes.
//!
//! The encoding is a prefix code: every value starts with a tag that fixes its form, and every
//! open form ends with [`END`], which starts no value. So no two different keys can give the same
//! bytes, whatever characters they hold. It is pinned by golden vectors; the rules that a reader
//! cannot guess:
//!
//! - Integers encode by value: `1u8` and `1i64` are the same key, `1` and `"1"` are not.
//! - Floats encode as `f64` bits. `-0.0` and `0.0` differ; every NaN is one key.
//! - Newtype structs are transparent; type names are left out; fields and variants are written by
//!   name, and fields and map entries are sorted, so that reordering a declaration changes no key.
//! - `is_human_readable` is false.
//! - A `HashSet` has no stable order and would miss at random: use a `BTreeSet`.

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
pub(crate) use crate::embedded::Key;
pub(crate) use bytes::KeyBytes;
pub(crate) use comparer::KeyComparer;
#[cfg(feature = "memcached")]
pub use digest::{Digest, Key};
pub(crate) use hasher::KeyHasher;
pub(crate) use parts::DynKeyPart;
pub use parts::KeyParts;
pub(crate) use serializer::{END, KeySerializer, KeySink, NONE, SEQ, SOME};

/// First byte of every key. A change of the encoding changes it, so old entries are misses.
const FORMAT: u8 = 1;
/// The bytes of a key's head within the process.
const HEAD: usize = 8;

/// The head of a key of this process: a hash of what follows it, and its declaration's index.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct KeyHeader(u64);

impl KeyHeader {
    #[inline]
    fn new(hash: u32, index: u32) -> KeyHeader {
        KeyHeader(u64::from(index) << 32 | u64::from(hash))
    }

    #[inline]
    pub(crate) fn read(key: &[u8]) -> KeyHeader {
        KeyHeader(key.first_chunk().map_or(0, |head| u64::from_ne_bytes(*head)))
    }

    #[inline]
    fn to_bytes(self) -> [u8; HEAD] {
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

    /// In all bits of a word: tables look at the highest as well as at the lowest.
    pub(crate) fn spread(self) -> u64 {
        spread(self.0)
    }
}

fn spread(word: u64) -> u64 {
    // 2^64 through the golden ratio, and the halves changed over.
    word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

/// For tables of keys: takes the hash that every key has in its head, in which its declaration is too.
#[derive(Clone, Copy, Default)]
pub(crate) struct PrecomputedHash;

impl BuildHasher for PrecomputedHash {
    type Hasher = PrecomputedHasher;

    fn build_hasher(&self) -> PrecomputedHasher {
        PrecomputedHasher::default()
    }
}

#[derive(Default)]
pub(crate) struct PrecomputedHasher(u32);

impl hash::Hasher for PrecomputedHasher {
    /// The hash of a head.
    #[inline]
    fn write_u32(&mut self, hash: u32) {
        self.0 = hash;
    }

    /// A key, as one piece.
    fn write(&mut self, key: &[u8]) {
        self.0 = KeyHeader::read(key).hash();
    }

    /// Its length.
    fn write_usize(&mut self, _: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        spread(self.0.into())
    }
}

/// A key that is looked for.
pub(crate) trait KeyQuery {
    fn header(&self) -> KeyHeader;

    /// Whether a key with this head is the one, by what follows the head.
    fn matches(&self, body: &[u8]) -> bool;
}

/// What follows the head of a key.
#[inline]
pub(crate) fn key_body(key: &[u8]) -> &[u8] {
    key.get(HEAD..).unwrap_or_default()
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

/// The canonical bytes of a key of the declaration called `name`.
pub(crate) fn canonical_bytes(name: &str, key: &[u8]) -> KeyBytes {
    let mut bytes = KeyBytes::default();
    // A name has 48 bytes at most, so that its length is one.
    bytes.add(&[FORMAT, serializer::STR, name.len() as u8]);
    bytes.add(name.as_bytes());
    bytes.add(key_body(key));
    bytes
}

/// What can be part of a key: everything that is [`Serialize`].
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

/// Why an argument could not be encoded: its own `Serialize` failed.
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

/// A key could not be hashed or is another than it was compared with. Whoever needs to know why
/// writes it as bytes.
#[derive(Debug)]
pub struct SerializeFailure;

impl fmt::Display for SerializeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such key")
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
