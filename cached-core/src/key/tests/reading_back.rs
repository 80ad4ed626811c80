//! The encoding is injective, because it can be decoded.

use super::*;
use crate::key::serializer::{
    BYTES, CHAR, FALSE, FLOAT, MAP, NEGATIVE, NEWTYPE_VARIANT, NON_NEGATIVE, STR, STRUCT,
    STRUCT_VARIANT, TRUE, TUPLE, TUPLE_VARIANT, UNIT, UNIT_VARIANT,
};

/// A decoder for keys. It follows the documented rules and shares no code with the encoder.
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
        assert_ne!(bytes.first(), Some(&0), "the number is in its fewest bytes");
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
            tag => panic!("{tag} is not a tag"),
        }
    }
}

/// Returns the tree in the form that its key stands for: integers by value, one NaN, and entries
/// and fields sorted.
fn canonical(tree: &Tree) -> Tree {
    let all = |trees: &[Tree]| trees.iter().map(canonical).collect::<Vec<_>>();
    let fields = |fields: &[(&'static str, Tree)]| {
        let mut fields: Vec<_> =
            fields.iter().map(|(name, value)| (*name, canonical(value))).collect();
        fields.sort();
        fields
    };
    match tree {
        Tree::Signed(value) if *value >= 0 => Tree::Unsigned(*value as u128),
        Tree::Float(bits) if f64::from_bits(*bits).is_nan() => Tree::Float(0x7ff8_0000_0000_0000),
        Tree::Some(value) => Tree::Some(Box::new(canonical(value))),
        Tree::Seq(values) => Tree::Seq(all(values)),
        Tree::Tuple(values) => Tree::Tuple(all(values)),
        Tree::Map(entries) => {
            let mut entries: Vec<_> =
                entries.iter().map(|(k, v)| (canonical(k), canonical(v))).collect();
            entries.sort();
            Tree::Map(entries)
        }
        Tree::Struct(all) => Tree::Struct(fields(all)),
        Tree::NewtypeVariant(name, value) => Tree::NewtypeVariant(name, Box::new(canonical(value))),
        Tree::TupleVariant(name, values) => Tree::TupleVariant(name, all(values)),
        Tree::StructVariant(name, all) => Tree::StructVariant(name, fields(all)),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn an_encoded_value_can_be_decoded(trees in vec(trees(), 0..5)) {
        let bytes = bytes_of(&trees);
        let mut reader = Reader(&bytes);
        for tree in &trees {
            prop_assert_eq!(canonical(&reader.tree()), canonical(tree));
        }
        prop_assert!(reader.0.is_empty());
    }

    #[test]
    fn the_order_of_fields_and_entries_does_not_matter(
        fields in vec((proptest::sample::select(&NAMES[..]), trees()), 0..5),
    ) {
        let reversed: Vec<_> = fields.iter().rev().cloned().collect();
        prop_assert_eq!(bytes_of(&[Tree::Struct(fields)]), bytes_of(&[Tree::Struct(reversed)]));
    }
}
