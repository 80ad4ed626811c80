//! Finds a `None` and an `Err` in a value of any type.
//!
//! The type decides, not what its `Serialize` goes through: a newtype of an `Option`, or a program's own enum
//! called `Result`, is a value like any other. A generic function does not say whether its `T` is an `Option`,
//! and Rust has no specialization. So the name of the type is compared, and then the variant, which every
//! `Option` has in common.

use std::any::type_name;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::discriminant;

pub(super) fn is_none<V>(value: &V) -> bool {
    is_option::<V>() && variant(value) == variant(&None::<()>)
}

pub(super) fn is_err<V>(value: &V) -> bool {
    is_instance_of::<V, Result<(), ()>>() && variant(value) == variant(&Err::<(), ()>(()))
}

pub(super) fn is_option<V>() -> bool {
    is_instance_of::<V, Option<()>>()
}

/// Returns true if `V` is the generic type that `S` is an instance of, with whatever arguments.
fn is_instance_of<V, S>() -> bool {
    let (standard, _) = type_name::<S>().split_once('<').unwrap_or_default();
    let name = type_name::<V>();
    // A closure in a method of the type has a name that begins in the same way.
    name.strip_prefix(standard).is_some_and(|rest| rest.starts_with('<') && rest.ends_with('>'))
}

/// Returns the same number for the same variant of an enum, whatever the enum's arguments are.
fn variant<V>(value: &V) -> u64 {
    let mut hasher = DefaultHasher::new();
    discriminant(value).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_none_is_found_whatever_it_is_an_option_of() {
        assert!(is_none(&None::<u8>) && is_none(&None::<String>) && is_none(&None::<NonZeroU8>));
        assert!(is_none(&None::<Option<u8>>) && is_none(&None::<Result<u8, String>>));
        assert!(!is_none(&Some(0)) && !is_none(&Some(None::<u8>)) && !is_none(&Some(())));
        assert!(!is_none(&Some(NonZeroU8::MIN)) && !is_none(&Some(Box::new(1))));
    }

    #[test]
    fn an_err_is_found_whatever_it_is_a_result_of() {
        assert!(is_err(&Err::<u8, _>(1)) && is_err(&Err::<(), ()>(())));
        assert!(is_err(&Err::<Option<u8>, _>("no".to_owned())));
        assert!(!is_err(&Ok::<_, u8>(1)) && !is_err(&Ok::<_, String>(None::<u8>)));
    }

    #[test]
    fn other_types_hold_neither() {
        enum Option<T> {
            None,
            _Some(T),
        }
        assert!(!is_none(&Option::None::<u8>));
        assert!(!is_none(&Arc::new(None::<u8>)) && !is_none(&[None::<u8>]) && !is_none(&()));
        assert!(!is_err(&Some(Err::<u8, _>(1))) && !is_err(&Box::new(Err::<u8, _>(1))));
    }
}
