//! [`EventSubject`], the entry that an event is about.

use std::fmt;

use crate::declaration::{DECLARATIONS, Declaration};
#[cfg(feature = "memcached")]
use crate::key::{Digest, canonical_bytes_of_body};
use crate::key::{KeyHeader, key_body};

/// The entry that an event is about. It names the function and gives a digest (a hash) of the key,
/// but not the key itself.
///
/// `Debug` writes `name:digest`, or the name alone without the feature `memcached`.
#[derive(Clone, Copy)]
pub struct EventSubject<'e> {
    pub(super) header: KeyHeader,
    #[cfg_attr(
        not(feature = "memcached"),
        expect(dead_code, reason = "only the digest is computed from the body")
    )]
    body: &'e [u8],
}

impl<'e> EventSubject<'e> {
    /// Returns the subject of an event about the entry that has this key.
    pub(crate) fn of(key: &'e [u8]) -> EventSubject<'e> {
        EventSubject::from_parts(KeyHeader::read(key), key_body(key))
    }

    /// Returns the subject of an event about an entry whose key is split into two parts. The header
    /// holds the key's hash and the index of the function's declaration. The body is the rest of
    /// the key.
    pub(crate) fn from_parts(header: KeyHeader, body: &'e [u8]) -> EventSubject<'e> {
        EventSubject { header, body }
    }

    /// Returns the declaration of the annotated function.
    #[must_use]
    pub fn declaration(&self) -> &'static Declaration {
        &DECLARATIONS[self.header.index()]
    }

    /// Returns the cache name of the annotated function.
    #[must_use]
    pub fn name(&self) -> &'static str {
        DECLARATIONS.get(self.header.index()).map_or("unknown", Declaration::name)
    }

    /// Computes the digest of the key. This takes about a microsecond.
    ///
    /// This digest is part of the entry's memcached key and of log lines about the entry.
    /// [`Key::digest`](crate::Key::digest) also returns it.
    ///
    /// This method needs the feature `memcached`, which is on by default.
    #[cfg(feature = "memcached")]
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&canonical_bytes_of_body(self.name(), self.body))
    }
}

impl fmt::Debug for EventSubject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        #[cfg(feature = "memcached")]
        write!(f, ":{}", self.digest())?;
        Ok(())
    }
}
