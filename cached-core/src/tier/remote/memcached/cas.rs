//! The number that a server gives an item with each change, and the server that counted it.
//!
//! memcached counts from the start again when it is started anew, and then gives numbers that it gave
//! before. So a CAS belongs to one [`Incarnation`] of its server, and a command under it is not sent to
//! another: to that one it would be a number of somebody else's item.

/// Tells one start of a server from another.
///
/// It is made of the server's process id and of the second in which it was started. A server that tells
/// neither has [`Incarnation::UNKNOWN`], and its restarts go unnoticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Incarnation(u64);

impl Incarnation {
    pub(super) const UNKNOWN: Incarnation = Incarnation(0);

    /// The incarnation of a process that was started in this second, as its own clock counts.
    pub(super) fn new(process: u64, started: u64) -> Incarnation {
        // No system gives a process a number of more bits.
        Incarnation(started << 24 | process & 0x00ff_ffff)
    }
}

/// The state of one item: no other state of it, on this server or on another, is equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Cas {
    pub(super) number: u64,
    pub(super) of: Incarnation,
}

impl Cas {
    /// Returns true if a server of this incarnation has given the number.
    pub(super) fn is_of(self, incarnation: Incarnation) -> bool {
        self.of == incarnation
    }
}

/// A number of a server that does not tell its starts apart.
#[cfg(test)]
impl From<u64> for Cas {
    fn from(number: u64) -> Cas {
        Cas { number, of: Incarnation::UNKNOWN }
    }
}
