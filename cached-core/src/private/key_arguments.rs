//! The arguments that make up the key of a call, before they are encoded.
//!
//! The canonical bytes of a key are its encoding for use outside of the process; see
//! [`key`](crate::key).

use std::any::type_name;

use serde::ser;

use super::generic_arguments::GenericArguments;
use crate::declaration::Declaration;
use crate::key::{
    END, KeyBytes, KeyComparer, KeyError, KeyHasher, KeyHeader, KeyParts, KeyQuery, KeySink, NONE,
    SEQ, SOME,
};

/// An annotated function: its declaration, and the name of a closure in the function. The name
/// shows the type arguments of the `impl` block around the function.
#[derive(Clone, Copy)]
pub struct DeclaredFunction {
    declaration: &'static Declaration,
    /// The type name of a closure. The closure is in the body of the annotated function, or in the
    /// function that the option `entry = NAME` generates.
    closure: &'static str,
}

impl DeclaredFunction {
    /// Describes a function by its declaration and a closure in the function's body. The closure's
    /// type name shows the type arguments of the surrounding `impl` block, which the attribute
    /// cannot see.
    #[inline]
    pub fn new<Closure>(declaration: &'static Declaration, _: &Closure) -> DeclaredFunction {
        DeclaredFunction { declaration, closure: type_name::<Closure>() }
    }
}

/// All arguments that identify the cache entry of one call.
#[derive(Clone, Copy)]
pub(super) struct KeyArguments<Parts, Constants> {
    pub(super) declaration: &'static Declaration,
    /// A pair of the identifier and the version.
    parts: Parts,
    generics: GenericArguments<Constants>,
}

impl<Parts, Constants> KeyArguments<Parts, Constants> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn new(
        function: DeclaredFunction,
        parts: Parts,
        own_types: &'static str,
        constants: Constants,
    ) -> KeyArguments<Parts, Constants> {
        let generics = GenericArguments { closure: function.closure, own_types, constants };
        KeyArguments { declaration: function.declaration, parts, generics }
    }
}

impl<Identifier: KeyParts, Version: KeyParts, Constants: KeyParts>
    KeyArguments<(Identifier, Version), Constants>
{
    /// Writes the identifier and the version.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn write_parts<S: KeySink>(&self, sink: S) -> Result<S, S::Error> {
        let (identifier, version) = &self.parts;
        let sink = identifier.write(sink.unhashed([SEQ])?)?;
        let sink = sink.unhashed([END, if Version::HAS_PARTS { SOME } else { NONE }])?;
        version.write(sink)
    }

    /// Writes everything that follows the cache name in the canonical bytes.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn write<S: KeySink>(&self, sink: S) -> Result<S, S::Error> {
        self.generics.write(self.declaration, self.write_parts(sink)?)
    }

    /// Returns the header of the key. The header contains a hash of the identifier and the version,
    /// but not of the generic arguments. The key is not encoded.
    ///
    /// Returns `None` if an argument cannot be serialized, or if the declaration has no index. A
    /// function without an index is not cached, for example because another function has the same
    /// cache name.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn header(&self) -> Option<KeyHeader> {
        let index = self.declaration.index()? as u32;
        let hasher = self.write_parts(KeyHasher::new(index)).ok()?;
        Some(hasher.header(index))
    }

    /// Adds the header to the arguments. `header` must be the result of the method
    /// [`header`](Self::header).
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn with_header(self, header: KeyHeader) -> UnencodedKey<Self> {
        UnencodedKey { header, arguments: self }
    }

    /// Writes the header and the encoded key into `bytes`.
    ///
    /// If the declaration has no index, `header` is `None`. The bytes then begin with a default
    /// header that identifies no declaration, and the canonical bytes are still correct.
    ///
    /// # Errors
    /// Returns the reason if an argument cannot be serialized.
    pub(super) fn encode(
        &self,
        header: Option<KeyHeader>,
        bytes: &mut KeyBytes,
    ) -> Result<(), KeyError> {
        bytes.write_header(header.unwrap_or_default());
        self.write(&mut *bytes)?;
        if let Some(collection) = bytes.unordered() {
            self.declaration.note_unordered_key(collection);
        }
        if header.is_none() && self.declaration.index().is_some() {
            return Err(ser::Error::custom(
                "the `Serialize` implementation of an argument fails for some calls only",
            ));
        }
        Ok(())
    }
}

/// The arguments of a key, together with the key's header. The comparison with the key of a cached
/// entry needs no encoded copy of the arguments.
pub(super) struct UnencodedKey<A> {
    header: KeyHeader,
    arguments: A,
}

impl<Identifier: KeyParts, Version: KeyParts, Constants: KeyParts> KeyQuery
    for UnencodedKey<KeyArguments<(Identifier, Version), Constants>>
{
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn header(&self) -> KeyHeader {
        self.header
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn matches(&self, body: &[u8]) -> bool {
        self.arguments.write(KeyComparer::new(body)).is_ok_and(KeyComparer::is_match)
    }
}

#[cfg(test)]
mod tests;
