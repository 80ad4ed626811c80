//! The parts that a key consists of. A *sink* is the destination to which the parts are written: a
//! buffer, a hasher, or a comparer with a stored key.

use super::KeyPart;
use super::serializer::KeySink;

/// One part of a key, as a trait object.
pub(crate) type DynKeyPart<'p> = &'p (dyn KeyPart + 'p);

/// The parts of a key: `()`, one part, or a pair of `KeyParts`.
///
/// Nested pairs form a list whose length the compiler knows. The compiled code that hashes or
/// compares a key therefore needs no loop over its parts.
pub trait KeyParts: Copy {
    /// False for `()`, which has no parts.
    const HAS_PARTS: bool = true;

    /// Writes the parts in order to `sink`, and returns the sink. A sink hashes the parts, for
    /// example, or compares them with another key.
    ///
    /// # Errors
    /// Returns the error of the sink, or of a part's `Serialize`.
    fn write<S: KeySink>(&self, sink: S) -> Result<S, S::Error>;
}

impl KeyParts for () {
    const HAS_PARTS: bool = false;

    #[inline(always)]
    fn write<S: KeySink>(&self, sink: S) -> Result<S, S::Error> {
        Ok(sink)
    }
}

impl KeyParts for DynKeyPart<'_> {
    #[inline(always)]
    fn write<S: KeySink>(&self, sink: S) -> Result<S, S::Error> {
        sink.part(*self)
    }
}

impl<First: KeyParts, Rest: KeyParts> KeyParts for (First, Rest) {
    #[inline(always)]
    fn write<S: KeySink>(&self, sink: S) -> Result<S, S::Error> {
        self.1.write(self.0.write(sink)?)
    }
}
