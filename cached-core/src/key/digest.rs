//! The digest, and the key as memcached sees it.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

/// SHA-256 of a key's canonical bytes: how a key is written wherever it leaves the process.
///
/// `Display` is 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    pub(crate) fn of(key: &[u8]) -> Digest {
        Digest(Sha256::digest(key).into())
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
            // Without a table, so that it is done to many at once.
            let digit = |half: u8| half + if half < 10 { b'0' } else { b'a' - 10 };
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
    namespace: Option<Arc<str>>,
    name: &'static str,
    digest: Digest,
}

impl Key {
    pub(crate) fn new(namespace: Option<Arc<str>>, name: &'static str, bytes: &[u8]) -> Key {
        Key { namespace, name, digest: Digest::of(bytes) }
    }

    /// The cache name of the declaration.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The digest of the canonical bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What `Display` writes. Every remote hit needs it, and a formatter takes ten times as long.
    pub(crate) fn text(&self) -> Arc<str> {
        let mut text = SmallVec::<[u8; 256]>::new();
        if let Some(namespace) = &self.namespace {
            text.extend_from_slice(namespace.as_bytes());
            text.push(b':');
        }
        text.extend_from_slice(self.name.as_bytes());
        text.push(b':');
        text.extend_from_slice(&self.digest.digits());
        std::str::from_utf8(&text).unwrap_or_default().into()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}
