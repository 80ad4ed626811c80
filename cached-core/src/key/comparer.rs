//! A comparison with a key that is there, made without the bytes of the other.

use serde::ser::Serialize;

use super::bytes::{EntryOffsets, KeyBytes};
use super::serializer::{END, KeySerializer, KeySink, UnorderedEntries};
use super::{DynKeyPart, SerializeFailure};

/// What is left of a key's bytes after all that was written so far, or [`ANOTHER`] once something
/// else was written. That is no error: a `Serialize` need not expect one.
#[derive(Clone, Copy)]
pub struct KeyComparer<'k>(&'k [u8]);

/// What nothing that is written goes on with: no tag is this byte.
const ANOTHER: &[u8] = &[0xff];

impl<'k> KeyComparer<'k> {
    #[inline]
    pub(crate) fn new(bytes: &'k [u8]) -> KeyComparer<'k> {
        KeyComparer(bytes)
    }

    /// Whether all of it was written.
    #[inline]
    pub(crate) fn is_match(self) -> bool {
        self.0.is_empty()
    }

    /// Of bytes that were written elsewhere before.
    fn bytes(self, bytes: &[u8]) -> KeyComparer<'k> {
        KeyComparer(self.0.strip_prefix(bytes).unwrap_or(ANOTHER))
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

impl<'k> KeySink for KeyComparer<'k> {
    type Error = SerializeFailure;
    type Entries = ComparedEntries<'k>;

    #[inline(always)]
    fn brackets<const N: usize>(self, bytes: [u8; N]) -> Result<KeyComparer<'k>, SerializeFailure> {
        Ok(KeyComparer(self.head(bytes).unwrap_or(ANOTHER)))
    }

    #[inline(always)]
    fn piece<const N: usize>(
        self,
        head: [u8; N],
        bytes: &[u8],
    ) -> Result<KeyComparer<'k>, SerializeFailure> {
        let rest = self.head(head).and_then(|rest| KeyComparer::tail(rest, bytes));
        Ok(KeyComparer(rest.unwrap_or(ANOTHER)))
    }

    #[inline(always)]
    fn part(self, part: DynKeyPart<'_>) -> Result<KeyComparer<'k>, SerializeFailure> {
        part.compare(self)
    }

    fn entries(self) -> ComparedEntries<'k> {
        ComparedEntries { key: self, bytes: KeyBytes::default(), starts: EntryOffsets::default() }
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

/// UnorderedEntries under way. They are sorted before they are compared, so their bytes are needed.
pub struct ComparedEntries<'k> {
    key: KeyComparer<'k>,
    bytes: KeyBytes,
    starts: EntryOffsets,
}

impl<'k> UnorderedEntries<KeyComparer<'k>> for ComparedEntries<'k> {
    fn begin(&mut self) {
        self.starts.begin(&self.bytes);
    }

    fn add<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), SerializeFailure> {
        part.serialize(KeySerializer(&mut self.bytes)).map(drop).map_err(|_| SerializeFailure)
    }

    fn end(mut self) -> Result<KeyComparer<'k>, SerializeFailure> {
        self.starts.sort(&mut self.bytes);
        self.key.bytes(&self.bytes).brackets([END])
    }
}
