//! The key: name, identifier and version as canonical bytes, and their digest.
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
mod encoder;

use std::fmt;

use serde::ser::{self, Serialize};
use sha2::{Digest as _, Sha256};

use crate::fingerprint::Fingerprint;

pub(crate) use encoder::Encoder;
pub(crate) use encoder::length_of;

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
pub struct KeyError(String);

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the key could not be encoded: {}", self.0)
    }
}

impl std::error::Error for KeyError {}

impl ser::Error for KeyError {
    fn custom<T: fmt::Display>(message: T) -> KeyError {
        KeyError(message.to_string())
    }
}

/// SHA-256 of a key's canonical bytes and the fingerprint of its value's type: how a key is written
/// wherever it leaves the process. Two builds whose types differ have different digests.
///
/// `Display` is 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of bytes as they are.
    #[cfg(test)]
    pub(crate) fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// The fingerprint has always the same length, so no two pairs give the same bytes.
    pub(crate) fn new(key: &[u8], fingerprint: Fingerprint) -> Digest {
        Digest(Sha256::new().chain_update(key).chain_update(fingerprint).finalize().into())
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// In lower-case hexadecimal. `{byte:02x}` takes longer than all the rest of a remote key.
    fn digits(&self) -> [u8; 64] {
        let mut digits = [0; 64];
        for (byte, pair) in self.0.iter().zip(digits.as_chunks_mut::<2>().0) {
            let digit = |half: u8| b"0123456789abcdef"[usize::from(half)];
            *pair = [digit(byte >> 4), digit(byte & 0xf)];
        }
        digits
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.digits()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A key as it stands in memcached, without anything of its identifier.
///
/// `Display` is `namespace:name:digest`, or `name:digest` without a namespace; at most 250 bytes,
/// of letters, digits, `.`, `_`, `-` and `:`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    namespace: Option<std::sync::Arc<str>>,
    name: &'static str,
    digest: Digest,
}

impl Key {
    pub(crate) fn new(
        namespace: Option<std::sync::Arc<str>>,
        name: &'static str,
        bytes: &[u8],
        fingerprint: Fingerprint,
    ) -> Key {
        Key { namespace, name, digest: Digest::new(bytes, fingerprint) }
    }

    /// The cache name of the declaration.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The digest of the canonical bytes and the value's type.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What `Display` writes. Every remote hit needs it, and a formatter takes ten times as long.
    pub(crate) fn text(&self) -> std::sync::Arc<str> {
        let digits = self.digest.digits();
        let digits = std::str::from_utf8(&digits).unwrap_or_default();
        match &self.namespace {
            Some(namespace) => [namespace, ":", self.name, ":", digits].concat().into(),
            None => [self.name, ":", digits].concat().into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}
