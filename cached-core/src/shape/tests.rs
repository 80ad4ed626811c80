//! Tests that builds of a program with different types do not read each other's values, and that
//! the shape of a value never changes. The *shape* is a hash of what the value's `Serialize`
//! writes: the names of types, fields and variants, and the kinds of data.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::codec::positional;

fn of<V: Serialize + ?Sized>(value: &V) -> Result<u64, ShapeError> {
    super::of(value, Codec::Positional)
}

/// Encodes `value` and decodes the bytes as the type `Read`. Returns `None` if the bytes do not
/// decode, or if the shape of the decoded value is different.
fn read<V: Serialize, Read: Serialize + DeserializeOwned>(value: &V) -> Option<Read> {
    let bytes = positional::encode(value).expect("the value encodes");
    let read = positional::decode::<Read>(&bytes)?;
    (of(&read) == of(value)).then_some(read)
}

/// Defines a module with the types of one build.
macro_rules! build {
    ($name:ident: $($item:item)*) => {
        mod $name {
            #![allow(dead_code)]
            use super::*;
            $(#[derive(Debug, PartialEq, serde::Serialize, Deserialize)] $item)*
        }
    };
}

build! { old:
    pub(super) struct Payment { pub(super) amount: u32, pub(super) fee: u32, pub(super) state: State }
    pub(super) enum State { Paid, Refunded, Partly(u8) }
}
build! { swapped:
    pub(super) struct Payment { fee: u32, amount: u32, state: State }
    pub(super) enum State { Paid, Refunded, Partly(u8) }
}
build! { renamed_field:
    pub(super) struct Payment { amount: u32, cost: u32, state: State }
    pub(super) enum State { Paid, Refunded, Partly(u8) }
}
build! { wider:
    pub(super) struct Payment { amount: u64, fee: u32, state: State }
    pub(super) enum State { Paid, Refunded, Partly(u8) }
}
build! { signed:
    pub(super) struct Payment { amount: i32, fee: u32, state: State }
    pub(super) enum State { Paid, Refunded, Partly(u8) }
}
build! { fewer_fields:
    pub(super) struct Payment { amount: u32, state: State }
    pub(super) enum State { Paid, Refunded, Partly(u8) }
}
build! { more_fields:
    pub(super) struct Payment { amount: u32, fee: u32, tax: Option<u8>, state: State }
    pub(super) enum State { Paid, Refunded, Partly(u8) }
}
build! { reordered_enum:
    pub(super) struct Payment { amount: u32, fee: u32, state: State }
    pub(super) enum State { Refunded, Paid, Partly(u8) }
}
build! { renamed_variant:
    pub(super) struct Payment { amount: u32, fee: u32, state: State }
    pub(super) enum State { Settled, Refunded, Partly(u8) }
}
build! { other_payload:
    pub(super) struct Payment { amount: u32, fee: u32, state: State }
    pub(super) enum State { Paid, Refunded, Partly(i8) }
}
build! { optional:
    pub(super) struct Payment { amount: u32, fee: Option<u32>, state: State }
    pub(super) enum State { Paid, Refunded, Partly(u8) }
}
build! { renamed_struct:
    pub(super) struct Receipt { amount: u32, fee: u32, state: State }
    pub(super) enum State { Paid, Refunded, Partly(u8) }
}

#[test]
fn values_of_changed_types_are_not_read() {
    use old::{Payment, State};
    for state in [State::Paid, State::Refunded, State::Partly(1)] {
        let variant = match state {
            State::Paid => "Paid",
            State::Refunded => "Refunded",
            State::Partly(_) => "Partly",
        };
        let value = Payment { amount: 1, fee: 2, state };
        assert_eq!(read::<_, Payment>(&value).as_ref(), Some(&value));
        assert_eq!(read::<_, swapped::Payment>(&value), None);
        assert_eq!(read::<_, renamed_field::Payment>(&value), None);
        assert_eq!(read::<_, wider::Payment>(&value), None);
        assert_eq!(read::<_, signed::Payment>(&value), None);
        assert_eq!(read::<_, fewer_fields::Payment>(&value), None);
        assert_eq!(read::<_, more_fields::Payment>(&value), None);
        assert_eq!(read::<_, optional::Payment>(&value), None);
        assert_eq!(read::<_, renamed_struct::Receipt>(&value), None);
        assert_eq!(read::<_, (u32, u32, State)>(&value), None);
        // A variant that is the same in both builds is read, even if another variant has changed.
        let other_payload = read::<_, other_payload::Payment>(&value);
        assert_eq!(other_payload.is_some(), variant != "Partly");
        let reordered = read::<_, reordered_enum::Payment>(&value);
        assert_eq!(reordered.is_some(), variant == "Partly");
        let renamed = read::<_, renamed_variant::Payment>(&value);
        assert_eq!(renamed.is_some(), variant != "Paid");
    }
}

#[test]
fn reordered_variants_in_collections_change_the_shape() {
    use old::State;
    assert_eq!(read::<_, Vec<reordered_enum::State>>(&vec![State::Paid, State::Refunded]), None);
    let by_number = BTreeMap::from([("7", State::Paid), ("8", State::Refunded)]);
    assert_eq!(read::<_, BTreeMap<String, reordered_enum::State>>(&by_number), None);
    let by_state = vec![(State::Paid, 1), (State::Refunded, 2)];
    assert_eq!(read::<_, Vec<(reordered_enum::State, i32)>>(&by_state), None);
}

#[test]
fn maps_and_sets_read_back() {
    let map: HashMap<String, Vec<u32>> = (0..9).map(|n| (n.to_string(), vec![n; 3])).collect();
    assert_eq!(read(&map), Some(map.clone()));
    let set: std::collections::HashSet<String> = map.into_keys().collect();
    assert_eq!(read(&set), Some(set.clone()));
}

/// The reading type has a string where the stored type has a number. The codec then reads the
/// number as the length of the string.
#[test]
fn an_impossible_length_is_refused() {
    #[derive(Debug, PartialEq, serde::Serialize, Deserialize)]
    struct Order {
        at: u64,
        name: String,
    }
    #[derive(Debug, PartialEq, serde::Serialize, Deserialize)]
    struct SwappedOrder {
        name: String,
        at: u64,
    }
    for at in [1_700_000_000_000_000_000, u64::MAX] {
        assert_eq!(read::<_, SwappedOrder>(&Order { at, name: "7".into() }), None);
    }
    let large = Order { at: 1, name: "x".repeat(20 << 20) };
    assert_eq!(read(&large), Some(large));
}

#[test]
fn a_map_has_one_shape_in_any_order() {
    let forward: HashMap<u32, Option<u8>> = (0..9).map(|n| (n, (n > 4).then_some(1))).collect();
    let backward: HashMap<u32, Option<u8>> =
        (0..9).rev().map(|n| (n, (n > 4).then_some(1))).collect();
    assert_eq!(of(&forward), of(&backward));
    let other: HashMap<u32, Option<u8>> = (0..9).map(|n| (n, Some(1))).collect();
    assert_ne!(of(&forward), of(&other));
}

/// Values in memcached are stored with their shapes, so the shape of a value must never change.
#[test]
fn shapes_never_change() {
    let value = old::Payment { amount: 1, fee: 2, state: old::State::Partly(3) };
    assert_eq!(of(&value), Ok(18341370753926176472));
    assert_eq!(of(&BTreeMap::from([(1u8, "a")])), Ok(8461455876858425517));
    assert_eq!(of(&(true, 'x', 1.5f32, Some(()), [0i16; 2])), Ok(4422576060951294605));
}
