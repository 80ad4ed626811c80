//! A comparison with a key that is there, made without the bytes of the other.

use serde::ser::Serialize;

use super::bytes::{Bytes, Starts};
use super::writer::{END, Entries, Sink, Writer};
use super::{Failed, Part};

/// What is left of a key's bytes after all that was written so far, or [`ANOTHER`] once something
/// else was written. That is no error: a `Serialize` need not expect one.
#[derive(Clone, Copy)]
pub struct Matching<'k>(&'k [u8]);

/// What nothing that is written goes on with: no tag is this byte.
const ANOTHER: &[u8] = &[0xff];

impl<'k> Matching<'k> {
    #[inline]
    pub(crate) fn new(bytes: &'k [u8]) -> Matching<'k> {
        Matching(bytes)
    }

    /// Whether all of it was written.
    #[inline]
    pub(crate) fn is_done(self) -> bool {
        self.0.is_empty()
    }

    /// Of bytes that were written elsewhere before.
    fn bytes(self, bytes: &[u8]) -> Matching<'k> {
        Matching(self.0.strip_prefix(bytes).unwrap_or(ANOTHER))
    }

    #[inline(always)]
    fn head<const N: usize>(self, head: [u8; N]) -> Option<&'k [u8]> {
        let (found, rest) = self.0.split_first_chunk()?;
        (*found == head).then_some(rest)
    }

    #[inline(always)]
    fn tail(rest: &'k [u8], bytes: &[u8]) -> Option<&'k [u8]> {
        let (found, rest) = rest.split_at_checked(bytes.len())?;
        are_same(found, bytes).then_some(rest)
    }
}

impl<'k> Sink for Matching<'k> {
    type Error = Failed;
    type Entries = Compared<'k>;

    #[inline(always)]
    fn brackets<const N: usize>(self, bytes: [u8; N]) -> Result<Matching<'k>, Failed> {
        Ok(Matching(self.head(bytes).unwrap_or(ANOTHER)))
    }

    #[inline(always)]
    fn piece<const N: usize>(self, head: [u8; N], bytes: &[u8]) -> Result<Matching<'k>, Failed> {
        let rest = self.head(head).and_then(|rest| Matching::tail(rest, bytes));
        Ok(Matching(rest.unwrap_or(ANOTHER)))
    }

    #[inline(always)]
    fn part(self, part: Part<'_>) -> Result<Matching<'k>, Failed> {
        part.compare(self)
    }

    fn entries(self) -> Compared<'k> {
        Compared { key: self, bytes: Bytes::default(), starts: Starts::default() }
    }
}

/// Whether two pieces of the same length are the same; for few bytes without a call.
#[inline(always)]
fn are_same(found: &[u8], bytes: &[u8]) -> bool {
    match bytes.len() {
        0 => true,
        length @ 1..=3 => [0, length / 2, length - 1].into_iter().all(|at| found[at] == bytes[at]),
        4..=7 => ends::<4>(found) == ends(bytes),
        8..=15 => ends::<8>(found) == ends(bytes),
        16..=32 => ends::<16>(found) == ends(bytes),
        _ => found == bytes,
    }
}

/// Not the hasher's, which needs the bytes themselves: so a hit compares them where they are.
#[inline(always)]
fn ends<const N: usize>(bytes: &[u8]) -> [Option<&[u8; N]>; 2] {
    [bytes.first_chunk(), bytes.last_chunk()]
}

/// Entries under way. They are sorted before they are compared, so their bytes are needed.
pub struct Compared<'k> {
    key: Matching<'k>,
    bytes: Bytes,
    starts: Starts,
}

impl<'k> Entries<Matching<'k>> for Compared<'k> {
    fn begin(&mut self) {
        self.starts.begin(&self.bytes);
    }

    fn add<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), Failed> {
        part.serialize(Writer(&mut self.bytes)).map(drop).map_err(|_| Failed)
    }

    fn end(mut self) -> Result<Matching<'k>, Failed> {
        self.starts.sort(&mut self.bytes);
        self.key.bytes(&self.bytes).brackets([END])
    }
}
