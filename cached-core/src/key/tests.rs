//! Makes random values of the serde data model. The tests in the submodules encode these values as
//! keys.

mod reading_back;
mod sinks;

use proptest::collection::vec;
use proptest::prelude::*;
use serde::Serialize;
use serde::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleVariant,
};

use super::*;

/// A value of the serde data model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum SerdeValue {
    Bool(bool),
    Signed(i128),
    Unsigned(u128),
    Float(u64),
    Char(char),
    Str(String),
    Bytes(Vec<u8>),
    None,
    Some(Box<SerdeValue>),
    Unit,
    Seq(Vec<SerdeValue>),
    Tuple(Vec<SerdeValue>),
    Map(Vec<(SerdeValue, SerdeValue)>),
    Struct(Vec<(&'static str, SerdeValue)>),
    UnitVariant(&'static str),
    NewtypeVariant(&'static str, Box<SerdeValue>),
    TupleVariant(&'static str, Vec<SerdeValue>),
    StructVariant(&'static str, Vec<(&'static str, SerdeValue)>),
}

const NAMES: [&str; 6] = ["", "a", "b", "ab", "a\u{8}", "été"];

impl Serialize for SerdeValue {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            SerdeValue::Bool(value) => s.serialize_bool(*value),
            // A small integer is serialized as a narrower type, because a key must not depend on
            // the width of the type.
            SerdeValue::Signed(value) => match i8::try_from(*value) {
                Ok(value) => s.serialize_i8(value),
                Err(_) => s.serialize_i128(*value),
            },
            SerdeValue::Unsigned(value) => match u16::try_from(*value) {
                Ok(value) => s.serialize_u16(value),
                Err(_) => s.serialize_u128(*value),
            },
            SerdeValue::Float(bits) => s.serialize_f64(f64::from_bits(*bits)),
            SerdeValue::Char(value) => s.serialize_char(*value),
            SerdeValue::Str(value) => s.serialize_str(value),
            SerdeValue::Bytes(value) => s.serialize_bytes(value),
            SerdeValue::None => s.serialize_none(),
            SerdeValue::Some(value) => s.serialize_some(value),
            SerdeValue::Unit => s.serialize_unit(),
            SerdeValue::Seq(values) => {
                let mut seq = s.serialize_seq(None)?;
                values.iter().try_for_each(|value| seq.serialize_element(value))?;
                seq.end()
            }
            SerdeValue::Tuple(values) => {
                let mut tuple = s.serialize_tuple(values.len())?;
                values.iter().try_for_each(|value| tuple.serialize_element(value))?;
                tuple.end()
            }
            SerdeValue::Map(entries) => {
                let mut map = s.serialize_map(None)?;
                entries.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
                map.end()
            }
            SerdeValue::Struct(fields) => {
                let mut form = s.serialize_struct("Name", fields.len())?;
                fields.iter().try_for_each(|(name, value)| form.serialize_field(name, value))?;
                form.end()
            }
            SerdeValue::UnitVariant(variant) => s.serialize_unit_variant("Name", 7, variant),
            SerdeValue::NewtypeVariant(variant, value) => {
                s.serialize_newtype_variant("Name", 7, variant, value)
            }
            SerdeValue::TupleVariant(variant, values) => {
                let mut form = s.serialize_tuple_variant("Name", 7, variant, values.len())?;
                values.iter().try_for_each(|value| form.serialize_field(value))?;
                form.end()
            }
            SerdeValue::StructVariant(variant, fields) => {
                let mut form = s.serialize_struct_variant("Name", 7, variant, fields.len())?;
                fields.iter().try_for_each(|(name, value)| form.serialize_field(name, value))?;
                form.end()
            }
        }
    }
}

fn serde_values() -> impl Strategy<Value = SerdeValue> {
    let name = || proptest::sample::select(&NAMES[..]);
    let leaf = prop_oneof![
        any::<bool>().prop_map(SerdeValue::Bool),
        prop_oneof![any::<i128>(), -3..3i128].prop_map(SerdeValue::Signed),
        prop_oneof![any::<u128>(), 0..3u128].prop_map(SerdeValue::Unsigned),
        any::<u64>().prop_map(SerdeValue::Float),
        Just(SerdeValue::Float(f64::NAN.to_bits() | 1)),
        Just(SerdeValue::Float((-0.0f64).to_bits())),
        any::<char>().prop_map(SerdeValue::Char),
        prop_oneof!["\\PC*", "[ab:\0\u{8}]{0,4}", "a{120,140}"].prop_map(SerdeValue::Str),
        vec(any::<u8>(), 0..6).prop_map(SerdeValue::Bytes),
        Just(SerdeValue::None),
        Just(SerdeValue::Unit),
        name().prop_map(SerdeValue::UnitVariant),
    ];
    leaf.prop_recursive(4, 40, 5, move |value| {
        let values = || vec(value.clone(), 0..5);
        let fields = || vec((name(), value.clone()), 0..4);
        let boxed = || value.clone().prop_map(Box::new);
        prop_oneof![
            boxed().prop_map(SerdeValue::Some),
            values().prop_map(SerdeValue::Seq),
            values().prop_map(SerdeValue::Tuple),
            vec((values().prop_map(SerdeValue::Tuple), values().prop_map(SerdeValue::Seq)), 0..4)
                .prop_map(SerdeValue::Map),
            fields().prop_map(SerdeValue::Struct),
            (name(), boxed()).prop_map(|(name, value)| SerdeValue::NewtypeVariant(name, value)),
            (name(), values()).prop_map(|(name, values)| SerdeValue::TupleVariant(name, values)),
            (name(), fields()).prop_map(|(name, fields)| SerdeValue::StructVariant(name, fields)),
        ]
    })
}

/// Encodes the values one after the other, into one buffer.
fn bytes_of(values: &[SerdeValue]) -> Vec<u8> {
    let mut bytes = KeyBytes::default();
    for value in values {
        value.serialize(KeySerializer(&mut bytes)).expect("encodes");
    }
    bytes.to_vec()
}
