//! Encodes values for memcached, and decodes them. An encoded value consists of its bytes, their
//! codec (see `codec`), a shape and an outline.
//!
//! The shape is a hash of the structs, fields and variants that the value's `Serialize` visits. The
//! outline is the set of steps that the type's `Deserialize` takes, such as the read of a struct's
//! field; see `outline`.
//!
//! The process that reads a value might run another build of the program, in which the value's type
//! has changed. The reading process therefore compares the shape and the outline with those of its
//! own version of the type. If either does not fit, this process treats the value as missing.
//!
//! # Codecs
//! The positional codec, which writes no field names, is tried first. If a value does not read back
//! as it was written, the named codec is tried next. For later values of the same type, the process
//! then tries the named codec first.

use std::any::{Any, TypeId};
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{LazyLock, PoisonError, RwLock};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Codec, positional};
use crate::outline::{self, Outline};
use crate::round_trip::{DEBUG_DIFFERS, RoundTripCheck};
use crate::shape;
use crate::unstorable::Unstorable;

/// The number of entries at which the set [`MATCHES`] or [`NAMED`] is cleared.
const MAX_MATCHES: usize = 16 << 10;

/// The types with at least one value that only the named codec could read back.
static NAMED: LazyLock<RwLock<HashSet<TypeId>>> = LazyLock::new(RwLock::default);

/// Pairs of a type and the hash of an outline that is known to match the type. A value with such an
/// outline is decoded without a check of each step.
static MATCHES: LazyLock<RwLock<HashSet<(TypeId, u64)>>> = LazyLock::new(RwLock::default);

/// An encoded value, borrowed from an [`EncodedValue`] or from a *frame*, the bytes that memcached
/// stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EncodedView<'f> {
    pub(crate) codec: Codec,
    pub(crate) shape: u64,
    pub(crate) outline: Outline<'f>,
    pub(crate) payload: &'f [u8],
    /// The fingerprint of the program that encoded the value, or 0 if none was added.
    pub(crate) program: u64,
}

impl EncodedView<'_> {
    /// Adds `program`, the fingerprint of this program, to a value that only this program may read.
    /// Returns `None` if the fingerprint is needed but unknown.
    pub(crate) fn with_program(self, program: Option<u64>) -> Option<Self> {
        if !self.needs_same_program() {
            return Some(self);
        }
        program.map(|program| EncodedView { program, ..self })
    }

    /// Returns true if the program with this fingerprint may read the value. If serde buffers a
    /// part of the value, only the program that wrote the value may read it.
    ///
    /// serde buffers untagged, internally tagged and flattened types, and the outline does not show
    /// how a type reads its buffered data. For example, an untagged enum takes the first variant
    /// that fits, and a skipped field in a flattened struct leaves no trace. If two builds differ
    /// in such a point, their outlines and shapes can still be equal.
    pub(crate) fn is_safe_to_read(&self, program: Option<u64>) -> bool {
        !self.needs_same_program() || program == Some(self.program)
    }

    fn needs_same_program(&self) -> bool {
        self.codec == Codec::Named && self.outline.has_buffered_steps()
    }
}

/// An encoded value that owns its bytes.
pub(crate) struct EncodedValue {
    codec: Codec,
    shape: u64,
    outline_entries: Vec<u8>,
    payload: Vec<u8>,
}

impl EncodedValue {
    pub(crate) fn view(&self) -> EncodedView<'_> {
        let outline = Outline::new(&self.outline_entries);
        let EncodedValue { codec, shape, .. } = *self;
        EncodedView { codec, shape, outline, payload: &self.payload, program: 0 }
    }
}

/// Encodes a value, and checks that the bytes decode to the same value.
///
/// # Errors
/// Returns the reason why this value cannot be stored in memcached.
pub(crate) fn write<V>(value: &V, check: RoundTripCheck) -> Result<EncodedValue, Unstorable>
where
    V: Serialize + DeserializeOwned + 'static,
{
    if contains(&NAMED, &TypeId::of::<V>()) {
        return write_with(Codec::Named, value, check).or_else(|reason| {
            let positional = write_with(Codec::Positional, value, check);
            positional.map_err(|other| if other == DEBUG_DIFFERS { other } else { reason })
        });
    }
    match write_with(Codec::Positional, value, check) {
        Ok(encoded) => return Ok(encoded),
        // Only tests compare the `Debug` texts. Production stores such a value with the positional
        // codec, so a test must not try the named codec.
        Err(DEBUG_DIFFERS) => return Err(DEBUG_DIFFERS),
        Err(_) => {}
    }
    let encoded = write_with(Codec::Named, value, check)?;
    insert(&NAMED, TypeId::of::<V>());
    Ok(encoded)
}

fn write_with<V>(codec: Codec, value: &V, check: RoundTripCheck) -> Result<EncodedValue, Unstorable>
where
    V: Serialize + DeserializeOwned + 'static,
{
    let shape = shape::of(value, codec).map_err(|error| Unstorable {
        why: error.reason(),
        part: shape::failing_part(value, codec),
    })?;
    let payload = codec.encode(value).ok_or(Unstorable::new("has a `Serialize` that fails"))?;
    let decoded = outline::decode_recording::<V>(codec, &payload);
    let (read_back, outline_entries) =
        decoded.map_err(|part| Unstorable { why: NOT_READ_BACK, part })?;
    if shape::of(&read_back, codec) != Ok(shape) {
        let part = shape::first_difference(value, &read_back, codec);
        return Err(Unstorable { why: READ_BACK_OTHERWISE, part });
    }
    let read_again = || outline::decode_recording::<V>(codec, &payload).ok();
    check.compare(value, &read_back, codec == Codec::Named, || {
        read_again().map(|(value, _)| Box::new(value) as Box<dyn Any>)
    })?;
    let encoded = EncodedValue { codec, shape, outline_entries, payload };
    remember_match::<V>(encoded.view().outline.hash);
    Ok(encoded)
}

const NOT_READ_BACK: &str =
    "has a `Deserialize` that does not accept what its `Serialize` writes, or is nested too deeply";
const READ_BACK_OTHERWISE: &str = "does not read back as what was written";

/// Decodes a value. Returns `None` if the value's type was different in the build that encoded it.
///
/// Decoding stops before this build's `Deserialize` receives data in a step that the `Deserialize`
/// of the encoding build did not take. Data that serde buffers is an exception; see
/// [`EncodedView::is_safe_to_read`].
pub(crate) fn read<V: Serialize + DeserializeOwned + 'static>(
    encoded: EncodedView<'_>,
) -> Option<V> {
    let EncodedView { codec, shape, outline, payload, .. } = encoded;
    let is_known = is_known_match::<V>(outline.hash);
    let value: V = match (is_known, codec) {
        (true, Codec::Positional) => positional::decode(payload)?,
        (true, Codec::Named) => outline::decode_known(payload)?,
        (false, _) => outline::decode_matching(codec, outline, payload)?,
    };
    if shape::of(&value, codec) != Ok(shape) {
        return None;
    }
    if !is_known {
        remember_match::<V>(outline.hash);
    }
    Some(value)
}

fn is_known_match<V: 'static>(outline: u64) -> bool {
    contains(&MATCHES, &(TypeId::of::<V>(), outline))
}

fn remember_match<V: 'static>(outline: u64) {
    insert(&MATCHES, (TypeId::of::<V>(), outline));
}

// Code that holds one of the locks never panics, so these functions ignore poisoning.

fn contains<T: Eq + Hash>(set: &RwLock<HashSet<T>>, item: &T) -> bool {
    set.read().unwrap_or_else(PoisonError::into_inner).contains(item)
}

fn insert<T: Eq + Hash>(set: &RwLock<HashSet<T>>, item: T) {
    if contains(set, &item) {
        return;
    }
    let mut set = set.write().unwrap_or_else(PoisonError::into_inner);
    if set.len() >= MAX_MATCHES {
        set.clear();
    }
    set.insert(item);
}

#[cfg(test)]
mod tests;
