//! Tests that the codec reads back what it wrote, and that no bytes make the codec panic or
//! allocate much memory.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;
use std::net::IpAddr;

use proptest::prelude::*;
use serde::de::{DeserializeOwned, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::*;

fn decode<V: DeserializeOwned>(bytes: &[u8]) -> Option<V> {
    decode_seed(bytes, PhantomData)
}

fn check<V: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: V) {
    let bytes = encode(&value).expect("the value encodes");
    assert_eq!(decode(&bytes), Some(value), "the value reads back from {bytes:x?}");
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum UntaggedEnum {
    Address(IpAddr),
    Number(i64),
    Nested(BTreeMap<String, Vec<UntaggedEnum>>),
    Unit,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct FlatStruct {
    id: u64,
    #[serde(flatten)]
    rest: HashMap<String, UntaggedEnum>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[test]
fn every_encoded_value_reads_back() {
    let address: IpAddr = [127, 0, 0, 1].into();
    check(UntaggedEnum::Address(address));
    check(vec![UntaggedEnum::Number(i64::MIN), UntaggedEnum::Unit]);
    let nested = BTreeMap::from([("a".to_owned(), vec![UntaggedEnum::Address([0; 16].into())])]);
    check(UntaggedEnum::Nested(nested.clone()));
    for note in [None, Some("x".repeat(70_000))] {
        check(FlatStruct {
            id: 7,
            rest: [("b".into(), UntaggedEnum::Nested(nested.clone()))].into(),
            note,
        });
    }
    check((u64::MAX, i64::MIN, f32::MIN, f64::MAX, i128::MIN, u128::MAX, 'é', true, ()));
    check((0..70_000).collect::<Vec<u32>>());
    check((0..70_000).map(|n| (n, -n)).collect::<BTreeMap<i32, i32>>());
}

#[test]
fn left_over_bytes_are_refused() {
    let mut bytes = encode(&UntaggedEnum::Number(7)).expect("the value encodes");
    bytes.push(0xc0);
    assert_eq!(decode::<UntaggedEnum>(&bytes), None);

    /// A type whose `Deserialize` ignores an error.
    #[derive(Debug)]
    struct ErrorIgnoringValue;
    impl<'de> Deserialize<'de> for ErrorIgnoringValue {
        fn deserialize<D: serde::Deserializer<'de>>(
            deserializer: D,
        ) -> Result<ErrorIgnoringValue, D::Error> {
            let _ = i128::deserialize(deserializer);
            Ok(ErrorIgnoringValue)
        }
    }
    // These bytes begin with the marker of a byte string. Reading an `i128` fails, and leaves the
    // string's data unread.
    assert!(decode::<ErrorIgnoringValue>(&[0xc4, 3, 0xc0, 0xc0, 0xc0]).is_none());
}

#[test]
fn deep_nesting_is_refused() {
    let nested = |depth: usize| [vec![0x91; depth], vec![0xc0]].concat();
    assert!(decode::<IgnoredAny>(&nested(MAX_DEPTH)).is_some());
    assert!(decode::<IgnoredAny>(&nested(MAX_DEPTH + 1)).is_none());
    assert!(decode::<IgnoredAny>(&nested(10_000_000)).is_none());
}

/// A type's `Deserialize` might trust the length of a sequence and allocate memory for all members
/// at once. The codec must therefore refuse a wrong length before the type sees it.
#[test]
fn no_type_sees_a_wrong_length() {
    thread_local!(static HINT: Cell<usize> = const { Cell::new(0) });
    struct GreedyList;
    impl<'de> Visitor<'de> for GreedyList {
        type Value = GreedyList;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a sequence")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<GreedyList, A::Error> {
            HINT.set(seq.size_hint().unwrap_or_default());
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(GreedyList)
        }
    }
    impl<'de> Deserialize<'de> for GreedyList {
        fn deserialize<D: serde::Deserializer<'de>>(
            deserializer: D,
        ) -> Result<GreedyList, D::Error> {
            deserializer.deserialize_seq(GreedyList)
        }
    }
    assert!(decode::<GreedyList>(&[0xdd, 0, 0, 0, 2, 1, 2]).is_some());
    assert_eq!(HINT.replace(0), 2);
    for head in [0xdd, 0xdf, 0xdb, 0xc6] {
        assert!(decode::<GreedyList>(&[head, 0xff, 0xff, 0xff, 0xff, 1, 2]).is_none());
    }
    assert_eq!(HINT.get(), 0);
}

proptest! {
    /// The check `is_one_value` accepts exactly the bytes that the codec reads to their end, apart
    /// from extension types, which only the check refuses. Neither the check nor the codec panics.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut deserializer = Deserializer::from_read_ref(&bytes[..]);
        let is_read =
            IgnoredAny::deserialize(&mut deserializer).is_ok() && is_at_end(&mut deserializer);
        let is_well_formed = well_formed::is_one_value(&bytes, MAX_DEPTH);
        let has_extension = bytes.iter().any(|byte| matches!(byte, 0xc7..=0xc9 | 0xd4..=0xd8));
        prop_assert!(is_read == is_well_formed || has_extension, "the check and the codec disagree on {bytes:x?}");
        let _ = decode::<FlatStruct>(&bytes);
        let _ = decode::<UntaggedEnum>(&bytes);
        let _ = decode::<(u128, Option<Vec<char>>)>(&bytes);
    }

    #[test]
    fn a_changed_byte_causes_no_panic(at in 0usize..200, byte in any::<u8>()) {
        let rest = [("b".into(), UntaggedEnum::Number(7)), ("c".into(), UntaggedEnum::Unit)].into();
        let mut bytes = encode(&vec![FlatStruct { id: 7, rest, note: Some("text".into()) }; 3])
            .expect("the value encodes");
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = decode::<Vec<FlatStruct>>(&bytes);
    }
}
