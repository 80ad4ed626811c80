//! The order in which fetches began, and in which values were read or given between them.

use std::sync::atomic::{AtomicU32, Ordering};

/// Numbers the fetches of some keys in the order in which they begin.
#[derive(Default)]
pub(super) struct SequenceCounter(AtomicU32);

/// The position of a value in that order.
///
/// Each fetch has an even number of its own. All values that are read or given after the last fetch
/// began share the odd number that follows it.
#[derive(Clone, Copy)]
pub(super) struct SequenceNumber(u32);

impl SequenceCounter {
    /// Returns the position of a value that is read or given now.
    pub(super) fn current(&self) -> SequenceNumber {
        SequenceNumber(self.0.load(Ordering::Relaxed) | 1)
    }

    /// Returns the position of a fetch that begins now.
    pub(super) fn next_fetch(&self) -> SequenceNumber {
        SequenceNumber(self.0.fetch_add(2, Ordering::Relaxed).wrapping_add(2))
    }
}

impl SequenceNumber {
    /// Returns true if this position is later. The numbers wrap around, so the two positions must be
    /// less than half of their range apart.
    pub(super) fn is_after(self, other: SequenceNumber) -> bool {
        self.0.wrapping_sub(other.0).cast_signed() > 0
    }

    pub(super) fn is_fetch(self) -> bool {
        self.0.is_multiple_of(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_keep_their_order_when_the_numbers_wrap() {
        let counter = SequenceCounter(AtomicU32::new(u32::MAX - 5));
        for _ in 0..5 {
            let (fetch, read, again) = (counter.next_fetch(), counter.current(), counter.current());
            assert!(fetch.is_fetch() && !read.is_fetch());
            assert!(read.is_after(fetch) && !fetch.is_after(read));
            assert!(!read.is_after(again) && !again.is_after(read));
            let next = counter.next_fetch();
            assert!(next.is_after(fetch) && next.is_after(read) && !fetch.is_after(next));
        }
    }
}
