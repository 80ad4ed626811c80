//! Tests which comparison is chosen for a type, and what the comparison returns.

use std::collections::HashMap;

use super::*;

/// Returns the check that the attribute writes for a return type.
macro_rules! check {
    ($type:ty) => {{
        let probe = RoundTripProbe::<$type>::NEW;
        RoundTripCheck::from((probe.are_equal(), probe.describe()))
    }};
}

#[derive(Debug)]
struct OnlyDebug(#[expect(dead_code, reason = "`Debug` reads it")] u8);
#[derive(PartialEq)]
struct OnlyEqual(u8);
#[derive(Debug, PartialEq)]
struct Both(f32);
struct Neither;

#[test]
fn each_trait_is_found_by_itself() {
    assert_eq!(check!(Result<OnlyDebug, Neither>).found_traits(), (false, true));
    assert_eq!(check!(Result<OnlyEqual, Neither>).found_traits(), (true, false));
    assert_eq!(check!(Result<Both, &str>).found_traits(), (true, true));
    assert_eq!(check!(Result<Neither, u8>).found_traits(), (false, false));
    assert_eq!(check!(Option<OnlyEqual>).found_traits(), (true, false));
    assert_eq!(check!(Result<Option<Arc<OnlyDebug>>, Neither>).found_traits(), (false, true));
    assert_eq!(check!(Arc<Both>).found_traits(), (true, true));
    assert_eq!(check!(Neither).found_traits(), (false, false));
}

#[test]
fn a_generic_function_compares_if_bounds_allow() {
    fn bounded<T: PartialEq + 'static>() -> bool {
        RoundTripProbe::<Result<T, Neither>>::NEW.are_equal().is_some()
    }
    fn unbounded<T: 'static>() -> bool {
        RoundTripProbe::<Result<T, Neither>>::NEW.are_equal().is_some()
    }
    assert!(bounded::<Both>());
    assert!(!unbounded::<Both>());
}

#[test]
fn values_and_not_return_types_are_compared() {
    let check = check!(Result<OnlyEqual, Neither>);
    assert!(check.compare(&OnlyEqual(1), &OnlyEqual(1), false, || None).is_ok());
    assert_eq!(check.compare(&OnlyEqual(1), &OnlyEqual(2), false, || None), Err(NOT_EQUAL));
    let check = check!(Option<u8>);
    assert_eq!(check.compare(&Some(1u8), &None::<u8>, true, || None), Err(NOT_EQUAL));
}

#[test]
fn only_tests_compare_texts_of_the_positional_codec() {
    let check = check!(Result<OnlyDebug, Neither>);
    let in_test = RoundTripCheck { is_test: true, ..check };
    for (check, is_named, expected) in [
        (check, false, Ok(())),
        (check, true, Err(NAMED_DEBUG_DIFFERS)),
        (in_test, false, Err(DEBUG_DIFFERS)),
        (in_test, true, Err(NAMED_DEBUG_DIFFERS)),
    ] {
        assert_eq!(check.compare(&OnlyDebug(1), &OnlyDebug(2), is_named, || None), expected);
        assert!(check.compare(&OnlyDebug(1), &OnlyDebug(1), is_named, || None).is_ok());
    }
    assert!(check!(Neither).compare(&Neither, &Neither, false, || None).is_ok());
}

#[test]
fn the_named_codec_refuses_values_without_comparison() {
    let outcome = check!(Neither).compare(&Neither, &Neither, true, || None);
    assert_eq!(outcome, Err(NOT_COMPARABLE));
}

#[test]
fn a_value_with_nan_is_compared_as_text() {
    let check = check!(Result<Both, Neither>);
    let nan = || Some(Box::new(Both(f32::NAN)) as Box<dyn std::any::Any>);
    assert!(check.compare(&Both(f32::NAN), &Both(f32::NAN), false, nan).is_ok());
    assert_eq!(check.compare(&Both(f32::NAN), &Both(1.0), false, nan), Err(NOT_EQUAL));
}

#[test]
fn a_value_is_never_compared_with_itself() {
    /// A type whose `PartialEq` locks both sides.
    #[derive(Debug)]
    struct Locking(std::sync::Mutex<u8>);
    impl PartialEq for Locking {
        fn eq(&self, other: &Locking) -> bool {
            let lock = |value: &'_ Locking| value.0.try_lock().map(|number| *number).ok();
            let own = self.0.try_lock().expect("nobody holds this lock");
            Some(*own) == lock(other) || panic_if_locked(other)
        }
    }
    fn panic_if_locked(value: &Locking) -> bool {
        value.0.try_lock().map(|_| false).expect("both sides are one value, and would wait forever")
    }
    let locking = |number| Locking(std::sync::Mutex::new(number));
    let check = check!(Result<Locking, Neither>);
    let again = || Some(Box::new(locking(2)) as Box<dyn std::any::Any>);
    assert_eq!(check.compare(&locking(1), &locking(2), false, again), Err(NOT_EQUAL));
}

#[test]
fn the_order_of_map_entries_does_not_count() {
    let map = || (0..100).map(|number| (number, number.to_string())).collect::<HashMap<_, _>>();
    let (first, second) = (format!("{:?}", map()), format!("{:?}", map()));
    assert_ne!(first, second, "two maps have two orders");
    assert!(are_alike(&first, &second));
    assert!(!are_alike(&first, &second.replace("99", "98")));
}
