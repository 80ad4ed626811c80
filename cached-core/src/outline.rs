//! The outline of a stored value: every request that the type's `Deserialize` made of its
//! deserializer while the value was read, each with the location in the type where it was made.
//!
//! Builds of one program share memcached, and one build's type need not be another's. The codec is
//! positional: it would hand a text to a type that expects another text, and a type may panic at
//! that. So the build that stores a value reads it back once and records the outline. Another
//! process compares each request of its own type with that outline *before* any data is handed on.
//! It therefore sees only data of the kind, at the location and under the names that it was written
//! with, and no data is ever made up.
//!
//! Serde names the type of each member, and the outline has that name. It does not name the type
//! inside a newtype struct or under `#[serde(with)]`: there only the kinds are compared.
//!
//! Both sides are the requests of a `Deserialize`, never what a `Serialize` wrote: in one build they
//! are the same code, so a type whose two impls differ is no special case.
//!
//! A location is a type. A type that contains itself comes back to a location that it had before, so an
//! outline is as large as the types, not as the value.

mod checked;

use std::any::type_name;
use std::collections::{BTreeSet, HashMap};

use serde::de::DeserializeOwned;

use crate::codec;
use crate::stable_hash::StableHash;
use checked::RootSeed;

/// The bytes that each request of an outline takes in a frame.
pub(crate) const ENTRY_BYTES: usize = 4;
/// How deep a value may be nested: a guided read takes four times the stack of a plain one. This
/// many levels take 140 KB of it, and 600 KB without optimization.
const DEPTH_LIMIT: usize = 512;

/// An outline in a frame: entries of four bytes in ascending order, and a hash of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outline<'f> {
    pub(crate) hash: u64,
    pub(crate) entries: &'f [u8],
}

impl<'f> Outline<'f> {
    pub(crate) fn new(entries: &'f [u8]) -> Outline<'f> {
        Outline { hash: StableHash::new(0).bytes(entries).finish(), entries }
    }

    fn contains(&self, entry: [u8; ENTRY_BYTES]) -> bool {
        self.entries.as_chunks().0.binary_search(&entry).is_ok()
    }
}

/// Decodes a value, and returns it with the entries of its outline. The bytes must be what this
/// process has encoded from a value of this type.
pub(crate) fn decode_recording<V: DeserializeOwned>(payload: &[u8]) -> Option<(V, Vec<u8>)> {
    let mut checker = RequestChecker::new(CheckMode::Record(BTreeSet::new()));
    let value = codec::decode_seed(payload, RootSeed::new(&mut checker))?;
    match checker.mode {
        CheckMode::Record(entries) if !checker.refused => {
            Some((value, entries.into_iter().flatten().collect()))
        }
        _ => None,
    }
}

/// Decodes a value if each request of its type is in the outline.
pub(crate) fn decode_matching<V: DeserializeOwned>(
    outline: Outline<'_>,
    payload: &[u8],
) -> Option<V> {
    let mut checker = RequestChecker::new(CheckMode::Match(outline));
    let value = codec::decode_seed(payload, RootSeed::new(&mut checker))?;
    // A type may go on after an error of its deserializer.
    (!checker.refused).then_some(value)
}

enum CheckMode<'o> {
    /// Every request is granted, and noted.
    Record(BTreeSet<[u8; ENTRY_BYTES]>),
    /// Only requests in the outline are granted.
    Match(Outline<'o>),
}

/// Decides on the requests of one read.
struct RequestChecker<'o> {
    mode: CheckMode<'o>,
    /// The location of each type that was met, by its name as the compiler writes it.
    locations: HashMap<&'static str, Location>,
    /// How many types were met that have the same short name.
    namesakes: HashMap<u64, u64>,
    /// The requests that were granted and the types that were met last: elements of one type make the
    /// same few again and again.
    last_granted: [u64; 4],
    last_locations: [(&'static str, Location); 4],
    depth: usize,
    refused: bool,
}

/// Where in a type a request is made: a hash of a type's name, or of the way there.
#[derive(Clone, Copy)]
struct Location(u64);

impl Location {
    /// Outside the whole value.
    const ROOT: Location = Location(0);

    /// Where a request leads to.
    fn after(request: StableHash) -> Location {
        Location(request.finish())
    }

    /// The location of what a `Some` or a newtype holds: serde does not tell its type.
    fn contents(self) -> Location {
        Location(StableHash::new(self.0).finish())
    }
}

/// One number for each kind of request; stored outlines depend on them.
#[derive(Clone, Copy)]
enum TypeRequest {
    Bool = 1,
    Char,
    I8,
    I16,
    I32,
    I64,
    I128,
    U8,
    U16,
    U32,
    U64,
    U128,
    F32,
    F64,
    Str,
    Bytes,
    Option,
    Unit,
    UnitStruct,
    Newtype,
    Seq,
    Tuple,
    TupleStruct,
    Map,
    Struct,
    Enum,
    Any,
    /// One member: a field, an element, a key or a value.
    Member,
    /// The variant that an enum's value has.
    Variant,
}

impl TypeRequest {
    fn at(self, location: Location) -> StableHash {
        StableHash::new(self as u64).hash(location.0)
    }
}

impl<'o> RequestChecker<'o> {
    fn new(mode: CheckMode<'o>) -> RequestChecker<'o> {
        RequestChecker {
            mode,
            locations: HashMap::new(),
            namesakes: HashMap::new(),
            last_granted: [0; 4],
            last_locations: [("", Location::ROOT); 4],
            depth: 0,
            refused: false,
        }
    }

    /// Grants a request, or returns false. After one refusal nothing is granted.
    fn grants(&mut self, request: StableHash) -> bool {
        let request = request.finish();
        if self.refused {
            return false;
        }
        if self.last_granted.contains(&request) {
            return true;
        }
        // The lower half is enough: a build whose other type passes by chance is told by the shape.
        let entry = (request as u32).to_be_bytes();
        match &mut self.mode {
            CheckMode::Record(entries) => {
                entries.insert(entry);
            }
            CheckMode::Match(outline) => self.refused = !outline.contains(entry),
        }
        self.last_granted.rotate_right(1);
        self.last_granted[0] = request;
        !self.refused
    }

    /// Returns the location of a type. Types of one short name are told apart by the order in which they are
    /// met, since a build may have them in other modules or in a crate of another name.
    fn location_of<T: ?Sized>(&mut self) -> Location {
        let name = type_name::<T>();
        let last = self.last_locations.iter().find(|(last, _)| std::ptr::eq(*last, name));
        if let Some((_, location)) = last {
            return *location;
        }
        let location = self.find_location(name);
        self.last_locations.rotate_right(1);
        self.last_locations[0] = (name, location);
        location
    }

    fn find_location(&mut self, name: &'static str) -> Location {
        if let Some(location) = self.locations.get(name) {
            return *location;
        }
        let short = StableHash::new(0).text(&short_name(name));
        let namesakes = self.namesakes.entry(short.finish()).or_default();
        let location = Location(short.word(*namesakes).finish());
        *namesakes += 1;
        self.locations.insert(name, location);
        location
    }

    /// Runs a nested read, unless it is nested too deeply.
    fn nest<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.depth == DEPTH_LIMIT {
            self.refused = true;
            return None;
        }
        self.depth += 1;
        let done = run(self);
        self.depth -= 1;
        Some(done)
    }
}

/// A type's name without paths: `Vec<Order>` for `alloc::vec::Vec<shop::Order>`.
fn short_name(name: &str) -> String {
    let mut short = String::with_capacity(name.len());
    let mut segment = 0;
    let mut rest = name;
    while let Some(character) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("::") {
            short.truncate(segment);
            rest = after;
            continue;
        }
        short.push(character);
        if !(character.is_alphanumeric() || character == '_') {
            segment = short.len();
        }
        rest = &rest[character.len_utf8()..];
    }
    short
}

#[cfg(test)]
mod tests;
