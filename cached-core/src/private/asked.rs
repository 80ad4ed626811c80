//! What a call asks for: the arguments that are its key, as they are.

use std::any::type_name;

use serde::ser;

use super::types::Types;
use crate::declaration::Declaration;
use crate::key::{
    END, KeyBytes, KeyComparer, KeyError, KeyHasher, KeyHeader, KeyParts, KeyQuery, KeySink, NONE,
    SEQ, SOME,
};

/// Which entry is asked for.
#[derive(Clone, Copy)]
pub(super) struct Asked<P, C> {
    pub(super) declaration: &'static Declaration,
    /// The identifier and the version.
    parts: P,
    types: Types<C>,
}

/// A declaration, as it is met in a function's body.
#[derive(Clone, Copy)]
pub struct CallSite {
    declaration: &'static Declaration,
    site: &'static str,
}

impl CallSite {
    /// Takes a closure of that body: its type's name shows the arguments of the impl, which the
    /// attribute does not see.
    #[inline]
    pub fn new<Closure>(declaration: &'static Declaration, _: &Closure) -> CallSite {
        CallSite { declaration, site: type_name::<Closure>() }
    }
}

impl<P, C> Asked<P, C> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn new(
        call_site: CallSite,
        parts: P,
        own: &'static str,
        constants: C,
    ) -> Asked<P, C> {
        let types = Types { site: call_site.site, own, constants };
        Asked { declaration: call_site.declaration, parts, types }
    }
}

impl<I: KeyParts, V: KeyParts, C: KeyParts> Asked<(I, V), C> {
    /// The identifier and the version, as they follow the name in the canonical bytes.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn write<S: KeySink>(&self, sink: S) -> Result<S, S::Error> {
        let (identifier, version) = &self.parts;
        let sink = identifier.write(sink.brackets([SEQ])?)?;
        let sink = sink.brackets([END, if V::ANY { SOME } else { NONE }])?;
        version.write(sink)
    }

    /// The same, and what tells type arguments apart.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn write_all<S: KeySink>(&self, sink: S) -> Result<S, S::Error> {
        self.types.write(self.declaration, self.write(sink)?)
    }

    /// To be looked for without its bytes; the hash leaves the type arguments out. None where the
    /// arguments cannot be written, and where the function shares its name, and is not cached.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn hashed(&self) -> Option<Hashed<'_, Self>> {
        let index = self.declaration.index()? as u32;
        let hasher = self.write(KeyHasher::new(index)).ok()?;
        Some(self.with(hasher.head(index)))
    }

    /// The same where the head is known.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn with(&self, head: KeyHeader) -> Hashed<'_, Self> {
        Hashed { head, asked: self }
    }

    /// Writes the key, after its head. Without one it is nobody's, and for functions that are not
    /// cached. Into bytes that are lent: they are many, and slow to move when they were only just
    /// written.
    pub(super) fn encode(
        &self,
        head: Option<KeyHeader>,
        bytes: &mut KeyBytes,
    ) -> Result<(), KeyError> {
        bytes.begin(head.unwrap_or_default());
        // What could not be hashed is not encoded either, and this says why.
        self.write_all(&mut *bytes)?;
        if head.is_none() && self.declaration.index().is_some() {
            return Err(ser::Error::custom(
                "its `Serialize` fails at times, and at times does not",
            ));
        }
        Ok(())
    }
}

/// A key that is looked for without its bytes.
pub(super) struct Hashed<'a, A> {
    head: KeyHeader,
    asked: &'a A,
}

impl<I: KeyParts, V: KeyParts, C: KeyParts> KeyQuery for Hashed<'_, Asked<(I, V), C>> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn header(&self) -> KeyHeader {
        self.head
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn matches(&self, body: &[u8]) -> bool {
        self.asked.write_all(KeyComparer::new(body)).is_ok_and(KeyComparer::is_match)
    }
}

#[cfg(test)]
mod tests;
