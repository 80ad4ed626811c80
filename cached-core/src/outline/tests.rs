#![allow(dead_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::*;

/// Returns what another process reads, which has decoded no such value before. `None` is a refusal.
fn read<W: Serialize + DeserializeOwned, V: DeserializeOwned>(value: &W) -> Option<V> {
    let payload = codec::encode(value).expect("it encodes");
    let (_, entries) = decode_recording::<W>(&payload).expect("it reads back");
    decode_matching(Outline::new(&entries), &payload)
}

fn entries_of<V: Serialize + DeserializeOwned>(value: &V) -> usize {
    let payload = codec::encode(value).expect("it encodes");
    decode_recording::<V>(&payload).expect("it reads back").1.len() / ENTRY_BYTES
}

thread_local! {
    /// The data that each [`Seen`] was given.
    static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A leaf that records the data it is given.
#[derive(Debug, Clone, PartialEq)]
struct Seen<T>(T);

impl<T: Serialize> Serialize for Seen<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de> + std::fmt::Debug> Deserialize<'de> for Seen<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Seen<T>, D::Error> {
        let value = T::deserialize(deserializer)?;
        SEEN.with_borrow_mut(|seen| seen.push(format!("{value:?}")));
        Ok(Seen(value))
    }
}

/// Defines one type as several builds have it, each with a value.
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
                    SEEN.take();
                    let is_read = reads(Outline::new(entries), &payload[..]);
                    assert_eq!(is_read, writer == reader, "{writer} read by {reader}");
                    assert_eq!(!SEEN.take().is_empty(), is_read, "{writer} read by {reader}");
                }
            }
        }
    };
}

builds! {
    base: [struct Value { a: Seen<u8>, b: Seen<String> }]
        Value { a: Seen(1), b: Seen("x".into()) };
    renamed_struct: [#[serde(rename = "Valued")] struct Value { a: Seen<u8>, b: Seen<String> }]
        Value { a: Seen(1), b: Seen("x".into()) };
    renamed_field: [struct Value { c: Seen<u8>, b: Seen<String> }]
        Value { c: Seen(1), b: Seen("x".into()) };
    swapped: [struct Value { b: Seen<String>, a: Seen<u8> }]
        Value { b: Seen("x".into()), a: Seen(1) };
    swapped_types: [struct Value { a: Seen<String>, b: Seen<u8> }]
        Value { a: Seen("x".into()), b: Seen(1) };
    added_before: [struct Value { z: u8, a: Seen<u8>, b: Seen<String> }]
        Value { z: 0, a: Seen(1), b: Seen("x".into()) };
    added_after: [struct Value { a: Seen<u8>, b: Seen<String>, z: u8 }]
        Value { a: Seen(1), b: Seen("x".into()), z: 0 };
    tuple: [struct Value(Seen<u8>, Seen<String>);]
        Value(Seen(1), Seen("x".into()));
    longer_tuple: [struct Value(Seen<u8>, Seen<String>, u8);]
        Value(Seen(1), Seen("x".into()), 0);
    wide: [struct Value(Seen<u64>);] Value(Seen(1));
    newtype: [struct Value(Seen<u8>);] Value(Seen(1));
    optional: [struct Value(Option<Seen<u8>>);] Value(Some(Seen(1)));
    twice_optional: [struct Value(Option<Option<Seen<u8>>>);] Value(Some(Some(Seen(1))));
    list: [struct Value(Vec<Seen<u8>>);] Value(vec![Seen(1)]);
    queue: [struct Value(std::collections::VecDeque<Seen<u8>>);] Value([Seen(1)].into());
    array: [struct Value([Seen<u8>; 2]);] Value([Seen(1), Seen(2)]);
    longer_array: [struct Value([Seen<u8>; 3]);] Value([Seen(1), Seen(2), Seen(3)]);
    pair: [struct Value((Seen<u8>, Seen<u8>));] Value((Seen(1), Seen(2)));
    map: [struct Value(BTreeMap<u8, Seen<u8>>);] Value([(1, Seen(2))].into());
    map_of_text: [struct Value(BTreeMap<String, Seen<u8>>);] Value([("a".into(), Seen(2))].into());
    pairs: [struct Value(Vec<(u8, Seen<u8>)>);] Value(vec![(1, Seen(2))]);
    enumerated: [enum Value { A(Seen<u8>), B }] Value::A(Seen(1));
    other_variant: [enum Value { B, A(Seen<u8>) }] Value::A(Seen(1));
    renamed_variant: [enum Value { C(Seen<u8>), B }] Value::C(Seen(1));
    variant_of_two: [enum Value { A(Seen<u8>, Seen<u8>), B }] Value::A(Seen(1), Seen(2));
    variant_of_field: [enum Value { A { a: Seen<u8> }, B }] Value::A { a: Seen(1) };
    variant_of_other_field: [enum Value { A { b: Seen<u8> }, B }] Value::A { b: Seen(1) };
    nested: [struct Value { a: Inner } struct Inner { a: Seen<u8> }]
        Value { a: Inner { a: Seen(1) } };
    nested_otherwise: [struct Value { a: Inner } struct Inner { b: Seen<u8> }]
        Value { a: Inner { b: Seen(1) } };
    nested_by_another_name: [struct Value { a: Other } struct Other { a: Seen<u8> }]
        Value { a: Other { a: Seen(1) } };
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
        at: Seen<String>,
    }
    SEEN.take();
    assert!(read::<_, New>(&Old { at: "today".into() }).is_none());
    assert!(
        read::<_, HashMap<u8, Seen<String>>>(&BTreeMap::from([(1u8, "today".to_owned())]))
            .is_none()
    );
    assert!(read::<_, Option<Seen<String>>>(&Some("today".to_owned())).is_none());
    assert!(SEEN.take().is_empty());
}

#[test]
fn common_variants_of_an_enum_are_read() {
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
fn types_with_one_short_name_are_distinguished() {
    mod a {
        #[derive(serde::Serialize, serde::Deserialize)]
        pub(super) struct Code {
            pub(super) code: String,
        }
    }
    mod b {
        use super::Seen;
        #[derive(serde::Serialize, serde::Deserialize)]
        pub(super) struct Code {
            pub(super) code: Seen<String>,
        }
    }
    #[derive(Serialize, Deserialize)]
    struct Pair<A, B> {
        first: A,
        second: B,
    }
    let first = a::Code { code: "today".into() };
    let second = b::Code { code: Seen("EUR".into()) };
    let payload = codec::encode(&Pair { first, second }).expect("it encodes");
    let (_, entries) = decode_recording::<Pair<a::Code, b::Code>>(&payload).expect("it reads back");
    let outline = Outline::new(&entries);
    assert!(decode_matching::<Pair<a::Code, b::Code>>(outline, &payload).is_some());
    SEEN.take();
    assert!(decode_matching::<Pair<b::Code, a::Code>>(outline, &payload).is_none());
    assert!(SEEN.take().is_empty());
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
struct Tree {
    children: Vec<Tree>,
    label: Option<Box<Tree>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Bare(Option<Box<Bare>>);

#[test]
fn recursive_types_have_small_outlines() {
    let leaf = || Tree { label: Some(Box::default()), ..Tree::default() };
    let two = Tree { children: vec![leaf()], label: Some(Box::new(leaf())) };
    let four =
        Tree { children: vec![two.clone(), two.clone()], label: Some(Box::new(two.clone())) };
    assert_eq!(entries_of(&two), entries_of(&four));
    assert_eq!(read(&four), Some(four.clone()));
    let bare = |depth| (0..depth).fold(Bare(None), |bare, _| Bare(Some(Box::new(bare))));
    assert_eq!(entries_of(&bare(3)), entries_of(&bare(50)));
    assert_eq!(read(&bare(50)), Some(bare(50)));
}

#[test]
fn too_deep_values_have_no_outline() {
    let bare = |depth| (0..depth).fold(Bare(None), |bare, _| Bare(Some(Box::new(bare))));
    let deep = codec::encode(&bare(MAX_DEPTH)).expect("it encodes");
    assert!(decode_recording::<Bare>(&deep).is_none());
}

#[test]
fn a_swallowed_error_is_still_a_refusal() {
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

/// Frames contain outlines, so an outline must never change.
#[test]
fn golden_outlines() {
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
