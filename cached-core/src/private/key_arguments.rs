//! The arguments of a call that make up its key, before they are encoded.

use std::any::type_name;

use serde::ser;

use super::generic_arguments::GenericArguments;
use crate::declaration::Declaration;
use crate::key::{
    END, KeyBytes, KeyComparer, KeyError, KeyHasher, KeyHeader, KeyParts, KeyQuery, KeySink, NONE,
    SEQ, SOME,
};

/// A function body that names a declaration.
#[derive(Clone, Copy)]
pub struct DeclaredFunction {
    declaration: &'static Declaration,
    /// The type name of a closure in that body.
    closure: &'static str,
}

impl DeclaredFunction {
    /// Takes a closure of the function's body, because its type name shows the type arguments of the
    /// `impl` block around the function. The attribute does not see that block.
    #[inline]
    pub fn new<Closure>(declaration: &'static Declaration, _: &Closure) -> DeclaredFunction {
        DeclaredFunction { declaration, closure: type_name::<Closure>() }
    }
}

/// The arguments that identify the entry of one call.
#[derive(Clone, Copy)]
pub(super) struct KeyArguments<Parts, Constants> {
    pub(super) declaration: &'static Declaration,
    /// The identifier and the version.
    parts: Parts,
    types: GenericArguments<Constants>,
}

impl<Parts, Constants> KeyArguments<Parts, Constants> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn new(
        function: DeclaredFunction,
        parts: Parts,
        own_types: &'static str,
        constants: Constants,
    ) -> KeyArguments<Parts, Constants> {
        let types = GenericArguments { closure: function.closure, own: own_types, constants };
        KeyArguments { declaration: function.declaration, parts, types }
    }
}

impl<Identifier: KeyParts, Version: KeyParts, Constants: KeyParts>
    KeyArguments<(Identifier, Version), Constants>
{
    /// Writes the identifier and the version, in the order of the canonical bytes.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn write_parts<S: KeySink>(&self, sink: S) -> Result<S, S::Error> {
        let (identifier, version) = &self.parts;
        let sink = identifier.write(sink.unhashed([SEQ])?)?;
        let sink = sink.unhashed([END, if Version::HAS_PARTS { SOME } else { NONE }])?;
        version.write(sink)
    }

    /// Writes everything that follows the name in the canonical bytes.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn write<S: KeySink>(&self, sink: S) -> Result<S, S::Error> {
        self.types.write(self.declaration, self.write_parts(sink)?)
    }

    /// Hashes the key without encoding it. The hash leaves the type arguments out.
    ///
    /// Returns `None` if an argument cannot be serialized, or if another function has the same name,
    /// which turns caching off for both.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn header(&self) -> Option<KeyHeader> {
        let index = self.declaration.index()? as u32;
        let hasher = self.write_parts(KeyHasher::new(index)).ok()?;
        Some(hasher.header(index))
    }

    /// Returns a query for the entry of this key. `header` must be the result of
    /// [`header`](Self::header).
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn with_header(self, header: KeyHeader) -> UnencodedKey<Self> {
        UnencodedKey { header, arguments: self }
    }

    /// Encodes the key into `bytes`, after its header.
    ///
    /// A key without a header belongs to no declaration: only its canonical bytes are of use.
    pub(super) fn encode(
        &self,
        header: Option<KeyHeader>,
        bytes: &mut KeyBytes,
    ) -> Result<(), KeyError> {
        bytes.write_header(header.unwrap_or_default());
        // Fails with the reason if the arguments could not be hashed either.
        self.write(&mut *bytes)?;
        if header.is_none() && self.declaration.index().is_some() {
            return Err(ser::Error::custom(
                "its `Serialize` implementation fails for some calls only",
            ));
        }
        Ok(())
    }
}

/// A key with its hash, compared with an entry's key without being encoded.
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
