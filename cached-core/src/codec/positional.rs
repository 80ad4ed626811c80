//! The positional codec, which stores fields in order and without their names. It uses bincode.
//!
//! Only this module uses bincode, because bincode gets no more releases and might be replaced.

use std::marker::PhantomData;

use bincode::config::{Config, standard};
use bincode::de::read::{Reader, SliceReader};
use bincode::serde::OwnedSerdeDecoder;
use serde::Serialize;
use serde::de::{DeserializeOwned, DeserializeSeed};

pub(crate) fn encode<V: Serialize>(value: &V) -> Option<Vec<u8>> {
    bincode::serde::encode_to_vec(value, standard()).ok()
}

/// Decodes a value. Returns `None` if the bytes cannot be decoded, or if bytes are left over.
///
/// bincode stores no types. If the bytes encode a value of a type other than `V`, bincode can, for
/// example, read a timestamp as the length of a string. This function therefore limits the memory
/// that bincode allocates to 4 MiB, 64 MiB or 2 GiB, depending on the number of bytes.
pub(crate) fn decode<V: DeserializeOwned>(bytes: &[u8]) -> Option<V> {
    decode_seed(bytes, PhantomData)
}

/// Decodes as [`decode`] does, through a serde seed that can check each step of the type's
/// `Deserialize`.
pub(crate) fn decode_seed<S, V>(bytes: &[u8], seed: S) -> Option<V>
where
    S: for<'de> DeserializeSeed<'de, Value = V>,
{
    const SMALL: usize = 64 << 10;
    const LARGE: usize = 4 << 20;
    match bytes.len() {
        0..SMALL => decode_within(bytes, seed, standard().with_limit::<{ SMALL * 64 }>()),
        SMALL..LARGE => decode_within(bytes, seed, standard().with_limit::<{ LARGE * 16 }>()),
        // memcached accepts no item of more than 1 GiB, even at the largest `-I` setting.
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
    // A byte that is left over shows that the bytes are the encoding of another type.
    reader.read(&mut [0]).is_err().then_some(value)
}
