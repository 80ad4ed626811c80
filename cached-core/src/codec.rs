//! The codecs, which encode values as bytes.
//!
//! - The *positional* codec, bincode, writes the parts of a value one after the other. This codec
//!   is fast and its output is short, so it is tried first.
//! - The *named* codec, MessagePack, writes the name of each field and the kind of each part. This
//!   codec is used for values that the positional codec cannot read back: untagged and internally
//!   tagged enums, flattened and skipped fields, `serde_json::Value`.
//!
//! memcached stores each value in a frame. The frame says which codec encoded the value.

pub(crate) mod named;
pub(crate) mod positional;

use serde::Serialize;
use serde::de::DeserializeSeed;

/// One of the two codecs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Writes no names and no kinds.
    Positional,
    /// Writes names and kinds, so that a type's `Deserialize` can ask what comes next.
    Named,
}

impl Codec {
    /// Encodes a value. Returns `None` if the codec or the value's own `Serialize` fails.
    pub(crate) fn encode<V: Serialize>(self, value: &V) -> Option<Vec<u8>> {
        match self {
            Codec::Positional => positional::encode(value),
            Codec::Named => named::encode(value),
        }
    }

    /// Decodes a value through a serde seed, which can check each step of the type's `Deserialize`.
    /// Returns `None` if the bytes cannot be decoded, or if bytes are left over.
    pub(crate) fn decode_seed<S, V>(self, bytes: &[u8], seed: S) -> Option<V>
    where
        S: for<'de> DeserializeSeed<'de, Value = V>,
    {
        match self {
            Codec::Positional => positional::decode_seed(bytes, seed),
            Codec::Named => named::decode_seed(bytes, seed),
        }
    }
}
