//! CAS (compare and swap) numbers. A server gives an item a new number each time the item changes.
//!
//! After a restart, memcached counts from the beginning and repeats earlier numbers. A [`Cas`]
//! therefore also records the [`Incarnation`] (one run of the server's process) that gave the
//! number. A command that requires a CAS is not sent to another incarnation, where another item may
//! have the same number.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

/// One run of a server process, identified by the process id and the second in which the process
/// started.
///
/// A server that does not report both is identified by its address. Its restarts then remain
/// unnoticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Incarnation(u64);

impl Incarnation {
    pub(super) const UNKNOWN: Incarnation = Incarnation(0);

    /// `started` is in seconds, by the server's clock.
    pub(super) fn new(process: u64, started: u64) -> Incarnation {
        // Process ids of the supported systems fit into 24 bits.
        Incarnation(started << 24 | process & 0x00ff_ffff)
    }

    /// Returns the incarnation of a server that does not report its process.
    pub(super) fn of_address(address: SocketAddr) -> Incarnation {
        let mut hasher = DefaultHasher::new();
        address.hash(&mut hasher);
        Incarnation(hasher.finish())
    }

    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// The version of an item. Each change of an item gets a number that its server's incarnation has
/// not used before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Cas {
    pub(super) number: u64,
    pub(super) incarnation: Incarnation,
}

impl Cas {
    /// Returns true if `incarnation` gave the number.
    pub(super) fn is_of(self, incarnation: Incarnation) -> bool {
        self.incarnation == incarnation
    }
}

/// Creates a CAS whose incarnation is unknown.
#[cfg(test)]
impl From<u64> for Cas {
    fn from(number: u64) -> Cas {
        Cas { number, incarnation: Incarnation::UNKNOWN }
    }
}
