//! The parts that a key consists of.

use super::KeyPart;
use super::serializer::KeySink;

/// One part of a key, as a trait object.
pub(crate) type DynKeyPart<'p> = &'p (dyn KeyPart + 'p);

/// The parts of a key: `()`, one part, or a pair of `KeyParts`.
///
/// Nested pairs form a list whose length the compiler knows. A key is therefore hashed and compared
/// without a loop.
pub trait KeyParts: Copy {
    /// True if there is at least one part.
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
