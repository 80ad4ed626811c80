#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Deserialize;

use super::{Fingerprint, NONE, of};

macro_rules! build {
    ($build:ident: $($item:item)*) => {
        mod $build {
            use super::*;
            $(#[derive(Deserialize)] $item)*
        }
    };
}

build! { base:
    pub(super) struct Payment { amount: u32, fee: u32, state: State, notes: Vec<Option<Note>> }
    enum State { Open, Paid { by: String }, Refunded(u32, Reason) }
    enum Reason { Late(u8), Broken(Note) }
    struct Note { text: String }
}
build! { deep:
    pub(super) struct Payment { amount: u32, fee: u32, state: State, notes: Vec<Option<Note>> }
    enum State { Open, Paid { by: String }, Refunded(u32, Reason) }
    enum Reason { Late(u16), Broken(Note) }
    struct Note { text: String }
}
build! { deeper:
    pub(super) struct Payment { amount: u32, fee: u32, state: State, notes: Vec<Option<Note>> }
    enum State { Open, Paid { by: String }, Refunded(u32, Reason) }
    enum Reason { Late(u8), Broken(Note) }
    struct Note { text: Vec<u8> }
}
build! { swapped:
    pub(super) struct Payment { fee: u32, amount: u32, state: State, notes: Vec<Option<Note>> }
    enum State { Open, Paid { by: String }, Refunded(u32, Reason) }
    enum Reason { Late(u8), Broken(Note) }
    struct Note { text: String }
}

fn differ(fingerprints: &[Fingerprint]) {
    for (index, fingerprint) in fingerprints.iter().enumerate() {
        assert!(!fingerprints[..index].contains(fingerprint), "{index}: {fingerprints:x?}");
        assert_ne!(*fingerprint, NONE);
    }
}

#[test]
fn a_change_at_any_depth_and_in_any_variant_is_another_fingerprint() {
    differ(&[
        of::<base::Payment>(),
        of::<deep::Payment>(),
        of::<deeper::Payment>(),
        of::<swapped::Payment>(),
    ]);
}

#[derive(Deserialize)]
struct Generic<T> {
    inner: T,
}

#[test]
fn a_generic_type_inside_of_itself_is_seen_through() {
    differ(&[
        of::<Generic<Generic<Generic<Option<u32>>>>>(),
        of::<Generic<Generic<Generic<Option<u64>>>>>(),
        of::<Generic<Option<u32>>>(),
    ]);
}

#[derive(Deserialize)]
enum Expr {
    Add(Box<Expr>, Box<Expr>),
    Call { name: String, arguments: Vec<Expr> },
    Neg(Box<Expr>),
    Lit(i64),
}

mod other {
    use super::*;
    #[derive(Deserialize)]
    pub(super) enum Expr {
        Add(Box<Expr>, Box<Expr>),
        Call { name: String, arguments: Vec<Expr> },
        Neg(Box<Expr>),
        Lit(u64),
    }
}

#[derive(Deserialize)]
struct Node {
    next: Option<Box<Node>>,
    children: BTreeMap<String, Node>,
    last: (u8, Odd),
}

#[derive(Deserialize)]
enum Odd {
    Even(Box<Even>),
    Zero,
}

#[derive(Deserialize)]
enum Even {
    Odd(Odd),
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Bare {
    bare: Vec<Bare>,
}

/// No value of it can ever be made.
#[derive(Deserialize)]
struct Endless {
    more: Box<Endless>,
}

#[derive(Deserialize)]
enum Never {}

#[test]
fn types_inside_of_themselves_come_to_an_end() {
    differ(&[
        of::<Expr>(),
        of::<other::Expr>(),
        of::<Node>(),
        of::<Odd>(),
        of::<Even>(),
        of::<Bare>(),
        of::<Endless>(),
        of::<Never>(),
    ]);
}

struct Panics;

impl<'de> Deserialize<'de> for Panics {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Panics, D::Error> {
        panic!("as it does")
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u32),
}

#[derive(Deserialize)]
struct Flat {
    before: u8,
    #[serde(flatten)]
    rest: Generic<u8>,
}

#[test]
fn what_cannot_be_traced_breaks_nothing() {
    assert_eq!(of::<Panics>(), NONE);
    differ(&[of::<Untagged>(), of::<Flat>(), of::<(u8, Untagged)>(), of::<(u16, Untagged)>()]);
}

/// A type that takes only some texts, and one that lets another take the text for it.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Currency(String);

impl TryFrom<String> for Currency {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Currency, &'static str> {
        if text.len() == 3 { Ok(Currency(text)) } else { Err("three letters") }
    }
}

#[test]
fn the_trace_goes_on_behind_a_type_that_checks_its_text() {
    differ(&[
        of::<(std::net::IpAddr, u8)>(),
        of::<(std::net::IpAddr, u16)>(),
        of::<(Currency, u8)>(),
        of::<(Currency, u16)>(),
        of::<(std::num::NonZeroU8, u8)>(),
        of::<(std::num::NonZeroU8, u16)>(),
    ]);
}

#[test]
fn every_kind_is_another_fingerprint() {
    macro_rules! all {
        ($($type:ty),* $(,)?) => { differ(&[$(of::<$type>()),*]) };
    }
    all! {
        (), bool, char, String, i8, i16, i32, i64, i128, u8, u16, u32, u64, u128, f32, f64,
        Option<u8>, Vec<u8>, (u8,), (u8, u8), [u8; 3], BTreeMap<u8, u8>, Option<Option<u8>>,
        HashSet<u8>, BTreeSet<u8>, HashMap<u8, u8>, Generic<u8>, std::time::Duration, std::time::SystemTime, Result<u8, u8>,
    }
    assert_eq!(of::<Box<u8>>(), of::<u8>(), "the same value");
}

/// They are in the keys of entries in memcached, which outlive a build.
#[test]
fn golden_fingerprints() {
    let golden = [
        (of::<u32>(), "786087bec2ca103f"),
        (of::<base::Payment>(), "174912abe7f0fe1a"),
        (of::<Expr>(), "f58568013069431c"),
        (of::<Option<Vec<(String, f64)>>>(), "d4dbe420826fd64e"),
    ];
    for (fingerprint, expected) in golden {
        let hexadecimal: String = fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hexadecimal, expected);
    }
}
