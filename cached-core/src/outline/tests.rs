//! Tests that data written by one build of a program is never decoded by another build whose type
//! differs.
//!
//! An *outline* is the list of the different steps that a type's `Deserialize` takes to decode a
//! value. Each step is one *entry* of the outline. A *leaf* is a part of a value that has no parts
//! of its own, such as a number.

#![allow(dead_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::*;
use crate::codec::positional;

/// Decodes a payload of the positional codec. Returns the value and the entries of its outline.
fn decode_recording<V: DeserializeOwned>(payload: &[u8]) -> Option<(V, Vec<u8>)> {
    super::decode_recording(Codec::Positional, payload).ok()
}

/// Decodes a payload of the positional codec as the type `V`. Returns `None` if `outline` does not
/// fit this type.
fn decode_matching<V: DeserializeOwned>(outline: Outline<'_>, payload: &[u8]) -> Option<V> {
    super::decode_matching(Codec::Positional, outline, payload)
}

/// Encodes `value` and decodes the payload as the type `Read`. Returns `None` if the outline of
/// `value` does not fit the type `Read`.
fn read<V: Serialize + DeserializeOwned, Read: DeserializeOwned>(value: &V) -> Option<Read> {
    let payload = positional::encode(value).expect("the value encodes");
    let (_, entries) = decode_recording::<V>(&payload).expect("the value reads back");
    decode_matching(Outline::new(&entries), &payload)
}

/// Returns the number of entries in the outline of `value`.
fn entry_count<V: Serialize + DeserializeOwned>(value: &V) -> usize {
    let payload = positional::encode(value).expect("the value encodes");
    decode_recording::<V>(&payload).expect("the value reads back").1.len() / ENTRY_BYTES
}

thread_local! {
    /// The data that leaves have been decoded from, one text for each leaf.
    static GIVEN_DATA: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A wrapper for a leaf. It adds the decoded leaf to [`GIVEN_DATA`].
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

/// Defines one module for each build of an imaginary program. The module has the build's own type
/// `Value` and encodes one value of that type. The macro also defines a test in which each build
/// reads the values of all builds.
macro_rules! builds {
    ($($build:ident: [$($items:item)*] $value:expr;)*) => {
        $(mod $build {
            use super::*;
            $(#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)] $items)*
            pub(super) fn stored(codec: Codec) -> (Vec<u8>, Vec<u8>) {
                let value: Value = $value;
                let payload = codec.encode(&value).expect("the value encodes");
                let (read, entries) =
                    super::super::decode_recording::<Value>(codec, &payload).expect("it reads back");
                assert_eq!(read, value);
                (payload, entries)
            }
            pub(super) fn reads(codec: Codec, outline: Outline<'_>, payload: &[u8]) -> bool {
                super::super::decode_matching::<Value>(codec, outline, payload).is_some()
            }
        })*

        #[test]
        fn data_of_other_builds_reaches_no_leaf() {
            // These two builds declare the same variants in different orders. The named codec finds
            // a variant by its name, so each of them can read the other's value.
            let is_variant = |build: &str| ["enumerated", "other_variant"].contains(&build);
            for codec in [Codec::Positional, Codec::Named] {
                let builds = [
                    $((stringify!($build), $build::stored(codec), $build::reads as fn(_, _, &_) -> _)),*
                ];
                for (writer, (payload, entries), _) in &builds {
                    for (reader, _, reads) in &builds {
                        GIVEN_DATA.take();
                        let is_read = reads(codec, Outline::new(entries), &payload[..]);
                        let is_same = writer == reader
                            || codec == Codec::Named && is_variant(writer) && is_variant(reader);
                        let case = format!("{writer} read by {reader} with {codec:?}");
                        assert_eq!(is_read, is_same, "{case}: only an unchanged type is read");
                        let has_data = !GIVEN_DATA.take().is_empty();
                        assert_eq!(has_data, is_read, "{case}: leaves get data only if the type is unchanged");
                    }
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
    struct OldInvoice {
        at: String,
    }
    #[derive(Serialize, Deserialize)]
    #[serde(rename = "OldInvoice")]
    struct NewInvoice {
        at: LeafSpy<String>,
    }
    GIVEN_DATA.take();
    assert!(read::<_, NewInvoice>(&OldInvoice { at: "today".into() }).is_none());
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
    let payload = positional::encode(&Pair { first, second }).expect("the value encodes");
    let (_, entries) =
        decode_recording::<Pair<a::Code, b::Code>>(&payload).expect("the value reads back");
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
fn a_too_deeply_nested_value_has_no_outline() {
    let chain =
        |depth| (0..depth).fold(NewtypeChain(None), |inner, _| NewtypeChain(Some(Box::new(inner))));
    let deep = positional::encode(&chain(MAX_DEPTH)).expect("the value encodes");
    assert!(decode_recording::<NewtypeChain>(&deep).is_none());
}

#[test]
fn an_ignored_error_is_still_a_refusal() {
    struct LenientValue(u8);
    impl<'de> Deserialize<'de> for LenientValue {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LenientValue, D::Error> {
            Ok(LenientValue(u8::deserialize(deserializer).unwrap_or(9)))
        }
    }
    mod other {
        #[derive(serde::Serialize, serde::Deserialize)]
        pub(super) struct LenientValue(pub(super) ());
    }
    assert!(read::<_, LenientValue>(&other::LenientValue(())).is_none());
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

/// Values in memcached are stored with their outlines. A release that computed other outlines could
/// not read the stored values.
#[test]
fn outlines_never_change() {
    fn hash<V: Serialize + DeserializeOwned>(value: &V) -> u64 {
        let payload = positional::encode(value).expect("the value encodes");
        Outline::new(&decode_recording::<V>(&payload).expect("the value reads back").1).hash
    }
    let tree = Tree { children: vec![Tree::default()], label: Some(Box::default()) };
    assert_eq!(hash(&tree), 8257243279389529789);
    assert_eq!(hash(&(7u32, Some("text".to_owned()))), 10540640714996831676);
    assert_eq!(
        hash(&BTreeMap::from([(1u8, [Ok::<u8, String>(1), Err("no".into())])])),
        1984479588303580011
    );
}

/// Encodes a value with the named codec. Returns the payload and the outline's entries.
fn stored_by_name<V: Serialize + DeserializeOwned>(value: &V) -> (Vec<u8>, Vec<u8>) {
    let payload = Codec::Named.encode(value).expect("the value encodes");
    let (_, entries) =
        super::decode_recording::<V>(Codec::Named, &payload).expect("the value reads back");
    (payload, entries)
}

/// Defines types whose `Deserialize` calls `deserialize_any`, as `rust_decimal::Decimal` does. They
/// record the data that they receive.
macro_rules! any_data_types {
    ($($name:ident $method:ident $type:ty;)*) => {$(
        #[derive(Debug, Clone, PartialEq, Serialize)]
        struct $name($type);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                struct AnyDataVisitor;
                impl<'de> serde::de::Visitor<'de> for AnyDataVisitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("any data")
                    }
                    fn visit_u64<E>(self, number: u64) -> Result<$name, E> {
                        GIVEN_DATA.with_borrow_mut(|given| given.push(number.to_string()));
                        Ok($name(number.to_string().parse().unwrap_or_default()))
                    }
                    fn visit_str<E>(self, text: &str) -> Result<$name, E> {
                        GIVEN_DATA.with_borrow_mut(|given| given.push(text.into()));
                        Ok($name(text.parse().unwrap_or_default()))
                    }
                }
                deserializer.deserialize_any(AnyDataVisitor)
            }
        }
    )*};
}

any_data_types! {
    AnyNumber visit_u64 u64;
    AnyText visit_str String;
}

#[test]
fn fields_of_any_data_are_found_by_name() {
    #[derive(Serialize, Deserialize)]
    struct Value {
        a: AnyNumber,
        b: AnyText,
    }
    mod swapped {
        use super::*;
        #[derive(Serialize, Deserialize)]
        pub(super) struct Value {
            pub(super) a: AnyText,
            pub(super) b: AnyNumber,
        }
    }
    let (payload, entries) = stored_by_name(&Value { a: AnyNumber(7), b: AnyText("x".into()) });
    let outline = Outline::new(&entries);
    GIVEN_DATA.take();
    assert!(super::decode_matching::<swapped::Value>(Codec::Named, outline, &payload).is_none());
    assert_eq!(GIVEN_DATA.take(), Vec::<String>::new());
    assert!(super::decode_matching::<Value>(Codec::Named, outline, &payload).is_some());
    assert_eq!(GIVEN_DATA.take(), ["7", "x"]);
}

#[test]
fn a_buffer_is_an_entry_of_the_outline() {
    #[derive(Serialize, Deserialize)]
    struct StructWithAnyFields {
        any: AnyNumber,
        of: BTreeMap<String, Vec<AnyText>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<u8>,
    }
    #[derive(Serialize, Deserialize)]
    #[serde(tag = "kind", content = "value")]
    enum AdjacentEnum {
        One(StructWithAnyFields),
        Two { a: AnyText },
    }
    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum UntaggedEnum {
        One(u8),
        Two(String),
    }
    #[derive(Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum InternalEnum {
        One { a: u8 },
    }
    #[derive(Serialize, Deserialize)]
    struct FlatStruct {
        a: u8,
        #[serde(flatten)]
        rest: BTreeMap<String, u8>,
    }
    fn is_buffered<V: Serialize + DeserializeOwned>(value: &V) -> bool {
        let (payload, entries) = stored_by_name(value);
        let outline = Outline::new(&entries);
        let without: Vec<[u8; ENTRY_BYTES]> = entries
            .as_chunks()
            .0
            .iter()
            .copied()
            .filter(|entry| *entry != entry_of(buffering_step().finish()))
            .collect();
        // serde *buffers* the data of some types, for example of untagged enums. The outline has an
        // entry for that. If another build's type is not buffered, its outline lacks this entry.
        let is_read = super::decode_matching::<V>(
            Codec::Named,
            Outline::new(without.as_flattened()),
            &payload,
        );
        assert_eq!(is_read.is_none(), outline.has_buffered_steps());
        outline.has_buffered_steps()
    }
    let plain = || StructWithAnyFields {
        any: AnyNumber(1),
        of: BTreeMap::from([("a".into(), vec![AnyText("x".into())])]),
        note: None,
    };
    assert!(!is_buffered(&plain()));
    assert!(!is_buffered(&BTreeMap::from([("a", 1u8), ("b", 2)].map(|(k, v)| (k.to_owned(), v)))));
    assert!(is_buffered(&UntaggedEnum::One(1)));
    assert!(is_buffered(&vec![Some(UntaggedEnum::Two("x".into()))]));
    assert!(is_buffered(&InternalEnum::One { a: 1 }));
    assert!(is_buffered(&AdjacentEnum::One(plain())));
    assert!(is_buffered(&vec![AdjacentEnum::Two { a: AnyText("x".into()) }]));
    assert!(is_buffered(&FlatStruct { a: 1, rest: BTreeMap::from([("b".into(), 2)]) }));
}

#[test]
fn outlines_of_any_data_are_small() {
    let entries = |count: u64| {
        let map: BTreeMap<String, Vec<AnyNumber>> =
            (0..count).map(|n| (n.to_string(), (0..n).map(AnyNumber).collect())).collect();
        stored_by_name(&map).1.len() / ENTRY_BYTES
    };
    assert_eq!(entries(3), entries(100));
    #[derive(Serialize, Deserialize)]
    struct FlatStruct {
        #[serde(flatten)]
        rest: BTreeMap<String, u8>,
    }
    let flat = |count: u8| {
        let rest = (0..count).map(|number| (number.to_string(), number)).collect();
        stored_by_name(&FlatStruct { rest }).1.len() / ENTRY_BYTES
    };
    assert_eq!(flat(1), flat(100));
}

#[test]
fn the_part_that_cannot_be_decoded_is_named() {
    #[derive(Serialize, Deserialize)]
    struct Value {
        lines: Vec<Line>,
    }
    #[derive(Serialize, Deserialize)]
    struct Line {
        number: u8,
        text: UnreadableText,
    }
    #[derive(Debug, Clone, Serialize)]
    struct UnreadableText(u8);
    impl<'de> Deserialize<'de> for UnreadableText {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UnreadableText, D::Error> {
            String::deserialize(deserializer).map(|_| UnreadableText(0))
        }
    }
    let value = Value { lines: vec![Line { number: 1, text: UnreadableText(2) }] };
    for codec in [Codec::Positional, Codec::Named] {
        let payload = codec.encode(&value).expect("the value encodes");
        let failed = super::decode_recording::<Value>(codec, &payload).err().flatten();
        let part = failed.expect("a part is named");
        assert_eq!(part.field, Some("text"), "{codec:?} names the field");
        assert!(part.type_name.ends_with("UnreadableText"), "the innermost part is named: {part}");
    }
}

/// Values in memcached are stored with their outlines. A release that computed other outlines could
/// not read the stored values.
#[test]
fn outlines_of_the_named_codec_never_change() {
    fn hash<V: Serialize + DeserializeOwned>(value: &V) -> u64 {
        Outline::new(&stored_by_name(value).1).hash
    }
    let tree = Tree { children: vec![Tree::default()], label: Some(Box::default()) };
    assert_eq!(hash(&tree), 13782880728171181452);
    assert_eq!(hash(&(7u32, Some("text".to_owned()))), 10540640714996831676);
    assert_eq!(
        hash(&BTreeMap::from([(1u8, [Ok::<u8, String>(1), Err("no".into())])])),
        3099457369096163474
    );
}
