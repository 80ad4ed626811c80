//! Tests which arguments have the same key. Also compares keys with *golden vectors*: expected
//! bytes that must stay the same in every later version.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::super::part;
use super::*;
use crate::key::canonical_bytes;
#[cfg(feature = "memcached")]
use crate::key::{Digest, Key};

fn bytes(name: &str, identifier: impl KeyParts, version: impl KeyParts) -> Vec<u8> {
    static DECLARATION: Declaration = Declaration::new("test", "test", "test.rs", 1, 1, || "");
    let function = DeclaredFunction::new(&DECLARATION, &|| ());
    let arguments = KeyArguments::new(function, (identifier, version), "", ());
    let mut bytes = KeyBytes::default();
    arguments.encode(None, &mut bytes).expect("every part can be serialized");
    canonical_bytes(name, &bytes).to_vec()
}

#[test]
fn similar_values_have_different_keys() {
    let a = "a".to_owned();
    let alike: Vec<(&str, Vec<u8>)> = vec![
        ("1", bytes("n", part(&1), ())),
        ("\"1\"", bytes("n", part(&"1"), ())),
        ("true", bytes("n", part(&true), ())),
        ("None", bytes("n", part(&None::<u8>), ())),
        ("Some(None)", bytes("n", part(&Some(None::<u8>)), ())),
        ("Some(1)", bytes("n", part(&Some(1)), ())),
        ("()", bytes("n", part(&()), ())),
        ("nothing", bytes("n", (), ())),
        ("version 1", bytes("n", (), part(&1))),
        ("1 and version 1", bytes("n", part(&1), part(&1))),
        ("-1", bytes("n", part(&-1), ())),
        ("1.0", bytes("n", part(&1.0), ())),
        ("'a'", bytes("n", part(&'a'), ())),
        ("\"a\"", bytes("n", part(&a), ())),
        ("[1]", bytes("n", part(&[1].as_slice()), ())),
        ("(1,)", bytes("n", part(&(1,)), ())),
        ("\"ab\", \"c\"", bytes("n", (part(&"ab"), part(&"c")), ())),
        ("\"a\", \"bc\"", bytes("n", (part(&"a"), part(&"bc")), ())),
        ("(\"ab\", \"c\")", bytes("n", part(&("ab", "c")), ())),
        ("(\"a\", \"bc\")", bytes("n", part(&("a", "bc")), ())),
        ("0.0", bytes("n", part(&0.0), ())),
        ("-0.0", bytes("n", part(&-0.0), ())),
    ];
    for (index, (a, a_bytes)) in alike.iter().enumerate() {
        for (b, b_bytes) in &alike[index + 1..] {
            assert_ne!(a_bytes, b_bytes, "{a} and {b} must have different keys");
        }
    }
    assert_eq!(bytes("n", part(&1u8), ()), bytes("n", part(&1i64), ()));
    assert_eq!(bytes("n", part(&1.5f32), ()), bytes("n", part(&1.5f64), ()));
    assert_eq!(bytes("n", part(&f64::NAN), ()), bytes("n", part(&-f64::NAN), ()));
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
    fn key(version: impl Serialize) -> Vec<u8> {
        bytes("payment", part(&"7"), part(&version))
    }
    assert_eq!(key(before::State::Processing), key(after::State::Processing));
    assert_eq!(key(before::State::Paid(1)), key(after::State::Paid(1)));
    assert_eq!(
        key(before::State::Refunded { by: 1, why: 2 }),
        key(after::State::Refunded { why: 2, by: 1 })
    );
}

#[test]
fn hash_map_order_changes_no_key() {
    let forward: HashMap<u32, u32> = (0..50).map(|n| (n, n * n)).collect();
    let backward: HashMap<u32, u32> = (0..50).rev().map(|n| (n, n * n)).collect();
    let sorted: BTreeMap<u32, u32> = forward.clone().into_iter().collect();
    assert_eq!(bytes("n", part(&forward), ()), bytes("n", part(&backward), ()));
    assert_eq!(bytes("n", part(&forward), ()), bytes("n", part(&sorted), ()));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Entries in memcached outlive the build that wrote them, so these bytes and digests must never
/// change.
#[test]
fn canonical_bytes_match_the_golden_vectors() {
    let map = BTreeMap::from([("b", -1), ("a", 300)]);
    let vectors: [(&str, Vec<u8>, &str, &str); 6] = [
        (
            "payment(\"7\", Paid(1))",
            bytes("payment", part(&"7"), part(&before::State::Paid(1))),
            "0108077061796d656e740a08013700020f0804506169642101",
            "b6ac209172ac7b44dbd77ae3ef1a829a0cc8d5c05822bfbe0a599645a3b8a2ff",
        ),
        (
            "order(42)",
            bytes("order", part(&42u64), ()),
            "0108056f726465720a212a0001",
            "5452028c9219d45fcc53c29feee4fc1c70b26a980ae0dcd6433b7ad53f8709bc",
        ),
        (
            "user(None, Some(\"é\"))",
            bytes("user", (part(&None::<u8>), part(&Some("é"))), ()),
            "010804757365720a01020802c3a90001",
            "671e3fcb1c2dfeee9849a69d401e88f827bfeb993c6d356ea14fd717f5157752",
        ),
        (
            "map",
            bytes("map", part(&map), part(&(true, 'x', 1.5, ()))),
            "0108036d61700a0c08016122012c080162400000020b050700000078063ff80000000000000300",
            "c89da53cebe1137fa1e0bf6febc7b1aaaeca8235c029f81304fce5bbf982e373",
        ),
        (
            "refund",
            bytes("refund", (), part(&before::State::Refunded { by: 0, why: 255 })),
            "010806726566756e640a0002110808526566756e6465640802627920080377687921ff00",
            "7ca9bb9f9c55dcbbfd81bac489c82459eeb4c46316559c2505e103b1796799e7",
        ),
        (
            "extremes",
            bytes(
                "extremes",
                (part(&i128::MIN), (part(&u128::MAX), (part(&i64::MIN), part(&0)))),
                (),
            ),
            "01080865787472656d65730a507fffffffffffffffffffffffffffffff30ffffffffffffffffffffffffffffffff487fffffffffffffff200001",
            "e7bbb2f8b42de03af30b42ced2e341ec717248aca1136051af8f750d58f2106f",
        ),
    ];
    for (call, bytes, expected, _) in &vectors {
        assert_eq!(hex(bytes), *expected, "the bytes of {call} have changed");
    }
    #[cfg(feature = "memcached")]
    for (call, bytes, _, digest) in &vectors {
        assert_eq!(Digest::of(bytes).to_string(), *digest, "the digest of {call} has changed");
    }
}

#[cfg(feature = "memcached")]
#[test]
fn memcached_keys_are_namespace_name_digest() {
    let order = bytes("order", part(&42u64), ());
    let digest = Digest::of(&order);
    let key = Key::new(Some("shop".into()), "order", &order);
    assert_eq!(key.to_string(), format!("shop:order:{digest}"));
    assert_eq!(Key::new(None, "order", &order).to_string(), format!("order:{digest}"));
}
