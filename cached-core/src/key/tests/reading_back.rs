//! Tests that every encoded key can be decoded. It follows that two different keys never have the
//! same bytes.

use super::*;
use crate::key::serializer::{
    BYTES, CHAR, FALSE, FLOAT, MAP, NEGATIVE, NEWTYPE_VARIANT, NON_NEGATIVE, STR, STRUCT,
    STRUCT_VARIANT, TRUE, TUPLE, TUPLE_VARIANT, UNIT, UNIT_VARIANT,
};

/// A decoder for keys that follows the documented rules and shares no code with the encoder.
struct KeyDecoder<'b>(&'b [u8]);

impl KeyDecoder<'_> {
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

    fn length_prefixed(&mut self) -> Vec<u8> {
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
        String::from_utf8(self.length_prefixed()).expect("the text is UTF-8")
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
        assert_ne!(bytes.first(), Some(&0), "a number has no leading zero bytes");
        bytes.into_iter().fold(0, |value, byte| (value << 8) | u128::from(byte))
    }

    fn value(&mut self) -> SerdeValue {
        match self.byte() {
            NONE => SerdeValue::None,
            SOME => SerdeValue::Some(Box::new(self.value())),
            UNIT => SerdeValue::Unit,
            FALSE => SerdeValue::Bool(false),
            TRUE => SerdeValue::Bool(true),
            FLOAT => SerdeValue::Float(u64::from_be_bytes(self.take(8).try_into().expect("eight"))),
            CHAR => {
                let code = u32::from_be_bytes(self.take(4).try_into().expect("four"));
                SerdeValue::Char(char::from_u32(code).expect("a char"))
            }
            STR => SerdeValue::Str(
                String::from_utf8(self.length_prefixed()).expect("the text is UTF-8"),
            ),
            BYTES => SerdeValue::Bytes(self.length_prefixed()),
            SEQ => SerdeValue::Seq(self.until_end(KeyDecoder::value)),
            TUPLE => SerdeValue::Tuple(self.until_end(KeyDecoder::value)),
            MAP => SerdeValue::Map(self.until_end(|decoder| (decoder.value(), decoder.value()))),
            STRUCT => {
                SerdeValue::Struct(self.until_end(|decoder| (decoder.name(), decoder.value())))
            }
            UNIT_VARIANT => SerdeValue::UnitVariant(self.name()),
            NEWTYPE_VARIANT => SerdeValue::NewtypeVariant(self.name(), Box::new(self.value())),
            TUPLE_VARIANT => {
                SerdeValue::TupleVariant(self.name(), self.until_end(KeyDecoder::value))
            }
            STRUCT_VARIANT => SerdeValue::StructVariant(
                self.name(),
                self.until_end(|decoder| (decoder.name(), decoder.value())),
            ),
            tag @ NON_NEGATIVE..=0x30 => SerdeValue::Unsigned(self.magnitude(tag - NON_NEGATIVE)),
            tag @ NEGATIVE..=0x50 => SerdeValue::Signed(!(self.magnitude(tag - NEGATIVE) as i128)),
            tag => panic!("{tag} is not a tag"),
        }
    }
}

/// Brings `value` into the form that decoding its key gives: only negative integers are `Signed`,
/// all NaNs are one value, and map entries and struct fields are sorted.
fn canonical(value: &SerdeValue) -> SerdeValue {
    let all = |values: &[SerdeValue]| values.iter().map(canonical).collect::<Vec<_>>();
    let fields = |fields: &[(&'static str, SerdeValue)]| {
        let mut fields: Vec<_> =
            fields.iter().map(|(name, value)| (*name, canonical(value))).collect();
        fields.sort();
        fields
    };
    match value {
        SerdeValue::Signed(value) if *value >= 0 => SerdeValue::Unsigned(*value as u128),
        SerdeValue::Float(bits) if f64::from_bits(*bits).is_nan() => {
            SerdeValue::Float(0x7ff8_0000_0000_0000)
        }
        SerdeValue::Some(value) => SerdeValue::Some(Box::new(canonical(value))),
        SerdeValue::Seq(values) => SerdeValue::Seq(all(values)),
        SerdeValue::Tuple(values) => SerdeValue::Tuple(all(values)),
        SerdeValue::Map(entries) => {
            let mut entries: Vec<_> =
                entries.iter().map(|(k, v)| (canonical(k), canonical(v))).collect();
            entries.sort();
            SerdeValue::Map(entries)
        }
        SerdeValue::Struct(all) => SerdeValue::Struct(fields(all)),
        SerdeValue::NewtypeVariant(name, value) => {
            SerdeValue::NewtypeVariant(name, Box::new(canonical(value)))
        }
        SerdeValue::TupleVariant(name, values) => SerdeValue::TupleVariant(name, all(values)),
        SerdeValue::StructVariant(name, all) => SerdeValue::StructVariant(name, fields(all)),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn an_encoded_value_can_be_decoded(values in vec(serde_values(), 0..5)) {
        let bytes = bytes_of(&values);
        let mut decoder = KeyDecoder(&bytes);
        for value in &values {
            prop_assert_eq!(canonical(&decoder.value()), canonical(value));
        }
        prop_assert!(decoder.0.is_empty());
    }

    #[test]
    fn the_order_of_fields_changes_no_key(
        fields in vec((proptest::sample::select(&NAMES[..]), serde_values()), 0..5),
    ) {
        let reversed: Vec<_> = fields.iter().rev().cloned().collect();
        prop_assert_eq!(bytes_of(&[SerdeValue::Struct(fields)]), bytes_of(&[SerdeValue::Struct(reversed)]));
    }
}
