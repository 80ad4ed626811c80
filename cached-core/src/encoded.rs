//! A value as memcached has it: its bytes, its shape and its outline. How a value is written so
//! that every process reads it back as what it is, and how it is read.

use std::any::TypeId;
use std::collections::HashSet;
use std::sync::{LazyLock, PoisonError, RwLock};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::outline::{self, Outline};
use crate::{codec, shape};

/// How many pairs of a type and an outline are remembered. Beyond that all are forgotten, and found
/// out again.
const FITTING_LIMIT: usize = 16 << 10;

/// The outlines that are known to fit a type: every request that the type makes of such a frame is
/// one that the frame's writer made.
static FITTING: LazyLock<RwLock<HashSet<(TypeId, u64)>>> = LazyLock::new(RwLock::default);

/// A value as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EncodedView<'f> {
    pub(crate) shape: u64,
    pub(crate) outline: Outline<'f>,
    pub(crate) payload: &'f [u8],
}

/// A value as it is to be stored.
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

/// Returns what is to be stored of a value, after making sure that it reads back.
///
/// # Errors
/// Why this value has to stay out of memcached.
pub(crate) fn write<V>(value: &V) -> Result<EncodedValue, &'static str>
where
    V: Serialize + DeserializeOwned + 'static,
{
    let payload = codec::encode(value).ok_or("the codec cannot write the value")?;
    let shape = shape::of(value).map_err(shape::ShapeError::reason)?;
    let read_back = outline::decode_recording::<V>(&payload);
    let (_, outline_entries) = read_back.filter(|(value, _)| shape::of(value) == Ok(shape)).ok_or(
        "the value does not read back as what was written (an enum that is untagged, internally or \
         adjacently tagged, a flattened or skipped field, or another type that only a \
         self-describing format can read), or it is nested more than 512 levels deep",
    )?;
    let written = EncodedValue { shape, outline_entries, payload };
    remember_fitting::<V>(written.view().outline.hash);
    Ok(written)
}

/// Returns the value if it was stored by a build in which its type is the same. The type's
/// `Deserialize` is given nothing that it would not have been given there.
pub(crate) fn read<V: Serialize + DeserializeOwned + 'static>(
    stored: EncodedView<'_>,
) -> Option<V> {
    let EncodedView { shape, outline, payload } = stored;
    let fits = is_fitting::<V>(outline.hash);
    let value: V =
        if fits { codec::decode(payload)? } else { outline::decode_matching(outline, payload)? };
    if shape::of(&value) != Ok(shape) {
        return None;
    }
    if !fits {
        remember_fitting::<V>(outline.hash);
    }
    Some(value)
}

fn is_fitting<V: 'static>(outline: u64) -> bool {
    // Nothing panics while it holds the lock.
    let fitting = FITTING.read().unwrap_or_else(PoisonError::into_inner);
    fitting.contains(&(TypeId::of::<V>(), outline))
}

fn remember_fitting<V: 'static>(outline: u64) {
    if is_fitting::<V>(outline) {
        return;
    }
    let mut fitting = FITTING.write().unwrap_or_else(PoisonError::into_inner);
    if fitting.len() >= FITTING_LIMIT {
        fitting.clear();
    }
    fitting.insert((TypeId::of::<V>(), outline));
}
