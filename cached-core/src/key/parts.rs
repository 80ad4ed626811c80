//! The parts that a key is made of.

use super::KeyPart;
use super::serializer::KeySink;

/// One part of a key.
pub(crate) type DynKeyPart<'p> = &'p (dyn KeyPart + 'p);

/// KeyParts of a key: none, one, or a pair of such. A type and not a list: the compiler sees through it,
/// and makes of hashing and comparing a key code without a loop and without a call for each part.
pub trait KeyParts: Copy {
    /// Whether there is any.
    const ANY: bool = true;

    /// Writes them one after the other.
    ///
    /// # Errors
    /// The sink's, which may be that of a part's own `Serialize`.
    fn write<S: KeySink>(&self, sink: S) -> Result<S, S::Error>;
}

impl KeyParts for () {
    const ANY: bool = false;

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
