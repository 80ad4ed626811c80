//! Compares a key with a stored key while serde visits the parts of the key. The parts are compared
//! in place; only the fields of structs and the entries of maps are first written to a buffer.

use serde::ser::Serialize;

use super::bytes::{FieldOffsets, KeyBytes};
use super::serializer::{END, FieldSink, KeySerializer, KeySink};
use super::{DynKeyPart, SerializeFailure};

/// A receiver of the parts of a key. It compares them with the bytes of a stored key.
///
/// It contains the stored bytes that are not compared yet, or [`MISMATCH`] after the first
/// difference. A difference is not reported as an error, because a type's `Serialize` might panic
/// if the serializer returns an error.
#[derive(Clone, Copy)]
pub struct KeyComparer<'k>(&'k [u8]);

/// The remaining bytes after a difference was found. Nothing that is compared later matches this
/// single byte: no tag is `0xff`, and a length that begins with `0xff` is longer than one byte.
const MISMATCH: &[u8] = &[0xff];

impl<'k> KeyComparer<'k> {
    #[inline]
    pub(crate) fn new(bytes: &'k [u8]) -> KeyComparer<'k> {
        KeyComparer(bytes)
    }

    /// Returns true if the key equals the stored key. The caller must have serialized the whole key
    /// into the comparer.
    #[inline]
    pub(crate) fn is_match(self) -> bool {
        self.0.is_empty()
    }

    /// Compares a piece of the encoding that was written to a buffer first.
    fn compare_bytes(self, bytes: &[u8]) -> KeyComparer<'k> {
        KeyComparer(self.0.strip_prefix(bytes).unwrap_or(MISMATCH))
    }

    /// Returns the stored bytes after `prefix`, or `None` if the stored bytes begin differently.
    #[inline(always)]
    fn after_prefix<const N: usize>(self, prefix: [u8; N]) -> Option<&'k [u8]> {
        let (found, rest) = self.0.split_first_chunk()?;
        (*found == prefix).then_some(rest)
    }

    /// Returns the part of `rest` after `bytes`, or `None` if `rest` begins differently.
    #[inline(always)]
    fn after(rest: &'k [u8], bytes: &[u8]) -> Option<&'k [u8]> {
        let (found, rest) = rest.split_at_checked(bytes.len())?;
        are_equal(found, bytes).then_some(rest)
    }
}

impl<'k> KeySink for KeyComparer<'k> {
    type Error = SerializeFailure;
    type Fields = FieldComparer<'k>;

    #[inline(always)]
    fn unhashed<const N: usize>(self, bytes: [u8; N]) -> Result<KeyComparer<'k>, SerializeFailure> {
        Ok(KeyComparer(self.after_prefix(bytes).unwrap_or(MISMATCH)))
    }

    #[inline(always)]
    fn piece<const N: usize>(
        self,
        prefix: [u8; N],
        bytes: &[u8],
    ) -> Result<KeyComparer<'k>, SerializeFailure> {
        let rest = self.after_prefix(prefix).and_then(|rest| KeyComparer::after(rest, bytes));
        Ok(KeyComparer(rest.unwrap_or(MISMATCH)))
    }

    #[inline(always)]
    fn part(self, part: DynKeyPart<'_>) -> Result<KeyComparer<'k>, SerializeFailure> {
        part.compare(self)
    }

    fn fields(self) -> FieldComparer<'k> {
        FieldComparer { key: self, bytes: KeyBytes::default(), offsets: FieldOffsets::default() }
    }
}

/// Returns true if two slices of the same length are equal. Up to 32 bytes are compared without a
/// function call.
#[inline(always)]
fn are_equal(found: &[u8], bytes: &[u8]) -> bool {
    match bytes.len() {
        0 => true,
        length @ 1..=3 => [0, length / 2, length - 1].into_iter().all(|at| found[at] == bytes[at]),
        4..=7 => ends::<4>(found) == ends(bytes),
        8..=15 => ends::<8>(found) == ends(bytes),
        16..=32 => ends::<16>(found) == ends(bytes),
        _ => found == bytes,
    }
}

/// Returns the first `N` and the last `N` bytes by reference, so that they are compared in place.
#[inline(always)]
fn ends<const N: usize>(bytes: &[u8]) -> [Option<&[u8; N]>; 2] {
    [bytes.first_chunk(), bytes.last_chunk()]
}

/// Compares the fields of a struct, or the entries of a map, with those in the stored key. The
/// fields in a stored key are sorted. The fields of the call's key are therefore first written to a
/// buffer and sorted there.
pub struct FieldComparer<'k> {
    key: KeyComparer<'k>,
    bytes: KeyBytes,
    offsets: FieldOffsets,
}

impl<'k> FieldSink<KeyComparer<'k>> for FieldComparer<'k> {
    fn begin(&mut self) {
        self.offsets.push(&self.bytes);
    }

    fn add<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), SerializeFailure> {
        part.serialize(KeySerializer(&mut self.bytes)).map(drop).map_err(|_| SerializeFailure)
    }

    fn end(mut self) -> Result<KeyComparer<'k>, SerializeFailure> {
        self.offsets.sort_fields(&mut self.bytes);
        self.key.compare_bytes(&self.bytes).unhashed([END])
    }
}
