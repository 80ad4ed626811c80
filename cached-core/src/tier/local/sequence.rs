//! Numbers that order fetches, which are runs of the annotated function, by when they began. Values
//! that are obtained without a fetch have numbers between those of the fetches. Each *stripe*, a
//! group of keys that share a lock, has its own numbers.

use std::sync::atomic::{AtomicU32, Ordering};

/// Numbers the fetches of one stripe's keys in the order in which the fetches begin.
#[derive(Default)]
pub(super) struct SequenceCounter(AtomicU32);

/// The position of a value in the order in which fetches begin.
///
/// Each fetch gets an even number that no other fetch has. A value that is read from memcached or
/// passed in by the program gets an odd number: the number of the last fetch, plus one. Several
/// values may share an odd number.
#[derive(Clone, Copy)]
pub(super) struct FetchSequenceNumber(u32);

impl SequenceCounter {
    /// Returns the number for a value that is now read from memcached or passed in by the program.
    pub(super) fn current(&self) -> FetchSequenceNumber {
        FetchSequenceNumber(self.0.load(Ordering::Relaxed) | 1)
    }

    /// Returns the number for a fetch that begins now.
    pub(super) fn next_fetch(&self) -> FetchSequenceNumber {
        FetchSequenceNumber(self.0.fetch_add(2, Ordering::Relaxed).wrapping_add(2))
    }
}

impl FetchSequenceNumber {
    /// Returns true if this number is later than `other`. The numbers wrap around, so the result is
    /// right only if the two numbers are less than 2³¹ apart.
    pub(super) fn is_after(self, other: FetchSequenceNumber) -> bool {
        self.0.wrapping_sub(other.0).cast_signed() > 0
    }

    /// Returns true if this is the number of a fetch.
    pub(super) fn is_fetch(self) -> bool {
        self.0.is_multiple_of(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_order_when_they_wrap_around() {
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
