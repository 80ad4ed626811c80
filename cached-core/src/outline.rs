//! The outline of a value: the set of steps that the type's `Deserialize` takes to decode the
//! value.
//!
//! A *step* is a call of a `deserialize_*` method, the read of one member, or the choice of a
//! variant. The arguments of a call, such as a struct's name and fields, are a part of the step.
//! *Members* are the fields of a struct or a tuple, the elements of a sequence, and the keys and
//! values of a map.
//!
//! Each step has an *origin*, the place in the type where the step is taken. This place is a named
//! type, a variant of an enum, or the inside of a `Some` or a newtype struct.
//!
//! Several builds of a program share memcached, and a type may differ between the builds. The
//! positional codec writes no type names and no field names. Without a check, a type could get data
//! that another type has stored. For example, a type that accepts only certain strings could get
//! any string, and its `Deserialize` might panic.
//!
//! The process that stores a value therefore decodes the value once, and stores the outline with
//! it. A process that reads the value checks each step of its own type against the stored outline
//! *before* the type gets the data of the step. So the reading build's type gets only data that
//! the storing build's type got in the same step.
//!
//! The step of a member contains the name of the member's type. serde does not reveal the type
//! inside a `Some`, a newtype struct or a field with `#[serde(with)]`. For these, the outline
//! contains only the steps that the inner type takes.
//!
//! The steps of `Deserialize` are compared with earlier steps of `Deserialize`, and never with the
//! output of `Serialize`. So a type's `Serialize` and `Deserialize` need not match.
//!
//! An origin is a place in the type, not in the value. For example, the steps in all nodes of a
//! linked list have the same origin, so they are in the outline only once. The type thus bounds the
//! size of an outline, however large the value is.
//!
//! # The named codec
//! This codec writes the names of fields and variants, so the step of a member contains the name
//! under which the member was found. A type can also call `deserialize_any`, and then look at the
//! kind of data that it got. The members of such a type are checked too.
//!
//! Some data cannot be checked. A derived untagged, internally tagged or flattened type *buffers*:
//! it reads its data into a buffer of serde, and then reads its parts from the buffer. The checker
//! cannot see the reads from the buffer. An adjacently tagged type *hides* the type of its contents
//! from the checker. An outline records whether the type buffers or hides. The module `encoded`
//! decides whether such a value is read.

mod checked;

use std::any::type_name;
use std::collections::{BTreeSet, HashMap};

use serde::de::DeserializeOwned;

use crate::codec::Codec;
use crate::stable_hash::StableHasher;
use crate::unstorable::ValuePart;
use checked::CheckedSeed;

/// The size in bytes of one entry in an outline. There is one entry for each step.
pub(crate) const ENTRY_BYTES: usize = 4;
/// How deeply members, `Some`s and newtype structs may be nested in a value that is decoded with
/// checks. A value with deeper nesting is refused.
///
/// Decoding with checks takes four times the stack of decoding without checks: 140 KB at this
/// depth, or 600 KB in a build without optimization.
const MAX_DEPTH: usize = 512;

/// An outline in the form in which it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outline<'f> {
    /// The hash of all entries.
    pub(crate) hash: u64,
    /// The entries in ascending order. An entry is the low [`ENTRY_BYTES`] bytes of a step's hash.
    pub(crate) entries: &'f [u8],
}

impl<'f> Outline<'f> {
    pub(crate) fn new(entries: &'f [u8]) -> Outline<'f> {
        Outline { hash: StableHasher::new(0).bytes(entries).finish(), entries }
    }

    fn contains(&self, entry: [u8; ENTRY_BYTES]) -> bool {
        self.entries.as_chunks().0.binary_search(&entry).is_ok()
    }

    /// Returns true if the type reads data into a buffer first, so that some steps could not be
    /// recorded.
    pub(crate) fn has_buffered_steps(&self) -> bool {
        self.contains(entry_of(buffering_step().finish()))
    }
}

/// Returns the entry of a step with this hash. The entry contains only half of the hash, so a wrong
/// step may pass by chance. `encoded` then usually rejects the value, because it also compares the
/// value's shape, a hash of the names and kinds of data that its `Serialize` writes.
fn entry_of(hash: u64) -> [u8; ENTRY_BYTES] {
    (hash as u32).to_be_bytes()
}

/// The step that records that a type buffers. The step has no origin.
fn buffering_step() -> StableHasher {
    StepKind::Buffer.at(StepOrigin::ROOT)
}

/// Decodes a value. Returns the value and the entries of its outline. This process must have
/// encoded the payload from a `V`.
///
/// # Errors
/// Returns the innermost part that cannot be decoded, if it is known.
pub(crate) fn decode_recording<V: DeserializeOwned>(
    codec: Codec,
    payload: &[u8],
) -> Result<(V, Vec<u8>), Option<ValuePart>> {
    let mut checker = StepChecker::new(codec, CheckMode::Record(BTreeSet::new()));
    let value = codec.decode_seed(payload, CheckedSeed::root(&mut checker));
    match (value, checker.mode) {
        (Some(value), CheckMode::Record(entries)) if !checker.is_refused => {
            Ok((value, entries.into_iter().flatten().collect()))
        }
        _ => Err(checker.failed),
    }
}

/// Decodes a value. Returns `None` if the type takes a step that is not in the outline.
pub(crate) fn decode_matching<V: DeserializeOwned>(
    codec: Codec,
    outline: Outline<'_>,
    payload: &[u8],
) -> Option<V> {
    decode_checked(codec, CheckMode::Match(outline), payload)
}

/// Decodes a value that the named codec encoded and whose outline is known to match.
pub(crate) fn decode_known<V: DeserializeOwned>(payload: &[u8]) -> Option<V> {
    decode_checked(Codec::Named, CheckMode::Trust, payload)
}

fn decode_checked<V: DeserializeOwned>(
    codec: Codec,
    mode: CheckMode<'_>,
    payload: &[u8],
) -> Option<V> {
    let mut checker = StepChecker::new(codec, mode);
    let value = codec.decode_seed(payload, CheckedSeed::root(&mut checker))?;
    // A type's `Deserialize` may ignore the error of a refused step and return a value.
    (!checker.is_refused).then_some(value)
}

/// The way in which a [`StepChecker`] treats each step.
enum CheckMode<'o> {
    /// Allows every step and records its entry.
    Record(BTreeSet<[u8; ENTRY_BYTES]>),
    /// Allows only steps whose entries are in the outline.
    Match(Outline<'o>),
    /// Allows every step without a check. For an outline that is known to match, the named codec
    /// could decode without the wrappers of `checked`. But then each type's `Deserialize` would be
    /// compiled twice.
    Trust,
}

/// The state while one value is decoded. It records or checks each step that the type takes.
struct StepChecker<'o> {
    codec: Codec,
    mode: CheckMode<'o>,
    /// The origin of the steps in each type seen so far, by the full name of the type.
    origins: HashMap<&'static str, StepOrigin>,
    /// How many types with the same short name were seen so far, by the hash of this name.
    short_name_counts: HashMap<u64, u64>,
    /// The hashes of the last few allowed steps. A step with one of these hashes is allowed without
    /// a search of the entries. Most steps repeat a recent one, because all elements of a sequence
    /// take the same steps.
    last_allowed: [u64; 4],
    /// The last few types that were looked up, by full name, with their origins.
    last_origins: [(&'static str, StepOrigin); 4],
    depth: usize,
    /// True after a step was refused, and also after the nesting limit was exceeded.
    is_refused: bool,
    /// The hash of the last field name that was read. `None` if the last key of a map is not a
    /// field's name.
    field: Option<u64>,
    /// The first part that could not be decoded.
    failed: Option<ValuePart>,
}

/// The origin of a step (the place in the type where the step is taken), as a hash. In a named
/// type, this is a hash of the type's short name. In a variant, it is the hash of the step that
/// chose the variant. In a `Some` or a newtype struct, it is a hash of the enclosing type's origin.
#[derive(Clone, Copy)]
struct StepOrigin(u64);

impl StepOrigin {
    /// The origin of the step for the whole value.
    const ROOT: StepOrigin = StepOrigin(0);

    /// Returns the origin of the steps in the variant that `step` chooses.
    fn after(step: StableHasher) -> StepOrigin {
        StepOrigin(step.finish())
    }

    /// Returns the origin of the steps inside a `Some` or a newtype struct that has this origin.
    /// serde does not reveal the type inside.
    fn contents(self) -> StepOrigin {
        StepOrigin(StableHasher::new(self.0).finish())
    }
}

/// The kinds of steps. The entries of stored outlines are hashes that include these numbers, so the
/// numbers must not change.
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
    /// The read of one member.
    Member,
    /// The choice of an enum's variant.
    Variant,
    /// The type reads its data into a buffer, or hides the type of its contents. An outline has at
    /// most one such entry.
    Buffer,
}

impl StepKind {
    /// Begins the hash of a step of this kind. If the step has names and numbers, the caller adds
    /// them.
    fn at(self, origin: StepOrigin) -> StableHasher {
        StableHasher::new(self as u64).hash(origin.0)
    }
}

impl<'o> StepChecker<'o> {
    fn new(codec: Codec, mode: CheckMode<'o>) -> StepChecker<'o> {
        StepChecker {
            codec,
            mode,
            origins: HashMap::new(),
            short_name_counts: HashMap::new(),
            last_allowed: [0; 4],
            last_origins: [("", StepOrigin::ROOT); 4],
            depth: 0,
            is_refused: false,
            field: None,
            failed: None,
        }
    }

    fn is_trusting(&self) -> bool {
        matches!(self.mode, CheckMode::Trust)
    }

    /// Returns true if the step is allowed. After one refusal this method always returns false.
    fn allows(&mut self, step: StableHasher) -> bool {
        if self.is_refused || self.is_trusting() {
            return !self.is_refused;
        }
        let hash = step.finish();
        if self.last_allowed.contains(&hash) {
            return true;
        }
        match &mut self.mode {
            CheckMode::Record(entries) => {
                entries.insert(entry_of(hash));
            }
            CheckMode::Match(outline) => self.is_refused = !outline.contains(entry_of(hash)),
            CheckMode::Trust => {}
        }
        self.last_allowed.rotate_right(1);
        self.last_allowed[0] = hash;
        !self.is_refused
    }

    /// Returns the origin of the steps in a member's type. If the member hides the type of its
    /// data, records or checks the [`buffering_step`] too. Two kinds of members hide their type: a
    /// buffer of serde, and a field for which serde names the type around the field, as in an
    /// adjacently tagged enum.
    fn enter_member<T: ?Sized>(&mut self, parent: StepOrigin, is_field: bool) -> StepOrigin {
        let origin = self.origin_of::<T>();
        let hides_type = is_buffer(type_name::<T>()) || (is_field && origin.0 == parent.0);
        if self.codec == Codec::Named && !self.is_trusting() && hides_type {
            self.allows(buffering_step());
        }
        origin
    }

    /// Returns the origin of the steps in a type: a hash of the type's short name. The short name
    /// has no paths, because another build may have moved the type to another module or crate.
    /// Types with the same short name are numbered in the order in which the checker sees them.
    fn origin_of<T: ?Sized>(&mut self) -> StepOrigin {
        if self.is_trusting() {
            return StepOrigin::ROOT;
        }
        let name = type_name::<T>();
        let last = self.last_origins.iter().find(|(last, _)| std::ptr::eq(*last, name));
        if let Some((_, origin)) = last {
            return *origin;
        }
        let origin = self.find_origin(name);
        self.last_origins.rotate_right(1);
        self.last_origins[0] = (name, origin);
        origin
    }

    fn find_origin(&mut self, name: &'static str) -> StepOrigin {
        if let Some(origin) = self.origins.get(name) {
            return *origin;
        }
        let short = StableHasher::new(0).text(&short_name(name));
        let count = self.short_name_counts.entry(short.finish()).or_default();
        let origin = StepOrigin(short.word(*count).finish());
        *count += 1;
        self.origins.insert(name, origin);
        origin
    }

    /// Runs `run`, which decodes a nested value. Refuses the value and returns `None` if the
    /// nesting is too deep.
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

/// Returns true for the name of the buffer from which serde's derived code reads untagged,
/// internally tagged and flattened types.
fn is_buffer(type_name: &str) -> bool {
    type_name.starts_with("serde") && type_name.contains("::content::Content")
}

/// Removes the paths from the name of a type: `alloc::vec::Vec<shop::Order>` becomes `Vec<Order>`.
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
