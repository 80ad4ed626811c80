//! The codec: a value as bytes. The only module that names bincode, which gets no more releases.

use std::marker::PhantomData;

use bincode::config::{Config, standard};
use bincode::de::read::{Reader, SliceReader};
use bincode::serde::OwnedSerdeDecoder;
use serde::Serialize;
use serde::de::{DeserializeOwned, DeserializeSeed};

pub(crate) fn encode<V: Serialize>(value: &V) -> Option<Vec<u8>> {
    bincode::serde::encode_to_vec(value, standard()).ok()
}

/// Returns the value of exactly these bytes. The caller has checked that they are what was stored,
/// but a positional codec reads another type's bytes all the same, and takes a timestamp for the
/// length of a text. So what it may allocate is bounded, by a multiple of what there is to read.
pub(crate) fn decode<V: DeserializeOwned>(bytes: &[u8]) -> Option<V> {
    decode_seed(bytes, PhantomData)
}

/// Decodes as [`decode`] does, for a seed that looks at what is read.
pub(crate) fn decode_seed<S, V>(bytes: &[u8], seed: S) -> Option<V>
where
    S: for<'de> DeserializeSeed<'de, Value = V>,
{
    const SMALL: usize = 64 << 10;
    const LARGE: usize = 4 << 20;
    match bytes.len() {
        0..SMALL => decode_within(bytes, seed, standard().with_limit::<{ SMALL * 64 }>()),
        SMALL..LARGE => decode_within(bytes, seed, standard().with_limit::<{ LARGE * 16 }>()),
        // More than memcached takes at its largest setting, 1 GiB an item.
        _ => decode_within(bytes, seed, standard().with_limit::<{ 1 << 31 }>()),
    }
}

fn decode_within<S, V>(bytes: &[u8], seed: S, config: impl Config) -> Option<V>
where
    S: for<'de> DeserializeSeed<'de, Value = V>,
{
    let mut reader = SliceReader::new(bytes);
    let value = {
        let mut decoder = OwnedSerdeDecoder::from_reader(&mut reader, config);
        seed.deserialize(decoder.as_deserializer()).ok()?
    };
    // There must be nothing left.
    reader.read(&mut [0]).is_err().then_some(value)
}
