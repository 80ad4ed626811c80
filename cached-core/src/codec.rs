//! The codec: a value as bytes. The only module that names bincode, which gets no more releases.

use bincode::config::{Configuration, standard};
use serde::Serialize;
use serde::de::DeserializeOwned;

const FORMAT: Configuration = standard();

pub(crate) fn encode<V: Serialize>(value: &V) -> Option<Vec<u8>> {
    bincode::serde::encode_to_vec(value, FORMAT).ok()
}

/// The value of exactly these bytes. The caller has checked that they are what was stored: a
/// positional codec reads another type's bytes without an error.
pub(crate) fn decode<V: DeserializeOwned>(bytes: &[u8]) -> Option<V> {
    let (value, read) = bincode::serde::decode_from_slice(bytes, FORMAT).ok()?;
    (read == bytes.len()).then_some(value)
}
