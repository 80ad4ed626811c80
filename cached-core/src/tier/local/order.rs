//! In which order the fetches of some keys began, and what was read or given between them.

use std::sync::atomic::{AtomicU32, Ordering};

/// The numbers of some keys' fetches, in the order in which they begin.
#[derive(Default)]
pub(super) struct Sequences(AtomicU32);

/// Where in that order a value was asked for: a fetch has an even number of its own, what is read
/// or given an odd one, that of all after the last fetch that had begun.
#[derive(Clone, Copy)]
pub(super) struct Sequence(u32);

impl Sequences {
    /// For what is no fetch.
    pub(super) fn now(&self) -> Sequence {
        Sequence(self.0.load(Ordering::Relaxed) | 1)
    }

    /// For a fetch that begins now.
    pub(super) fn next(&self) -> Sequence {
        Sequence(self.0.fetch_add(2, Ordering::Relaxed).wrapping_add(2))
    }
}

impl Sequence {
    /// The numbers begin anew where they end; two that are compared are near each other.
    pub(super) fn is_after(self, other: Sequence) -> bool {
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
    fn what_is_read_comes_after_the_fetches_before_it_also_where_the_numbers_begin_anew() {
        let sequences = Sequences(AtomicU32::new(u32::MAX - 5));
        for _ in 0..5 {
            let (fetch, read, again) = (sequences.next(), sequences.now(), sequences.now());
            assert!(fetch.is_fetch() && !read.is_fetch());
            assert!(read.is_after(fetch) && !fetch.is_after(read));
            assert!(!read.is_after(again) && !again.is_after(read));
            let next = sequences.next();
            assert!(next.is_after(fetch) && next.is_after(read) && !fetch.is_after(next));
        }
    }
}
