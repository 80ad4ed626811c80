//! The key: name, identifier and version as canonical bytes, and their digest for memcached.
//!
//! Within the process the name is left to the declaration's index: a key is a head, which is a hash
//! of the rest and that index, and then what follows the name in the canonical bytes. What leaves
//! the process is made of the [`canonical`] bytes.
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

mod buffer;
#[cfg(feature = "memcached")]
mod digest;
mod encoder;

use std::fmt;

use serde::ser::{self, Serialize};

#[cfg(not(feature = "memcached"))]
pub(crate) use crate::embedded::Key;
#[cfg(feature = "memcached")]
pub use digest::{Digest, Key};
pub(crate) use encoder::Encoder;
pub(crate) use encoder::length_of;

/// First byte of every key. A change of the encoding changes it, so old entries are misses.
const FORMAT: u8 = 1;
/// The bytes of a key's head within the process.
const HEAD: usize = 8;

/// The hash of a key of this process. Of no secret and no great quality: for tables where a collision
/// costs a look elsewhere.
#[inline]
pub(crate) fn hash_of(key: &[u8]) -> u32 {
    key.first_chunk().map_or(0, |hash| u32::from_ne_bytes(*hash))
}

/// The canonical bytes of a key of the declaration called `name`.
pub(crate) fn canonical(name: &str, key: &[u8]) -> Vec<u8> {
    let rest = key.get(HEAD..).unwrap_or_default();
    let mut bytes = Vec::with_capacity(3 + name.len() + rest.len());
    // A name has 48 bytes at most, so that its length is one.
    bytes.extend_from_slice(&[FORMAT, encoder::STR, name.len() as u8]);
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(rest);
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
    fn encode(&self, encoder: &mut Encoder) -> Result<(), KeyError>;
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + ?Sized> KeyPart for T {
    fn encode(&self, encoder: &mut Encoder) -> Result<(), KeyError> {
        self.serialize(encoder)
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
