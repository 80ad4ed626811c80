//! What a call asks for: the arguments that are its key, as they are.

use std::any::type_name;

use serde::ser;

use super::types::Types;
use crate::cache::Cache;
use crate::declaration::Declaration;
use crate::key::{
    Bytes, END, Hasher, Head, KeyError, Matching, NONE, Parts, SEQ, SOME, Sink, Sought,
};
use crate::stats::Counters;

/// Which entry is asked for.
pub struct Asked<P, C> {
    pub(super) declaration: &'static Declaration,
    /// The identifier and the version.
    parts: P,
    types: Types<C>,
}

/// A declaration, as it is met in a function's body.
#[derive(Clone, Copy)]
pub struct Met {
    declaration: &'static Declaration,
    site: &'static str,
}

impl Met {
    /// Takes a closure of that body: its type's name shows the arguments of the impl, which the
    /// attribute does not see.
    #[inline]
    pub fn new<Closure>(declaration: &'static Declaration, _: &Closure) -> Met {
        Met { declaration, site: type_name::<Closure>() }
    }
}

impl<P> Asked<P, ()> {
    #[inline]
    pub(super) fn new(met: Met, parts: P) -> Asked<P, ()> {
        Asked { declaration: met.declaration, parts, types: Types::new(met.site) }
    }
}

impl<P, C> Asked<P, C> {
    pub(super) fn of(self, types: &'static str) -> Asked<P, C> {
        Asked { types: self.types.of(types), ..self }
    }

    pub(super) fn constants<D>(self, constants: D) -> Asked<P, D> {
        let Asked { declaration, parts, types } = self;
        Asked { declaration, parts, types: types.constants(constants) }
    }
}

impl<I: Parts, V: Parts, C: Parts> Asked<(I, V), C> {
    /// The identifier and the version, as they follow the name in the canonical bytes.
    #[inline(always)]
    fn write<S: Sink>(&self, sink: S) -> Result<S, S::Error> {
        let (identifier, version) = &self.parts;
        let sink = identifier.write(sink.brackets([SEQ])?)?;
        let sink = sink.brackets([END, if V::ANY { SOME } else { NONE }])?;
        version.write(sink)
    }

    /// The same, and what tells type arguments apart.
    #[inline(always)]
    fn write_all<S: Sink>(&self, sink: S) -> Result<S, S::Error> {
        self.types.write(self.declaration, self.write(sink)?)
    }

    /// The head of the key; its hash leaves the type arguments out. None where the arguments cannot
    /// be written, and where the function shares its name, and is not cached.
    #[inline(always)]
    pub(super) fn hashed(&self) -> Option<Hashed<'_, Self>> {
        let index = self.declaration.index()?;
        let hasher = self.write(Hasher::new(index as u32)).ok()?;
        Some(Hashed { index, head: hasher.head(index as u32), asked: self })
    }

    /// The key, after its head. Without one it is nobody's, and for functions that are not cached.
    pub(super) fn encoded(&self, head: Option<Head>) -> Result<Bytes, KeyError> {
        let mut bytes = Bytes::of(head.unwrap_or_default());
        // What could not be hashed is not encoded either, and this says why.
        self.write_all(&mut bytes)?;
        if head.is_none() && self.declaration.index().is_some() {
            return Err(ser::Error::custom(
                "its `Serialize` fails at times, and at times does not",
            ));
        }
        Ok(bytes)
    }
}

/// The same, to be looked for without its bytes.
pub(super) struct Hashed<'a, A> {
    index: usize,
    head: Head,
    asked: &'a A,
}

impl<A> Hashed<'_, A> {
    #[inline(always)]
    pub(super) fn counters<'c>(&self, cache: &'c Cache) -> &'c Counters {
        cache.counters_at(self.index)
    }
}

impl<I: Parts, V: Parts, C: Parts> Sought for Hashed<'_, Asked<(I, V), C>> {
    #[inline(always)]
    fn head(&self) -> Head {
        self.head
    }

    #[inline(always)]
    fn is(&self, body: &[u8]) -> bool {
        self.asked.write_all(Matching::new(body)).is_ok_and(Matching::is_done)
    }
}

#[cfg(test)]
mod tests;
