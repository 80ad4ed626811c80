//! The named codec: MessagePack, with the names of fields and variants.
//!
//! Only this module uses `rmp-serde`.
//!
//! MessagePack is binary, but the codec tells serde that its format is human-readable. A derived
//! untagged or flattened type first reads its data into serde's own buffer, and this buffer always
//! claims to be human-readable. If the codec did not claim this too, a `Uuid` or an `IpAddr` in
//! such a type would be written in binary form and read in text form.

mod well_formed;

use std::io::ErrorKind;

use rmp_serde::decode::{Deserializer, Error};
use rmp_serde::encode::Serializer;
use serde::Serialize;
use serde::de::{Deserialize, DeserializeSeed};

/// How deeply sequences and maps may be nested. For comparison, `serde_json` allows 128 levels.
pub(crate) const MAX_DEPTH: usize = 256;

pub(super) fn encode<V: Serialize>(value: &V) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::new(&mut bytes).with_struct_map().with_human_readable();
    value.serialize(&mut serializer).ok()?;
    Some(bytes)
}

/// Decodes a value. Returns `None` if the bytes cannot be decoded, or if bytes are left over.
///
/// The bytes are checked before the type receives any of them. Thus a wrong length in the bytes
/// cannot make the type allocate memory, and deep nesting cannot exhaust the stack.
pub(super) fn decode_seed<S, V>(bytes: &[u8], seed: S) -> Option<V>
where
    S: for<'de> DeserializeSeed<'de, Value = V>,
{
    if !well_formed::is_one_value(bytes, MAX_DEPTH) {
        return None;
    }
    let mut deserializer = Deserializer::from_read_ref(bytes).with_human_readable();
    let value = seed.deserialize(&mut deserializer).ok()?;
    // A type may ignore an error and leave a part of its data unread.
    is_at_end(&mut deserializer).then_some(value)
}

/// Returns true if no byte is left. The function tries to read a `bool`, which takes one byte. If
/// this fails with `UnexpectedEof`, no byte was left.
fn is_at_end<'de, D: serde::Deserializer<'de, Error = Error>>(deserializer: D) -> bool {
    let end = bool::deserialize(deserializer);
    matches!(end, Err(Error::InvalidMarkerRead(end)) if end.kind() == ErrorKind::UnexpectedEof)
}

#[cfg(test)]
mod tests;
