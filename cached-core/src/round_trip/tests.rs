//! Tests the comparison of a value with its encoded and decoded copy: which comparison is chosen
//! for a type, and what it returns.

use std::collections::HashMap;

use super::*;

/// Returns the check that the attribute generates for a return type.
macro_rules! check {
    ($type:ty) => {{
        let probe = RoundTripProbe::<$type>::NEW;
        RoundTripCheck::from((probe.are_equal(), probe.describe()))
    }};
}

#[derive(Debug)]
struct TypeWithDebug(#[expect(dead_code, reason = "`Debug` reads it")] u8);
#[derive(PartialEq)]
struct TypeWithEq(u8);
#[derive(Debug, PartialEq)]
struct TypeWithDebugAndEq(f32);
struct TypeWithNeither;

#[test]
fn each_trait_is_found_without_the_other() {
    assert_eq!(check!(Result<TypeWithDebug, TypeWithNeither>).found_traits(), (false, true));
    assert_eq!(check!(Result<TypeWithEq, TypeWithNeither>).found_traits(), (true, false));
    assert_eq!(check!(Result<TypeWithDebugAndEq, &str>).found_traits(), (true, true));
    assert_eq!(check!(Result<TypeWithNeither, u8>).found_traits(), (false, false));
    assert_eq!(check!(Option<TypeWithEq>).found_traits(), (true, false));
    assert_eq!(
        check!(Result<Option<Arc<TypeWithDebug>>, TypeWithNeither>).found_traits(),
        (false, true)
    );
    assert_eq!(check!(Arc<TypeWithDebugAndEq>).found_traits(), (true, true));
    assert_eq!(check!(TypeWithNeither).found_traits(), (false, false));
}

#[test]
fn a_generic_function_compares_if_bounds_allow() {
    fn bounded<T: PartialEq + 'static>() -> bool {
        RoundTripProbe::<Result<T, TypeWithNeither>>::NEW.are_equal().is_some()
    }
    fn unbounded<T: 'static>() -> bool {
        RoundTripProbe::<Result<T, TypeWithNeither>>::NEW.are_equal().is_some()
    }
    assert!(bounded::<TypeWithDebugAndEq>());
    assert!(!unbounded::<TypeWithDebugAndEq>());
}

#[test]
fn the_cached_value_is_compared() {
    let check = check!(Result<TypeWithEq, TypeWithNeither>);
    assert!(check.compare(&TypeWithEq(1), &TypeWithEq(1), false, || None).is_ok());
    assert_eq!(check.compare(&TypeWithEq(1), &TypeWithEq(2), false, || None), Err(NOT_EQUAL));
    let check = check!(Option<u8>);
    assert_eq!(check.compare(&Some(1u8), &None::<u8>, true, || None), Err(NOT_EQUAL));
}

#[test]
fn only_tests_compare_texts_of_the_positional_codec() {
    let check = check!(Result<TypeWithDebug, TypeWithNeither>);
    let in_test = RoundTripCheck { is_test: true, ..check };
    for (check, is_named, expected) in [
        (check, false, Ok(())),
        (check, true, Err(NAMED_DEBUG_DIFFERS)),
        (in_test, false, Err(DEBUG_DIFFERS)),
        (in_test, true, Err(NAMED_DEBUG_DIFFERS)),
    ] {
        assert_eq!(
            check.compare(&TypeWithDebug(1), &TypeWithDebug(2), is_named, || None),
            expected
        );
        assert!(check.compare(&TypeWithDebug(1), &TypeWithDebug(1), is_named, || None).is_ok());
    }
    assert!(
        check!(TypeWithNeither).compare(&TypeWithNeither, &TypeWithNeither, false, || None).is_ok()
    );
}

#[test]
fn the_named_codec_refuses_values_without_comparison() {
    let outcome =
        check!(TypeWithNeither).compare(&TypeWithNeither, &TypeWithNeither, true, || None);
    assert_eq!(outcome, Err(NOT_COMPARABLE));
}

#[test]
fn a_value_with_nan_is_compared_as_text() {
    let check = check!(Result<TypeWithDebugAndEq, TypeWithNeither>);
    let nan = || Some(Box::new(TypeWithDebugAndEq(f32::NAN)) as Box<dyn std::any::Any>);
    assert!(
        check
            .compare(&TypeWithDebugAndEq(f32::NAN), &TypeWithDebugAndEq(f32::NAN), false, nan)
            .is_ok()
    );
    assert_eq!(
        check.compare(&TypeWithDebugAndEq(f32::NAN), &TypeWithDebugAndEq(1.0), false, nan),
        Err(NOT_EQUAL)
    );
}

#[test]
fn a_value_is_never_compared_with_itself() {
    /// A type whose `PartialEq` locks both sides.
    #[derive(Debug)]
    struct LockingValue(std::sync::Mutex<u8>);
    impl PartialEq for LockingValue {
        fn eq(&self, other: &LockingValue) -> bool {
            let lock = |value: &'_ LockingValue| value.0.try_lock().map(|number| *number).ok();
            let own = self.0.try_lock().expect("nobody holds this lock");
            Some(*own) == lock(other) || panic_if_locked(other)
        }
    }
    fn panic_if_locked(value: &LockingValue) -> bool {
        value
            .0
            .try_lock()
            .map(|_| false)
            .expect("the value is compared with itself, which would deadlock")
    }
    let locking = |number| LockingValue(std::sync::Mutex::new(number));
    let check = check!(Result<LockingValue, TypeWithNeither>);
    let again = || Some(Box::new(locking(2)) as Box<dyn std::any::Any>);
    assert_eq!(check.compare(&locking(1), &locking(2), false, again), Err(NOT_EQUAL));
}

#[test]
fn the_order_of_map_entries_does_not_count() {
    let map = || (0..100).map(|number| (number, number.to_string())).collect::<HashMap<_, _>>();
    let (first, second) = (format!("{:?}", map()), format!("{:?}", map()));
    assert_ne!(first, second, "two maps print their entries in different orders");
    assert!(are_alike(&first, &second));
    assert!(!are_alike(&first, &second.replace("99", "98")));
}
