//! CAS numbers: a server gives an item a new number with each change.
//!
//! A restarted memcached counts from the start, and gives numbers that it gave before. So a CAS
//! belongs to one [`Incarnation`] of its server. A command under it is not sent to another
//! incarnation, where another item may have the same number.

/// One start of a server: its process id, and the second in which it started.
///
/// A server that tells neither has [`Incarnation::UNKNOWN`], and its restarts go unnoticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Incarnation(u64);

impl Incarnation {
    pub(super) const UNKNOWN: Incarnation = Incarnation(0);

    /// `started` is in seconds of the server's own clock.
    pub(super) fn new(process: u64, started: u64) -> Incarnation {
        // No system gives a process a larger number.
        Incarnation(started << 24 | process & 0x00ff_ffff)
    }
}

/// One state of one item. No other state has an equal CAS, on this server or on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Cas {
    pub(super) number: u64,
    pub(super) incarnation: Incarnation,
}

impl Cas {
    /// Returns true if this incarnation of a server gave the number.
    pub(super) fn is_of(self, incarnation: Incarnation) -> bool {
        self.incarnation == incarnation
    }
}

/// A CAS of a server whose incarnation is unknown.
#[cfg(test)]
impl From<u64> for Cas {
    fn from(number: u64) -> Cas {
        Cas { number, incarnation: Incarnation::UNKNOWN }
    }
}
