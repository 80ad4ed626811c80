//! Tests the estimate of a value's weight, which is the memory that the value takes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;

use super::*;

#[derive(Serialize, Clone)]
struct Payment {
    cents: u64,
    number: String,
}

/// Returns the weight of a `V` that owns no heap memory.
fn weight_without_heap<V>() -> usize {
    block_size(ARC_COUNTS + size_of::<V>())
}

#[test]
fn a_value_weighs_its_size_and_heap_data() {
    assert_eq!(of(&7u64), Some(weight_without_heap::<u64>()));
    assert_eq!(of(&String::new()), Some(weight_without_heap::<String>()));
    assert_eq!(of(&"x".repeat(100)), Some(weight_without_heap::<String>() + block_size(100)));
    let payment = Payment { cents: 1, number: "x".repeat(40) };
    assert_eq!(of(&payment), Some(weight_without_heap::<Payment>() + block_size(40)));
    assert_eq!(of(&Some(payment)), Some(weight_without_heap::<Option<Payment>>() + block_size(40)));
}

#[test]
fn elements_weigh_their_size_in_memory() {
    assert_eq!(of(&vec![1u64; 100]), Some(weight_without_heap::<Vec<u64>>() + block_size(800)));
    assert_eq!(of(&vec![1u8; 100]), Some(weight_without_heap::<Vec<u8>>() + block_size(100)));
    assert_eq!(
        of(&[1u64; 32]),
        Some(weight_without_heap::<[u64; 32]>()),
        "an array is inside the value"
    );
    let payments = vec![Payment { cents: 1, number: "x".repeat(40) }; 3];
    let expected = weight_without_heap::<Vec<Payment>>() + block_size(3 * 32) + 3 * block_size(40);
    assert_eq!(of(&payments), Some(expected));
    // Each element takes as much space as the largest element.
    let options = vec![None, None, Some([0u64; 4]), None];
    assert_eq!(of(&options), Some(weight_without_heap::<Vec<Payment>>() + block_size(4 * 32)));
}

#[test]
fn a_pointer_weighs_its_target_as_well() {
    let payment = Payment { cents: 1, number: "x".repeat(40) };
    let expected = weight_without_heap::<Arc<Payment>>() + block_size(32) + block_size(40);
    assert_eq!(of(&Arc::new(payment.clone())), Some(expected));
    #[derive(Serialize)]
    struct Order {
        payment: Box<Payment>,
    }
    assert_eq!(of(&Order { payment: Box::new(payment) }), Some(expected));
}

#[test]
fn map_entries_weigh_key_and_value() {
    let numbers: HashMap<u64, u64> = (0..100).map(|number| (number, number)).collect();
    assert_eq!(
        of(&numbers),
        Some(weight_without_heap::<HashMap<u64, u64>>() + block_size(128 * 16))
    );
    let texts = BTreeMap::from([("x".repeat(40), 1u64)]);
    let expected =
        weight_without_heap::<BTreeMap<String, u64>>() + block_size(8 * 32) + block_size(40);
    assert_eq!(of(&texts), Some(expected));
    assert_eq!(of(&HashMap::<u8, u8>::new()), Some(weight_without_heap::<HashMap<u8, u8>>()));
}

#[test]
fn an_unserializable_value_has_no_weight() {
    struct FailingValue;
    impl Serialize for FailingValue {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("no"))
        }
    }
    assert_eq!(of(&vec![FailingValue]), None);
}

#[derive(Serialize)]
struct Node {
    number: u64,
    next: Option<Box<Node>>,
}

/// Returns a linked list. It is never freed, because dropping a long list overflows the stack.
fn list(length: u64) -> &'static Node {
    let end = Node { number: 0, next: None };
    let push = |next, number| Node { number, next: Some(Box::new(next)) };
    Box::leak(Box::new((1..length).fold(end, push)))
}

/// Weighs a value that is nested 100,000 levels deep. The thread's stack is as small as that of a
/// runtime's worker thread.
#[test]
fn a_deeply_nested_value_is_weighed_in_part() {
    let run = || {
        let node = block_size(size_of::<Node>());
        assert_eq!(of(list(400)), Some(weight_without_heap::<Node>() + 399 * node));
        let long = of(list(100_000));
        assert!(long > of(list(400)), "{long:?}");
        assert_eq!(of(list(5_000)), long);
        let nested = of(&vec![vec![list(100_000)]]);
        assert!(nested > of(list(400)), "{nested:?}");
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(run);
    thread.expect("the thread starts").join().expect("nothing overflows");
}
