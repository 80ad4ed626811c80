//! A value encoded for memcached: its bytes (`codec`), its shape and its outline.
//!
//! The shape is a hash of the structs, fields and variants that the value's `Serialize` visits. The
//! outline is the set of steps that the type's `Deserialize` takes; see `outline`.
//!
//! Another process may run another build, in which the type has changed. When a process reads a value,
//! it compares the shape and the outline with its own type. It then gets the same value, or none.

use std::any::TypeId;
use std::collections::HashSet;
use std::sync::{LazyLock, PoisonError, RwLock};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::outline::{self, Outline};
use crate::{codec, shape};

/// The number of pairs in [`MATCHES`] at which the set is cleared.
const MAX_MATCHES: usize = 16 << 10;

/// The types, each with the hash of an outline that is known to match. A value with a known outline is
/// decoded without a check of each step.
static MATCHES: LazyLock<RwLock<HashSet<(TypeId, u64)>>> = LazyLock::new(RwLock::default);

/// An encoded value, borrowed from an [`EncodedValue`] or from a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EncodedView<'f> {
    pub(crate) shape: u64,
    pub(crate) outline: Outline<'f>,
    pub(crate) payload: &'f [u8],
}

/// An encoded value that owns its bytes.
pub(crate) struct EncodedValue {
    shape: u64,
    outline_entries: Vec<u8>,
    payload: Vec<u8>,
}

impl EncodedValue {
    pub(crate) fn view(&self) -> EncodedView<'_> {
        let outline = Outline::new(&self.outline_entries);
        EncodedView { shape: self.shape, outline, payload: &self.payload }
    }
}

/// Encodes a value, and checks that the bytes decode to the same value.
///
/// # Errors
/// Returns the reason why this value cannot be stored in memcached.
pub(crate) fn write<V>(value: &V) -> Result<EncodedValue, &'static str>
where
    V: Serialize + DeserializeOwned + 'static,
{
    let payload = codec::encode(value).ok_or("the codec cannot write the value")?;
    let shape = shape::of(value).map_err(shape::ShapeError::reason)?;
    let decoded = outline::decode_recording::<V>(&payload);
    let (_, outline_entries) = decoded.filter(|(value, _)| shape::of(value) == Ok(shape)).ok_or(
        "the value does not read back as what was written (an enum that is untagged, internally or \
         adjacently tagged, a flattened or skipped field, or another type that only a \
         self-describing format can read), or it is nested more than 512 levels deep",
    )?;
    let encoded = EncodedValue { shape, outline_entries, payload };
    remember_match::<V>(encoded.view().outline.hash);
    Ok(encoded)
}

/// Decodes a value. Returns `None` if the value's type was different in the build that encoded it.
///
/// The type's `Deserialize` receives only data that it would also have received in the build that
/// encoded the value.
pub(crate) fn read<V: Serialize + DeserializeOwned + 'static>(
    encoded: EncodedView<'_>,
) -> Option<V> {
    let EncodedView { shape, outline, payload } = encoded;
    let is_known = is_known_match::<V>(outline.hash);
    let value: V = match is_known {
        true => codec::decode(payload)?,
        false => outline::decode_matching(outline, payload)?,
    };
    if shape::of(&value) != Ok(shape) {
        return None;
    }
    if !is_known {
        remember_match::<V>(outline.hash);
    }
    Some(value)
}

fn is_known_match<V: 'static>(outline: u64) -> bool {
    // No code that holds this lock panics.
    let matches = MATCHES.read().unwrap_or_else(PoisonError::into_inner);
    matches.contains(&(TypeId::of::<V>(), outline))
}

fn remember_match<V: 'static>(outline: u64) {
    if is_known_match::<V>(outline) {
        return;
    }
    let mut matches = MATCHES.write().unwrap_or_else(PoisonError::into_inner);
    if matches.len() >= MAX_MATCHES {
        matches.clear();
    }
    matches.insert((TypeId::of::<V>(), outline));
}
