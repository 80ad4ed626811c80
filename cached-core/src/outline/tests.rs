//! Tests that a type gets no data of a build in which the type was different.

#![allow(dead_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::*;

/// Encodes `value` and decodes the payload as the type `Read`. Returns `None` if a step is refused.
fn read<V: Serialize + DeserializeOwned, Read: DeserializeOwned>(value: &V) -> Option<Read> {
    let payload = codec::encode(value).expect("it encodes");
    let (_, entries) = decode_recording::<V>(&payload).expect("it reads back");
    decode_matching(Outline::new(&entries), &payload)
}

/// Returns the number of entries in the outline of `value`.
fn entry_count<V: Serialize + DeserializeOwned>(value: &V) -> usize {
    let payload = codec::encode(value).expect("it encodes");
    decode_recording::<V>(&payload).expect("it reads back").1.len() / ENTRY_BYTES
}

thread_local! {
    /// The data that the codec gave to a [`LeafSpy`], as text.
    static GIVEN_DATA: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A value without members that records the data from which it is decoded.
#[derive(Debug, Clone, PartialEq)]
struct LeafSpy<T>(T);

impl<T: Serialize> Serialize for LeafSpy<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de> + std::fmt::Debug> Deserialize<'de> for LeafSpy<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LeafSpy<T>, D::Error> {
        let value = T::deserialize(deserializer)?;
        GIVEN_DATA.with_borrow_mut(|given| given.push(format!("{value:?}")));
        Ok(LeafSpy(value))
    }
}

/// Defines a module for each build, with that build's type `Value` and a value of the type.
macro_rules! builds {
    ($($build:ident: [$($items:item)*] $value:expr;)*) => {
        $(mod $build {
            use super::*;
            $(#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)] $items)*
            pub(super) fn stored() -> (Vec<u8>, Vec<u8>) {
                let value: Value = $value;
                let payload = codec::encode(&value).expect("it encodes");
                let (read, entries) = decode_recording::<Value>(&payload).expect("it reads back");
                assert_eq!(read, value);
                (payload, entries)
            }
            pub(super) fn reads(outline: Outline<'_>, payload: &[u8]) -> bool {
                decode_matching::<Value>(outline, payload).is_some()
            }
        })*

        #[test]
        fn data_of_other_builds_reaches_no_leaf() {
            let builds = [$((stringify!($build), $build::stored(), $build::reads as fn(_, &_) -> _)),*];
            for (writer, (payload, entries), _) in &builds {
                for (reader, _, reads) in &builds {
                    GIVEN_DATA.take();
                    let is_read = reads(Outline::new(entries), &payload[..]);
                    assert_eq!(is_read, writer == reader, "{writer} read by {reader}");
                    assert_eq!(!GIVEN_DATA.take().is_empty(), is_read, "{writer} read by {reader}");
                }
            }
        }
    };
}

builds! {
    base: [struct Value { a: LeafSpy<u8>, b: LeafSpy<String> }]
        Value { a: LeafSpy(1), b: LeafSpy("x".into()) };
    renamed_struct: [#[serde(rename = "Valued")] struct Value { a: LeafSpy<u8>, b: LeafSpy<String> }]
        Value { a: LeafSpy(1), b: LeafSpy("x".into()) };
    renamed_field: [struct Value { c: LeafSpy<u8>, b: LeafSpy<String> }]
        Value { c: LeafSpy(1), b: LeafSpy("x".into()) };
    swapped: [struct Value { b: LeafSpy<String>, a: LeafSpy<u8> }]
        Value { b: LeafSpy("x".into()), a: LeafSpy(1) };
    swapped_types: [struct Value { a: LeafSpy<String>, b: LeafSpy<u8> }]
        Value { a: LeafSpy("x".into()), b: LeafSpy(1) };
    added_before: [struct Value { z: u8, a: LeafSpy<u8>, b: LeafSpy<String> }]
        Value { z: 0, a: LeafSpy(1), b: LeafSpy("x".into()) };
    added_after: [struct Value { a: LeafSpy<u8>, b: LeafSpy<String>, z: u8 }]
        Value { a: LeafSpy(1), b: LeafSpy("x".into()), z: 0 };
    tuple: [struct Value(LeafSpy<u8>, LeafSpy<String>);]
        Value(LeafSpy(1), LeafSpy("x".into()));
    longer_tuple: [struct Value(LeafSpy<u8>, LeafSpy<String>, u8);]
        Value(LeafSpy(1), LeafSpy("x".into()), 0);
    wide: [struct Value(LeafSpy<u64>);] Value(LeafSpy(1));
    newtype: [struct Value(LeafSpy<u8>);] Value(LeafSpy(1));
    optional: [struct Value(Option<LeafSpy<u8>>);] Value(Some(LeafSpy(1)));
    twice_optional: [struct Value(Option<Option<LeafSpy<u8>>>);] Value(Some(Some(LeafSpy(1))));
    list: [struct Value(Vec<LeafSpy<u8>>);] Value(vec![LeafSpy(1)]);
    queue: [struct Value(std::collections::VecDeque<LeafSpy<u8>>);] Value([LeafSpy(1)].into());
    array: [struct Value([LeafSpy<u8>; 2]);] Value([LeafSpy(1), LeafSpy(2)]);
    longer_array: [struct Value([LeafSpy<u8>; 3]);] Value([LeafSpy(1), LeafSpy(2), LeafSpy(3)]);
    pair: [struct Value((LeafSpy<u8>, LeafSpy<u8>));] Value((LeafSpy(1), LeafSpy(2)));
    map: [struct Value(BTreeMap<u8, LeafSpy<u8>>);] Value([(1, LeafSpy(2))].into());
    map_of_text: [struct Value(BTreeMap<String, LeafSpy<u8>>);] Value([("a".into(), LeafSpy(2))].into());
    pairs: [struct Value(Vec<(u8, LeafSpy<u8>)>);] Value(vec![(1, LeafSpy(2))]);
    enumerated: [enum Value { A(LeafSpy<u8>), B }] Value::A(LeafSpy(1));
    other_variant: [enum Value { B, A(LeafSpy<u8>) }] Value::A(LeafSpy(1));
    renamed_variant: [enum Value { C(LeafSpy<u8>), B }] Value::C(LeafSpy(1));
    variant_of_two: [enum Value { A(LeafSpy<u8>, LeafSpy<u8>), B }] Value::A(LeafSpy(1), LeafSpy(2));
    variant_of_field: [enum Value { A { a: LeafSpy<u8> }, B }] Value::A { a: LeafSpy(1) };
    variant_of_other_field: [enum Value { A { b: LeafSpy<u8> }, B }] Value::A { b: LeafSpy(1) };
    nested: [struct Value { a: Inner } struct Inner { a: LeafSpy<u8> }]
        Value { a: Inner { a: LeafSpy(1) } };
    nested_otherwise: [struct Value { a: Inner } struct Inner { b: LeafSpy<u8> }]
        Value { a: Inner { b: LeafSpy(1) } };
    nested_by_another_name: [struct Value { a: Other } struct Other { a: LeafSpy<u8> }]
        Value { a: Other { a: LeafSpy(1) } };
}

#[test]
fn leaves_of_other_types_get_no_data() {
    #[derive(Serialize, Deserialize)]
    struct Old {
        at: String,
    }
    #[derive(Serialize, Deserialize)]
    #[serde(rename = "Old")]
    struct New {
        at: LeafSpy<String>,
    }
    GIVEN_DATA.take();
    assert!(read::<_, New>(&Old { at: "today".into() }).is_none());
    assert!(
        read::<_, HashMap<u8, LeafSpy<String>>>(&BTreeMap::from([(1u8, "today".to_owned())]))
            .is_none()
    );
    assert!(read::<_, Option<LeafSpy<String>>>(&Some("today".to_owned())).is_none());
    assert!(GIVEN_DATA.take().is_empty());
}

#[test]
fn variants_that_both_builds_have_are_read() {
    mod new {
        #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        pub(super) enum State {
            Open,
            Paid(u8),
            Refunded,
        }
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum State {
        Open,
        Paid(u8),
    }
    assert_eq!(read(&State::Paid(7)), Some(new::State::Paid(7)));
    assert_eq!(read(&new::State::Open), Some(State::Open));
    assert_eq!(read::<_, State>(&new::State::Refunded), None);
    assert_eq!(read::<_, Vec<State>>(&vec![new::State::Open, new::State::Refunded]), None);
}

#[test]
fn types_with_the_same_short_name_are_distinguished() {
    mod a {
        #[derive(serde::Serialize, serde::Deserialize)]
        pub(super) struct Code {
            pub(super) code: String,
        }
    }
    mod b {
        use super::LeafSpy;
        #[derive(serde::Serialize, serde::Deserialize)]
        pub(super) struct Code {
            pub(super) code: LeafSpy<String>,
        }
    }
    #[derive(Serialize, Deserialize)]
    struct Pair<A, B> {
        first: A,
        second: B,
    }
    let first = a::Code { code: "today".into() };
    let second = b::Code { code: LeafSpy("EUR".into()) };
    let payload = codec::encode(&Pair { first, second }).expect("it encodes");
    let (_, entries) = decode_recording::<Pair<a::Code, b::Code>>(&payload).expect("it reads back");
    let outline = Outline::new(&entries);
    assert!(decode_matching::<Pair<a::Code, b::Code>>(outline, &payload).is_some());
    GIVEN_DATA.take();
    assert!(decode_matching::<Pair<b::Code, a::Code>>(outline, &payload).is_none());
    assert!(GIVEN_DATA.take().is_empty());
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
struct Tree {
    children: Vec<Tree>,
    label: Option<Box<Tree>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct NewtypeChain(Option<Box<NewtypeChain>>);

#[test]
fn recursive_types_have_small_outlines() {
    let leaf = || Tree { label: Some(Box::default()), ..Tree::default() };
    let two = Tree { children: vec![leaf()], label: Some(Box::new(leaf())) };
    let four =
        Tree { children: vec![two.clone(), two.clone()], label: Some(Box::new(two.clone())) };
    assert_eq!(entry_count(&two), entry_count(&four));
    assert_eq!(read(&four), Some(four.clone()));
    let chain =
        |depth| (0..depth).fold(NewtypeChain(None), |inner, _| NewtypeChain(Some(Box::new(inner))));
    assert_eq!(entry_count(&chain(3)), entry_count(&chain(50)));
    assert_eq!(read(&chain(50)), Some(chain(50)));
}

#[test]
fn a_value_that_is_nested_too_deeply_has_no_outline() {
    let chain =
        |depth| (0..depth).fold(NewtypeChain(None), |inner, _| NewtypeChain(Some(Box::new(inner))));
    let deep = codec::encode(&chain(MAX_DEPTH)).expect("it encodes");
    assert!(decode_recording::<NewtypeChain>(&deep).is_none());
}

#[test]
fn an_ignored_error_is_still_a_refusal() {
    struct Lenient(u8);
    impl<'de> Deserialize<'de> for Lenient {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Lenient, D::Error> {
            Ok(Lenient(u8::deserialize(deserializer).unwrap_or(9)))
        }
    }
    mod other {
        #[derive(serde::Serialize, serde::Deserialize)]
        pub(super) struct Lenient(pub(super) ());
    }
    assert!(read::<_, Lenient>(&other::Lenient(())).is_none());
}

#[test]
fn lists_and_sets_are_different_types() {
    assert!(read::<_, Vec<u8>>(&HashSet::from([1u8])).is_none());
    assert!(read::<_, HashSet<u8>>(&vec![1u8]).is_none());
}

#[test]
fn short_names_have_no_paths() {
    for (name, short) in [
        ("u8", "u8"),
        ("alloc::vec::Vec<shop::model::Order>", "Vec<Order>"),
        ("(a::B, [c::d::E; 3])", "(B, [E; 3])"),
        ("<impl a::B for c::D>::f::__Wrap<'_>", "<impl B for D>__Wrap<'_>"),
        ("", ""),
        ("::", ""),
    ] {
        assert_eq!(short_name(name), short);
    }
}

/// Values in memcached are stored with their outlines, so the outline of a value must never change.
#[test]
fn outlines_never_change() {
    fn hash<V: Serialize + DeserializeOwned>(value: &V) -> u64 {
        let payload = codec::encode(value).expect("it encodes");
        Outline::new(&decode_recording::<V>(&payload).expect("it reads back").1).hash
    }
    let tree = Tree { children: vec![Tree::default()], label: Some(Box::default()) };
    assert_eq!(hash(&tree), 8257243279389529789);
    assert_eq!(hash(&(7u32, Some("text".to_owned()))), 10540640714996831676);
    assert_eq!(
        hash(&BTreeMap::from([(1u8, [Ok::<u8, String>(1), Err("no".into())])])),
        1984479588303580011
    );
}
