//! The digest of a key, and the key under which memcached stores an entry.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

/// The SHA-256 digest of a key's canonical bytes. These bytes encode the arguments in the same way
/// in every process, so the digest identifies the key outside of this process too.
///
/// `Display` writes 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    pub(crate) fn of(key: &[u8]) -> Digest {
        Digest(Sha256::digest(key).into())
    }

    /// Reads a digest from 64 hexadecimal digits.
    #[cfg(feature = "console")]
    pub(crate) fn from_hex(text: &str) -> Option<Digest> {
        let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
            let [high, low] = pair.map(|digit| (digit as char).to_digit(16));
            *byte = (high? << 4 | low?) as u8;
        }
        Some(Digest(bytes))
    }

    /// Returns the 32 bytes of the digest.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the digest in lower-case hexadecimal. The digits are computed here, because
    /// formatting each byte with `{byte:02x}` is much slower.
    fn digits(&self) -> [u8; 64] {
        let mut digits = [0; 64];
        for (byte, pair) in self.0.iter().zip(digits.as_chunks_mut::<2>().0) {
            // Arithmetic instead of a table lets the compiler vectorize the loop.
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

/// The key under which memcached stores an entry. It contains a digest of the arguments instead of
/// the arguments themselves.
///
/// `Display` writes `namespace:name:digest`, or `name:digest` without a namespace. The text has at
/// most 250 bytes, which are letters, digits, `.`, `_`, `-` and `:`.
///
/// ```
/// # use cached_core::coordinator_cached;
/// #[coordinator_cached(name = "remote_key_doc", version = edition, entry = course_entry)]
/// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
///     Ok(format!("course {id}, edition {edition}"))
/// }
///
/// let key = course_entry(1, 2).key();
/// assert_eq!(key.name(), "remote_key_doc");
/// assert_eq!(key.to_string(), format!("remote_key_doc:{}", key.digest()));
/// ```
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

    /// Returns the key of an entry whose canonical bytes have this digest.
    #[cfg(feature = "console")]
    pub(crate) fn from_digest(
        namespace: Option<Arc<str>>,
        name: &'static str,
        digest: Digest,
    ) -> Key {
        Key { namespace, name, digest }
    }

    /// Returns the cache name of the function.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the digest of the key's canonical bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the text that `Display` writes. Every remote read builds this text. With `write!`
    /// this would take ten times as long.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_key_shows_no_identifier() {
        let key = Key::new(Some("shop".into()), "payment", b"identifier-4711");
        let text = format!("{key:?}");
        assert!(
            text.contains("payment") && text.contains(&key.digest().to_string()),
            "the text names the entry: {text}"
        );
        assert!(!text.contains("4711"), "the text hides the identifier: {text}");
    }

    #[cfg(feature = "console")]
    #[test]
    fn a_digest_is_parsed_from_its_text() {
        let digest = Digest::of(b"a key");
        let text = digest.to_string();
        assert_eq!(Digest::from_hex(&text), Some(digest));
        assert_eq!(Digest::from_hex(&text.to_uppercase()), Some(digest));
        for wrong in ["", &text[1..], &format!("{text}0"), &text.replace(&text[..1], "g")] {
            assert_eq!(Digest::from_hex(wrong), None, "{wrong}");
        }
    }
}
