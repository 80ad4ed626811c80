//! The codec: a value as bytes. The only module that names bincode, which gets no more releases.

use bincode::config::{Config, standard};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) fn encode<V: Serialize>(value: &V) -> Option<Vec<u8>> {
    bincode::serde::encode_to_vec(value, standard()).ok()
}

/// The value of exactly these bytes. The caller has checked that they are what was stored, but a
/// positional codec reads another type's bytes all the same, and takes a timestamp for the length
/// of a text. So what it may allocate is bounded, by a multiple of what there is to read.
pub(crate) fn decode<V: DeserializeOwned>(bytes: &[u8]) -> Option<V> {
    const SMALL: usize = 64 << 10;
    const LARGE: usize = 4 << 20;
    match bytes.len() {
        0..SMALL => decode_within(bytes, standard().with_limit::<{ SMALL * 64 }>()),
        SMALL..LARGE => decode_within(bytes, standard().with_limit::<{ LARGE * 16 }>()),
        // More than memcached takes at its largest setting, 1 GiB an item.
        _ => decode_within(bytes, standard().with_limit::<{ 1 << 31 }>()),
    }
}

fn decode_within<V: DeserializeOwned>(bytes: &[u8], config: impl Config) -> Option<V> {
    let (value, read) = bincode::serde::decode_from_slice(bytes, config).ok()?;
    (read == bytes.len()).then_some(value)
}
