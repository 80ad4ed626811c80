//! Recognizes collections whose elements have no stable order, in a key that is being encoded.
//!
//! When a standard collection is serialized, the serializer receives a reference to the collection,
//! even if another type contains the collection. The serializer can learn only the name of the
//! reference's type, so this module compares names.

use std::any::type_name;
use std::collections::{BinaryHeap, HashSet};

/// The beginning of the type name of a `hashbrown` set. Several other hash sets are wrappers around
/// it.
const HASHBROWN_SET: &str = "hashbrown::set::HashSet<";

/// Returns the name of the type that `Reference` refers to, if equal values of this type can list
/// their elements in different orders.
#[inline]
pub(super) fn unordered_name<Reference>() -> Option<&'static str> {
    let name = type_name::<Reference>().strip_prefix('&')?;
    let is_unordered = is_instance_of(name, type_name::<HashSet<()>>())
        || is_instance_of(name, type_name::<BinaryHeap<()>>())
        || name.starts_with(HASHBROWN_SET);
    is_unordered.then_some(name)
}

/// Returns true if both names belong to the same generic type. The type arguments may differ.
#[inline]
fn is_instance_of(name: &str, standard: &str) -> bool {
    let Some(end) = standard.find('<') else { return false };
    name.starts_with(&standard[..=end])
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use super::*;

    #[test]
    fn hash_sets_and_heaps_have_no_stable_order() {
        assert!(unordered_name::<&HashSet<u8>>().is_some_and(|name| name.ends_with("HashSet<u8>")));
        assert!(unordered_name::<&BinaryHeap<String>>().is_some());
        assert_eq!(unordered_name::<&BTreeSet<u8>>(), None);
        assert_eq!(
            unordered_name::<&Vec<HashSet<u8>>>(),
            None,
            "a list is ordered; the sets in it are checked when they are serialized"
        );
        assert_eq!(unordered_name::<&VecDeque<u8>>(), None);
    }
}
