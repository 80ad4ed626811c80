//! The canonical bytes of a key, or of a part of one.

use std::ops::Deref;

use serde::ser::Serialize;
use smallvec::SmallVec;

use super::writer::{END, Entries, Sink, Writer};
use super::{Head, KeyError, Part};

/// Bytes that are only added to; ordinary keys stay on the stack.
#[derive(Default)]
pub struct Bytes(SmallVec<[u8; 192]>);

impl Bytes {
    /// A key of this process, up to its head.
    pub(crate) fn of(head: Head) -> Bytes {
        Bytes(SmallVec::from_slice(&head.to_bytes()))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<'b> Sink for &'b mut Bytes {
    type Error = KeyError;
    type Entries = Added<'b>;

    fn brackets<const N: usize>(self, bytes: [u8; N]) -> Result<Self, KeyError> {
        self.0.extend_from_slice(&bytes);
        Ok(self)
    }

    fn piece<const N: usize>(self, head: [u8; N], bytes: &[u8]) -> Result<Self, KeyError> {
        self.0.extend_from_slice(&head);
        self.0.extend_from_slice(bytes);
        Ok(self)
    }

    fn part(self, part: Part<'_>) -> Result<Self, KeyError> {
        part.encode(self)
    }

    fn entries(self) -> Added<'b> {
        Added { starts: Starts::default(), bytes: self }
    }
}

/// Entries that are added to bytes.
pub struct Added<'b> {
    bytes: &'b mut Bytes,
    starts: Starts,
}

impl<'b> Entries<&'b mut Bytes> for Added<'b> {
    fn begin(&mut self) {
        self.starts.begin(self.bytes);
    }

    fn add<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), KeyError> {
        part.serialize(Writer(&mut *self.bytes)).map(drop)
    }

    fn end(self) -> Result<&'b mut Bytes, KeyError> {
        self.starts.sort(self.bytes);
        self.bytes.brackets([END])
    }
}

/// Where each of some entries starts.
#[derive(Default)]
pub(super) struct Starts(SmallVec<[usize; 16]>);

impl Starts {
    pub(super) fn begin(&mut self, bytes: &Bytes) {
        self.0.push(bytes.len());
    }

    /// Sorts the entries by their bytes, if they are not.
    pub(super) fn sort(&self, Bytes(bytes): &mut Bytes) {
        let Starts(starts) = self;
        let end = bytes.len();
        let entry = |index: usize| starts[index]..starts.get(index + 1).copied().unwrap_or(end);
        let is_sorted =
            (1..starts.len()).all(|index| bytes[entry(index - 1)] <= bytes[entry(index)]);
        if is_sorted {
            return;
        }
        let mut order: SmallVec<[usize; 16]> = (0..starts.len()).collect();
        order.sort_by(|&a, &b| bytes[entry(a)].cmp(&bytes[entry(b)]));
        let unsorted: SmallVec<[u8; 192]> = SmallVec::from_slice(bytes);
        bytes.truncate(starts[0]);
        for index in order {
            bytes.extend_from_slice(&unsorted[entry(index)]);
        }
    }
}
