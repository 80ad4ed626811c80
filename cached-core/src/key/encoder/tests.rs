//! The encoding is injective (what is encoded can be read back) and stays what it is (golden
//! vectors, kept for good).

use std::collections::{BTreeMap, HashMap};

use proptest::collection::vec;
use proptest::prelude::*;
use serde::Serialize;
use serde::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleVariant,
};

use super::*;
#[cfg(feature = "memcached")]
use crate::key::{Digest, Key};
use crate::key::{FORMAT, canonical, hash_of};

/// Any value of the serde data model, as far as keys tell values apart.
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
            // The narrowest width, to show that it does not matter.
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

/// Reads keys back, by the rules of the encoding and without its code.
struct Reader<'b>(&'b [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().expect("a byte");
        self.0 = rest;
        *first
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken.to_vec()
    }

    fn counted(&mut self) -> Vec<u8> {
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return self.take(length);
            }
        }
    }

    fn text(&mut self) -> String {
        assert_eq!(self.byte(), STR);
        String::from_utf8(self.counted()).expect("UTF-8")
    }

    fn name(&mut self) -> &'static str {
        let text = self.text();
        NAMES.into_iter().find(|name| *name == text).expect("one of the names")
    }

    fn until_end<T>(&mut self, mut read: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let mut all = Vec::new();
        while self.0[0] != END {
            all.push(read(self));
        }
        self.byte();
        all
    }

    fn magnitude(&mut self, length: u8) -> u128 {
        let bytes = self.take(length.into());
        assert_ne!(bytes.first(), Some(&0), "shortest form");
        bytes.into_iter().fold(0, |value, byte| (value << 8) | u128::from(byte))
    }

    fn tree(&mut self) -> Tree {
        match self.byte() {
            NONE => Tree::None,
            SOME => Tree::Some(Box::new(self.tree())),
            UNIT => Tree::Unit,
            FALSE => Tree::Bool(false),
            TRUE => Tree::Bool(true),
            FLOAT => Tree::Float(u64::from_be_bytes(self.take(8).try_into().expect("eight"))),
            CHAR => {
                let code = u32::from_be_bytes(self.take(4).try_into().expect("four"));
                Tree::Char(char::from_u32(code).expect("a char"))
            }
            STR => Tree::Str(String::from_utf8(self.counted()).expect("UTF-8")),
            BYTES => Tree::Bytes(self.counted()),
            SEQ => Tree::Seq(self.until_end(Reader::tree)),
            TUPLE => Tree::Tuple(self.until_end(Reader::tree)),
            MAP => Tree::Map(self.until_end(|reader| (reader.tree(), reader.tree()))),
            STRUCT => Tree::Struct(self.until_end(|reader| (reader.name(), reader.tree()))),
            UNIT_VARIANT => Tree::UnitVariant(self.name()),
            NEWTYPE_VARIANT => Tree::NewtypeVariant(self.name(), Box::new(self.tree())),
            TUPLE_VARIANT => Tree::TupleVariant(self.name(), self.until_end(Reader::tree)),
            STRUCT_VARIANT => Tree::StructVariant(
                self.name(),
                self.until_end(|reader| (reader.name(), reader.tree())),
            ),
            tag @ NON_NEGATIVE..=0x30 => Tree::Unsigned(self.magnitude(tag - NON_NEGATIVE)),
            tag @ NEGATIVE..=0x50 => Tree::Signed(!(self.magnitude(tag - NEGATIVE) as i128)),
            tag => panic!("no tag: {tag}"),
        }
    }
}

/// What a key keeps of a tree: integers by value, one NaN, entries and fields in any order.
fn kept(tree: &Tree) -> Tree {
    let all = |trees: &[Tree]| trees.iter().map(kept).collect::<Vec<_>>();
    let fields = |fields: &[(&'static str, Tree)]| {
        let mut fields: Vec<_> = fields.iter().map(|(name, value)| (*name, kept(value))).collect();
        fields.sort();
        fields
    };
    match tree {
        Tree::Signed(value) if *value >= 0 => Tree::Unsigned(*value as u128),
        Tree::Float(bits) if f64::from_bits(*bits).is_nan() => Tree::Float(0x7ff8_0000_0000_0000),
        Tree::Some(value) => Tree::Some(Box::new(kept(value))),
        Tree::Seq(values) => Tree::Seq(all(values)),
        Tree::Tuple(values) => Tree::Tuple(all(values)),
        Tree::Map(entries) => {
            let mut entries: Vec<_> = entries.iter().map(|(k, v)| (kept(k), kept(v))).collect();
            entries.sort();
            Tree::Map(entries)
        }
        Tree::Struct(all) => Tree::Struct(fields(all)),
        Tree::NewtypeVariant(name, value) => Tree::NewtypeVariant(name, Box::new(kept(value))),
        Tree::TupleVariant(name, values) => Tree::TupleVariant(name, all(values)),
        Tree::StructVariant(name, all) => Tree::StructVariant(name, fields(all)),
        other => other.clone(),
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

/// Keys that a program may well ask for have hashes of their own, and spread over the bits that
/// tables look at.
#[test]
fn hashes_tell_keys_apart() {
    let mut hashes = std::collections::HashSet::new();
    let mut sets = [[0u32; 512]; 2];
    let (keys, mut collisions) = (20_000, 0);
    let mut add = |parts: &[&dyn KeyPart]| {
        let mut encoder = Encoder::default();
        encoder.key(3, parts, None).expect("encodes");
        let hash = hash_of(encoder.finish());
        collisions += i32::from(!hashes.insert(hash));
        sets[0][hash as usize >> 23 & 511] += 1;
        sets[1][hash as usize >> 14 & 511] += 1;
    };
    for number in 0..keys {
        match number % 5 {
            0 => add(&[&number]),
            1 => add(&[&format!("{number}")]),
            2 => add(&[&format!("payment-{number:08}"), &true]),
            3 => add(&[&format!("{number:040}"), &Some(number % 7)]),
            _ => add(&[&(number, "x".repeat(200))]),
        }
    }
    assert!(collisions <= 2, "{collisions} of {keys} keys have another's hash");
    let fair = keys / 512;
    for count in sets.as_flattened() {
        assert!((fair / 3..fair * 3).contains(&(*count as i32)), "{count} keys in one of 512 sets");
    }
}

/// Also with its hash a key is the same whatever order a map is walked in, wherever it stands in the
/// key, and however long the key is.
#[test]
fn a_map_is_one_key_in_every_order_its_hash_included() {
    for (entries, value) in [(2, 1), (20, 5), (3, 60), (7, 20)] {
        let entry = |number: usize| (Tree::Str(format!("{number}")), Tree::Str("x".repeat(value)));
        let forward: Vec<_> = (0..entries).map(entry).collect();
        let backward: Vec<_> = (0..entries).rev().map(entry).collect();
        let key = |map: Vec<(Tree, Tree)>| {
            let mut encoder = Encoder::default();
            let parts: [&dyn KeyPart; 3] = [&"before", &Tree::Map(map), &"after"];
            encoder.key(0, &parts, Some(&"version")).expect("encodes");
            encoder.finish().to_vec()
        };
        assert_eq!(key(forward), key(backward), "{entries} entries of {value} bytes");
    }
}

fn bytes(name: &str, identifier: &[&dyn KeyPart], version: Option<&dyn KeyPart>) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encoder.key(0, identifier, version).expect("encodes");
    canonical(name, encoder.finish())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_can_be_read_back(
        name in "[a-z0-9][a-z0-9._-]{0,47}",
        identifier in vec(trees(), 0..4),
        version in proptest::option::of(trees()),
    ) {
        let parts: Vec<&dyn KeyPart> = identifier.iter().map(|tree| tree as &dyn KeyPart).collect();
        let key = bytes(&name, &parts, version.as_ref().map(|tree| tree as &dyn KeyPart));
        let mut reader = Reader(&key);
        prop_assert_eq!(reader.byte(), FORMAT);
        prop_assert_eq!(reader.text(), name);
        prop_assert_eq!(reader.byte(), SEQ);
        let read = reader.until_end(|reader| kept(&reader.tree()));
        prop_assert_eq!(read, identifier.iter().map(kept).collect::<Vec<_>>());
        let read = match reader.byte() {
            NONE => None,
            _ => Some(kept(&reader.tree())),
        };
        prop_assert_eq!(read, version.as_ref().map(kept));
        prop_assert!(reader.0.is_empty());
    }

    #[test]
    fn the_order_of_fields_and_entries_does_not_matter(
        fields in vec((proptest::sample::select(&NAMES[..]), trees()), 0..5),
    ) {
        let reversed: Vec<_> = fields.iter().rev().cloned().collect();
        let key = |fields| bytes("n", &[&Tree::Struct(fields)], None);
        prop_assert_eq!(key(fields), key(reversed));
    }
}

#[test]
fn values_that_look_alike_differ() {
    let a = "a".to_owned();
    let alike: Vec<(&str, Vec<u8>)> = vec![
        ("1", bytes("n", &[&1], None)),
        ("\"1\"", bytes("n", &[&"1"], None)),
        ("true", bytes("n", &[&true], None)),
        ("None", bytes("n", &[&None::<u8>], None)),
        ("Some(None)", bytes("n", &[&Some(None::<u8>)], None)),
        ("Some(1)", bytes("n", &[&Some(1)], None)),
        ("()", bytes("n", &[&()], None)),
        ("nothing", bytes("n", &[], None)),
        ("version 1", bytes("n", &[], Some(&1))),
        ("1 and version 1", bytes("n", &[&1], Some(&1))),
        ("-1", bytes("n", &[&-1], None)),
        ("1.0", bytes("n", &[&1.0], None)),
        ("'a'", bytes("n", &[&'a'], None)),
        ("\"a\"", bytes("n", &[&a], None)),
        ("[1]", bytes("n", &[&[1].as_slice()], None)),
        ("(1,)", bytes("n", &[&(1,)], None)),
        ("\"ab\", \"c\"", bytes("n", &[&"ab", &"c"], None)),
        ("\"a\", \"bc\"", bytes("n", &[&"a", &"bc"], None)),
        ("(\"ab\", \"c\")", bytes("n", &[&("ab", "c")], None)),
        ("(\"a\", \"bc\")", bytes("n", &[&("a", "bc")], None)),
        ("0.0", bytes("n", &[&0.0], None)),
        ("-0.0", bytes("n", &[&-0.0], None)),
    ];
    for (index, (a, a_bytes)) in alike.iter().enumerate() {
        for (b, b_bytes) in &alike[index + 1..] {
            assert_ne!(a_bytes, b_bytes, "{a} and {b}");
        }
    }
    assert_eq!(bytes("n", &[&1u8], None), bytes("n", &[&1i64], None));
    assert_eq!(bytes("n", &[&1.5f32], None), bytes("n", &[&1.5f64], None));
    assert_eq!(bytes("n", &[&f64::NAN], None), bytes("n", &[&-f64::NAN], None));
}

mod before {
    #[derive(serde::Serialize)]
    pub(super) enum State {
        Processing,
        Paid(u8),
        Refunded { by: u8, why: u8 },
    }
}

mod after {
    #[derive(serde::Serialize)]
    pub(super) enum State {
        Refunded {
            why: u8,
            by: u8,
        },
        Paid(u8),
        #[allow(dead_code)]
        Disputed,
        Processing,
    }
}

#[test]
fn reordering_an_enum_changes_no_key() {
    let key = |part: &dyn KeyPart| bytes("payment", &[&"7"], Some(part));
    assert_eq!(key(&before::State::Processing), key(&after::State::Processing));
    assert_eq!(key(&before::State::Paid(1)), key(&after::State::Paid(1)));
    assert_eq!(
        key(&before::State::Refunded { by: 1, why: 2 }),
        key(&after::State::Refunded { why: 2, by: 1 })
    );
}

#[test]
fn hash_maps_of_any_order_are_one_key() {
    let forward: HashMap<u32, u32> = (0..50).map(|n| (n, n * n)).collect();
    let backward: HashMap<u32, u32> = (0..50).rev().map(|n| (n, n * n)).collect();
    let sorted: BTreeMap<u32, u32> = forward.clone().into_iter().collect();
    assert_eq!(bytes("n", &[&forward], None), bytes("n", &[&backward], None));
    assert_eq!(bytes("n", &[&forward], None), bytes("n", &[&sorted], None));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes and digests that must never change: entries in memcached outlive a build.
#[test]
fn golden_vectors() {
    let map = BTreeMap::from([("b", -1), ("a", 300)]);
    let vectors: [(&str, Vec<u8>, &str, &str); 6] = [
        (
            "payment(\"7\", Paid(1))",
            bytes("payment", &[&"7"], Some(&before::State::Paid(1))),
            "0108077061796d656e740a08013700020f0804506169642101",
            "b6ac209172ac7b44dbd77ae3ef1a829a0cc8d5c05822bfbe0a599645a3b8a2ff",
        ),
        (
            "order(42)",
            bytes("order", &[&42u64], None),
            "0108056f726465720a212a0001",
            "5452028c9219d45fcc53c29feee4fc1c70b26a980ae0dcd6433b7ad53f8709bc",
        ),
        (
            "user(None, Some(\"é\"))",
            bytes("user", &[&None::<u8>, &Some("é")], None),
            "010804757365720a01020802c3a90001",
            "671e3fcb1c2dfeee9849a69d401e88f827bfeb993c6d356ea14fd717f5157752",
        ),
        (
            "map",
            bytes("map", &[&map], Some(&(true, 'x', 1.5, ()))),
            "0108036d61700a0c08016122012c080162400000020b050700000078063ff80000000000000300",
            "c89da53cebe1137fa1e0bf6febc7b1aaaeca8235c029f81304fce5bbf982e373",
        ),
        (
            "refund",
            bytes("refund", &[], Some(&before::State::Refunded { by: 0, why: 255 })),
            "010806726566756e640a0002110808526566756e6465640802627920080377687921ff00",
            "7ca9bb9f9c55dcbbfd81bac489c82459eeb4c46316559c2505e103b1796799e7",
        ),
        (
            "extremes",
            bytes("extremes", &[&i128::MIN, &u128::MAX, &i64::MIN, &0], None),
            "01080865787472656d65730a507fffffffffffffffffffffffffffffff30ffffffffffffffffffffffffffffffff487fffffffffffffff200001",
            "e7bbb2f8b42de03af30b42ced2e341ec717248aca1136051af8f750d58f2106f",
        ),
    ];
    for (what, bytes, expected, _) in &vectors {
        assert_eq!(hex(bytes), *expected, "{what}");
    }
    #[cfg(feature = "memcached")]
    for (what, bytes, _, digest) in &vectors {
        assert_eq!(Digest::of(bytes).to_string(), *digest, "{what}");
    }
}

/// Of keys in memcached, with the fingerprint of the value's type.
#[cfg(feature = "memcached")]
#[test]
fn golden_keys_in_memcached() {
    let order = bytes("order", &[&42u64], None);
    let golden = [
        (
            Key::new(Some("shop".into()), "order", &order, [0; 8]),
            "shop:order:8eb0bc27d7eb673849e66e23a6d050c8e477f2e8a8ab2fa862d47252ec77ad34",
        ),
        (
            Key::new(None, "order", &order, *b"\x01\x23\x45\x67\x89\xab\xcd\xef"),
            "order:a3fc1207c93e3f0fce31fd7197b4e651fe832a23492cf52bc1327109c0819792",
        ),
        (
            Key::new(None, "order", &order, crate::fingerprint::of::<Vec<String>>()),
            "order:da732d0e2a614e4b58275d59d17a9fa6f70556e17fe55ffedbff4a04cdf71e2c",
        ),
    ];
    for (key, expected) in golden {
        assert_eq!(key.to_string(), expected);
    }
}
