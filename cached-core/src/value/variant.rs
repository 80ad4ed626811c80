//! Recognizes `None` and `Err` in a value of any type.
//!
//! The return type of a generic function may be an `Option` for one type argument and a `Vec` for
//! another. Stable Rust cannot specialize code for these two cases. This module therefore compares
//! the name of the type with the name of the standard `Option` or `Result`, and then compares the
//! variants.
//!
//! Comparing the output of `Serialize` would not be enough. A newtype around an `Option` serializes
//! like the `Option`, and a program's own enum named `Result` serializes like the standard
//! `Result`.

use std::any::type_name;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::discriminant;

pub(super) fn is_none<V>(value: &V) -> bool {
    is_option::<V>() && variant_number(value) == variant_number(&None::<()>)
}

pub(super) fn is_err<V>(value: &V) -> bool {
    is_instance_of::<V, Result<(), ()>>("(), ()>")
        && variant_number(value) == variant_number(&Err::<(), ()>(()))
}

pub(super) fn is_option<V>() -> bool {
    is_instance_of::<V, Option<()>>("()>")
}

/// Returns true if `V` and `Standard` are the same generic type, such as two `Option`s. Their type
/// arguments may differ. `arguments` must be the part of `Standard`'s name after the `<`. It is
/// passed because searching the name for the `<` would be slower.
fn is_instance_of<V, Standard>(arguments: &str) -> bool {
    let name = type_name::<V>();
    // A closure in a method of the type has a name with the same beginning, but no `>` at the end.
    let standard = type_name::<Standard>().strip_suffix(arguments);
    standard.is_some_and(|standard| name.starts_with(standard)) && name.ends_with('>')
}

/// Returns a number for the variant of `value`. The number does not depend on the type arguments of
/// the enum.
fn variant_number<V>(value: &V) -> u64 {
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
    fn none_is_recognized_in_any_option() {
        assert!(is_none(&None::<u8>) && is_none(&None::<String>) && is_none(&None::<NonZeroU8>));
        assert!(is_none(&None::<Option<u8>>) && is_none(&None::<Result<u8, String>>));
        assert!(!is_none(&Some(0)) && !is_none(&Some(None::<u8>)) && !is_none(&Some(())));
        assert!(!is_none(&Some(NonZeroU8::MIN)) && !is_none(&Some(Box::new(1))));
    }

    #[test]
    fn err_is_recognized_in_any_result() {
        assert!(is_err(&Err::<u8, _>(1)) && is_err(&Err::<(), ()>(())));
        assert!(is_err(&Err::<Option<u8>, _>("no".to_owned())));
        assert!(!is_err(&Ok::<_, u8>(1)) && !is_err(&Ok::<_, String>(None::<u8>)));
    }

    #[test]
    fn other_types_are_neither_none_nor_err() {
        enum Option<T> {
            None,
            _Some(T),
        }
        assert!(!is_none(&Option::None::<u8>));
        assert!(!is_none(&Arc::new(None::<u8>)) && !is_none(&[None::<u8>]) && !is_none(&()));
        assert!(!is_err(&Some(Err::<u8, _>(1))) && !is_err(&Box::new(Err::<u8, _>(1))));
    }
}
