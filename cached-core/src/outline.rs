//! The outline of a value: the requests that the type's `Deserialize` makes of its deserializer,
//! such as "a struct `Payment` with these fields" or "a string". Each request has a location in the
//! type.
//!
//! Several builds of a program share memcached, and a type may differ between them. The codec is
//! positional, so it would give any string to a type that expects a certain one, and the type may
//! panic at that. So the build that stores a value decodes it once and records the outline. Another
//! process compares each request of its own type with that outline *before* it hands data over. The
//! type gets only data of the kind, at the location and under the names that the writer used.
//!
//! serde names the type of each member, and the outline includes that name. serde does not name the
//! type inside a newtype struct or under `#[serde(with)]`; there only the kinds are compared.
//!
//! An outline compares requests with requests, never with what `Serialize` wrote. Within one build
//! the requests are the same code, so a type whose `Serialize` and `Deserialize` differ needs no
//! special case.
//!
//! A location is a type. A type that contains itself returns to a location it has visited, so the
//! size of an outline depends on the types, not on the value.

mod checked;

use std::any::type_name;
use std::collections::{BTreeSet, HashMap};

use serde::de::DeserializeOwned;

use crate::codec;
use crate::stable_hash::StableHasher;
use checked::CheckedSeed;

/// The bytes that one request takes in an outline.
pub(crate) const ENTRY_BYTES: usize = 4;
/// How deep a value may be nested. A checked read takes four times the stack of a plain one: this
/// many levels take 140 KB, and 600 KB without optimization.
const MAX_DEPTH: usize = 512;

/// An outline in a frame: hashes of requests in ascending order, and a hash of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outline<'f> {
    pub(crate) hash: u64,
    pub(crate) entries: &'f [u8],
}

impl<'f> Outline<'f> {
    pub(crate) fn new(entries: &'f [u8]) -> Outline<'f> {
        Outline { hash: StableHasher::new(0).bytes(entries).finish(), entries }
    }

    fn contains(&self, entry: [u8; ENTRY_BYTES]) -> bool {
        self.entries.as_chunks().0.binary_search(&entry).is_ok()
    }
}

/// Decodes a value, and returns it with the entries of its outline. This process must have encoded
/// the bytes from a value of this type.
pub(crate) fn decode_recording<V: DeserializeOwned>(payload: &[u8]) -> Option<(V, Vec<u8>)> {
    let mut checker = StepChecker::new(CheckMode::Record(BTreeSet::new()));
    let value = codec::decode_seed(payload, CheckedSeed::root(&mut checker))?;
    match checker.mode {
        CheckMode::Record(entries) if !checker.is_refused => {
            Some((value, entries.into_iter().flatten().collect()))
        }
        _ => None,
    }
}

/// Decodes a value. Returns `None` if its type makes a request that is not in the outline.
pub(crate) fn decode_matching<V: DeserializeOwned>(
    outline: Outline<'_>,
    payload: &[u8],
) -> Option<V> {
    let mut checker = StepChecker::new(CheckMode::Match(outline));
    let value = codec::decode_seed(payload, CheckedSeed::root(&mut checker))?;
    // A type may ignore an error of its deserializer and return a value all the same.
    (!checker.is_refused).then_some(value)
}

/// What a [`StepChecker`] does with a request.
enum CheckMode<'o> {
    /// Allow every request, and record it.
    Record(BTreeSet<[u8; ENTRY_BYTES]>),
    /// Allow only requests that are in the outline.
    Match(Outline<'o>),
}

/// Checks or records the requests of one read.
struct StepChecker<'o> {
    mode: CheckMode<'o>,
    /// The location of each type seen so far, by its full name.
    locations: HashMap<&'static str, TypeLocation>,
    /// How many types seen so far have the same short name.
    same_names: HashMap<u64, u64>,
    /// The last requests and types, a small cache: the elements of a sequence make the same few
    /// requests again and again.
    last_allowed: [u64; 4],
    last_locations: [(&'static str, TypeLocation); 4],
    depth: usize,
    is_refused: bool,
}

/// The location in a type at which a request is made: a hash of the type's name, or of the request
/// that led there.
#[derive(Clone, Copy)]
struct TypeLocation(u64);

impl TypeLocation {
    /// The location of the value as a whole.
    const ROOT: TypeLocation = TypeLocation(0);

    /// Returns the location that a request leads to.
    fn after(step: StableHasher) -> TypeLocation {
        TypeLocation(step.finish())
    }

    /// Returns the location inside a `Some` or a newtype, whose type serde does not tell.
    fn contents(self) -> TypeLocation {
        TypeLocation(StableHasher::new(self.0).finish())
    }
}

/// The kinds of requests. Stored outlines depend on these numbers, so they must not change.
#[derive(Clone, Copy)]
enum StepKind {
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
    /// A member: a field, an element, a key or a value.
    Member,
    /// The variant of an enum.
    Variant,
}

impl StepKind {
    fn at(self, location: TypeLocation) -> StableHasher {
        StableHasher::new(self as u64).hash(location.0)
    }
}

impl<'o> StepChecker<'o> {
    fn new(mode: CheckMode<'o>) -> StepChecker<'o> {
        StepChecker {
            mode,
            locations: HashMap::new(),
            same_names: HashMap::new(),
            last_allowed: [0; 4],
            last_locations: [("", TypeLocation::ROOT); 4],
            depth: 0,
            is_refused: false,
        }
    }

    /// Returns true if the request is allowed. After one refusal it always returns false.
    fn allows(&mut self, step: StableHasher) -> bool {
        let hash = step.finish();
        if self.is_refused {
            return false;
        }
        if self.last_allowed.contains(&hash) {
            return true;
        }
        // Half of the hash is enough. If another type passes by chance, its shape differs.
        let entry = (hash as u32).to_be_bytes();
        match &mut self.mode {
            CheckMode::Record(entries) => {
                entries.insert(entry);
            }
            CheckMode::Match(outline) => self.is_refused = !outline.contains(entry),
        }
        self.last_allowed.rotate_right(1);
        self.last_allowed[0] = hash;
        !self.is_refused
    }

    /// Returns the location of a type: a hash of its name without paths, because another build may
    /// have the type in another module or crate. Types with the same short name are numbered in the
    /// order in which they are seen.
    fn location_of<T: ?Sized>(&mut self) -> TypeLocation {
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

    fn find_location(&mut self, name: &'static str) -> TypeLocation {
        if let Some(location) = self.locations.get(name) {
            return *location;
        }
        let short = StableHasher::new(0).text(&short_name(name));
        let same_names = self.same_names.entry(short.finish()).or_default();
        let location = TypeLocation(short.word(*same_names).finish());
        *same_names += 1;
        self.locations.insert(name, location);
        location
    }

    /// Runs a nested read. Returns `None` if the nesting is too deep.
    fn nest<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.depth == MAX_DEPTH {
            self.is_refused = true;
            return None;
        }
        self.depth += 1;
        let result = run(self);
        self.depth -= 1;
        Some(result)
    }
}

/// Removes the paths from a type's name: `alloc::vec::Vec<shop::Order>` becomes `Vec<Order>`.
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
