//! Random values of the serde data model, for the tests of the encoding.

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
enum Tree {
    Bool(bool),
    Signed(i128),
    Unsigned(u128),
    Float(u64),
    Char(char),
    Str(String),
    Bytes(Vec<u8>),
    None,
    Some(Box<Tree>),
    Unit,
    Seq(Vec<Tree>),
    Tuple(Vec<Tree>),
    Map(Vec<(Tree, Tree)>),
    Struct(Vec<(&'static str, Tree)>),
    UnitVariant(&'static str),
    NewtypeVariant(&'static str, Box<Tree>),
    TupleVariant(&'static str, Vec<Tree>),
    StructVariant(&'static str, Vec<(&'static str, Tree)>),
}

const NAMES: [&str; 6] = ["", "a", "b", "ab", "a\u{8}", "été"];

impl Serialize for Tree {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Tree::Bool(value) => s.serialize_bool(*value),
            // Widths vary, because the width of an integer must not matter.
            Tree::Signed(value) => match i8::try_from(*value) {
                Ok(value) => s.serialize_i8(value),
                Err(_) => s.serialize_i128(*value),
            },
            Tree::Unsigned(value) => match u16::try_from(*value) {
                Ok(value) => s.serialize_u16(value),
                Err(_) => s.serialize_u128(*value),
            },
            Tree::Float(bits) => s.serialize_f64(f64::from_bits(*bits)),
            Tree::Char(value) => s.serialize_char(*value),
            Tree::Str(value) => s.serialize_str(value),
            Tree::Bytes(value) => s.serialize_bytes(value),
            Tree::None => s.serialize_none(),
            Tree::Some(value) => s.serialize_some(value),
            Tree::Unit => s.serialize_unit(),
            Tree::Seq(values) => {
                let mut seq = s.serialize_seq(None)?;
                values.iter().try_for_each(|value| seq.serialize_element(value))?;
                seq.end()
            }
            Tree::Tuple(values) => {
                let mut tuple = s.serialize_tuple(values.len())?;
                values.iter().try_for_each(|value| tuple.serialize_element(value))?;
                tuple.end()
            }
            Tree::Map(entries) => {
                let mut map = s.serialize_map(None)?;
                entries.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
                map.end()
            }
            Tree::Struct(fields) => {
                let mut form = s.serialize_struct("Name", fields.len())?;
                fields.iter().try_for_each(|(name, value)| form.serialize_field(name, value))?;
                form.end()
            }
            Tree::UnitVariant(variant) => s.serialize_unit_variant("Name", 7, variant),
            Tree::NewtypeVariant(variant, value) => {
                s.serialize_newtype_variant("Name", 7, variant, value)
            }
            Tree::TupleVariant(variant, values) => {
                let mut form = s.serialize_tuple_variant("Name", 7, variant, values.len())?;
                values.iter().try_for_each(|value| form.serialize_field(value))?;
                form.end()
            }
            Tree::StructVariant(variant, fields) => {
                let mut form = s.serialize_struct_variant("Name", 7, variant, fields.len())?;
                fields.iter().try_for_each(|(name, value)| form.serialize_field(name, value))?;
                form.end()
            }
        }
    }
}

fn trees() -> impl Strategy<Value = Tree> {
    let name = || proptest::sample::select(&NAMES[..]);
    let leaf = prop_oneof![
        any::<bool>().prop_map(Tree::Bool),
        prop_oneof![any::<i128>(), -3..3i128].prop_map(Tree::Signed),
        prop_oneof![any::<u128>(), 0..3u128].prop_map(Tree::Unsigned),
        any::<u64>().prop_map(Tree::Float),
        Just(Tree::Float(f64::NAN.to_bits() | 1)),
        Just(Tree::Float((-0.0f64).to_bits())),
        any::<char>().prop_map(Tree::Char),
        prop_oneof!["\\PC*", "[ab:\0\u{8}]{0,4}", "a{120,140}"].prop_map(Tree::Str),
        vec(any::<u8>(), 0..6).prop_map(Tree::Bytes),
        Just(Tree::None),
        Just(Tree::Unit),
        name().prop_map(Tree::UnitVariant),
    ];
    leaf.prop_recursive(4, 40, 5, move |tree| {
        let trees = || vec(tree.clone(), 0..5);
        let fields = || vec((name(), tree.clone()), 0..4);
        let boxed = || tree.clone().prop_map(Box::new);
        prop_oneof![
            boxed().prop_map(Tree::Some),
            trees().prop_map(Tree::Seq),
            trees().prop_map(Tree::Tuple),
            vec((trees().prop_map(Tree::Tuple), trees().prop_map(Tree::Seq)), 0..4)
                .prop_map(Tree::Map),
            fields().prop_map(Tree::Struct),
            (name(), boxed()).prop_map(|(name, value)| Tree::NewtypeVariant(name, value)),
            (name(), trees()).prop_map(|(name, values)| Tree::TupleVariant(name, values)),
            (name(), fields()).prop_map(|(name, fields)| Tree::StructVariant(name, fields)),
        ]
    })
}

/// Returns the encoding of several trees, one after the other.
fn bytes_of(trees: &[Tree]) -> Vec<u8> {
    let mut bytes = KeyBytes::default();
    for tree in trees {
        tree.serialize(KeySerializer(&mut bytes)).expect("encodes");
    }
    bytes.to_vec()
}
