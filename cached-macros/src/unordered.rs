//! Finds collections without a stable order in the type of a parameter. Equal collections of such a
//! type give different keys.

use quote::ToTokens;
use syn::{GenericArgument, PathArguments, Type, TypePath};

/// The names of collections without a stable order.
const UNORDERED: [&str; 5] = ["HashSet", "FxHashSet", "AHashSet", "DashSet", "BinaryHeap"];

/// The names of types whose `Serialize` serializes the type arguments as they are. The elements of
/// any other type are not searched, because its `Serialize` may sort them.
const TRANSPARENT: [&str; 13] = [
    "Option",
    "Result",
    "Vec",
    "VecDeque",
    "Box",
    "Arc",
    "Rc",
    "Cow",
    "HashMap",
    "BTreeMap",
    "LinkedList",
    "Mutex",
    "RwLock",
];

/// A collection without a stable order in the type of a parameter.
pub(crate) struct UnorderedCollection<'a> {
    pub(crate) ty: &'a TypePath,
    /// True if the parameter is the collection, or a reference or pointer to the collection. Such a
    /// parameter has the method `iter`.
    pub(crate) is_whole: bool,
}

impl UnorderedCollection<'_> {
    /// Returns the name of the collection, such as `HashSet`.
    pub(crate) fn name(&self) -> String {
        let last = self.ty.path.segments.last();
        last.map_or_else(|| self.ty.to_token_stream().to_string(), |last| last.ident.to_string())
    }
}

/// Returns the first collection without a stable order that the type shows.
pub(crate) fn find_unordered(ty: &Type) -> Option<UnorderedCollection<'_>> {
    find(ty, true)
}

fn find(ty: &Type, is_whole: bool) -> Option<UnorderedCollection<'_>> {
    match ty {
        Type::Group(inner) => find(&inner.elem, is_whole),
        Type::Paren(inner) => find(&inner.elem, is_whole),
        Type::Reference(inner) => find(&inner.elem, is_whole),
        Type::Slice(inner) => find(&inner.elem, false),
        Type::Array(inner) => find(&inner.elem, false),
        Type::Tuple(tuple) => tuple.elems.iter().find_map(|element| find(element, false)),
        Type::Path(ty) => {
            let last = ty.path.segments.last()?;
            let is_in = |names: &[&str]| names.iter().any(|name| last.ident == name);
            if is_in(&UNORDERED) {
                return Some(UnorderedCollection { ty, is_whole });
            }
            let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
            let is_pointer = is_in(&["Box", "Arc", "Rc", "Cow"]);
            let arguments = arguments.args.iter().filter(|_| is_in(&TRANSPARENT));
            arguments.into_iter().find_map(|argument| match argument {
                GenericArgument::Type(argument) => find(argument, is_whole && is_pointer),
                _ => None,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_sets_that_serde_passes_on_are_found() {
        for (ty, is_whole) in [
            ("HashSet<u8>", true),
            ("&std::collections::HashSet<u8, S>", true),
            ("Arc<HashSet<u8>>", true),
            ("BinaryHeap<u8>", true),
            ("Vec<HashSet<u8>>", false),
            ("Option<&HashSet<u8>>", false),
            ("&[(u8, HashSet<u8>)]", false),
            ("HashMap<u8, Vec<ahash::AHashSet<u8>>>", false),
        ] {
            let ty: Type = syn::parse_str(ty).expect("a type");
            let found = find_unordered(&ty).map(|found| found.is_whole);
            assert_eq!(found, Some(is_whole), "{}", ty.to_token_stream());
        }
        for ty in ["BTreeSet<u8>", "HashMap<u8, u8>", "Sorted<HashSet<u8>>", "fn(HashSet<u8>)"] {
            let ty: Type = syn::parse_str(ty).expect("a type");
            assert!(find_unordered(&ty).is_none(), "{}", ty.to_token_stream());
        }
    }
}
