//! Finds collections without a stable order, such as a `HashSet`, in the type of a parameter.
//!
//! If such a collection is in the cache's key, equal collections can give different keys.

use proc_macro2::Ident;
use quote::ToTokens;
use syn::{Expr, ExprMethodCall, GenericArgument, PathArguments, Type, TypePath};

/// The names of collections without a stable order.
const UNORDERED: [&str; 5] = ["HashSet", "FxHashSet", "AHashSet", "DashSet", "BinaryHeap"];

/// The names of generic types whose `Serialize` passes on a collection that they contain, without
/// sorting it. Other generic types are not searched, because their `Serialize` might sort the
/// collection.
const WRAPPERS: [&str; 13] = [
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

/// Returns the first collection without a stable order that the type names.
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
            let arguments = arguments.args.iter().filter(|_| is_in(&WRAPPERS));
            arguments.into_iter().find_map(|argument| match argument {
                GenericArgument::Type(argument) => find(argument, is_whole && is_pointer),
                _ => None,
            })
        }
        _ => None,
    }
}

/// The names of maps without a stable order. A map can be in a key as a whole, because the key
/// sorts the map's entries.
const UNORDERED_MAPS: [&str; 4] = ["HashMap", "FxHashMap", "AHashMap", "DashMap"];

/// The methods of collections and iterators that keep the order of the elements.
const ORDER_KEEPING_METHODS: [&str; 10] = [
    "iter",
    "into_iter",
    "keys",
    "into_keys",
    "values",
    "into_values",
    "copied",
    "cloned",
    "map",
    "by_ref",
];

/// The types that keep the order in which their elements were collected.
const SEQUENCES: [&str; 5] = ["Vec", "VecDeque", "LinkedList", "Box", "String"];

/// Returns the name of the type's collection or map if the elements of that have no stable order.
pub(crate) fn unordered_elements(ty: &Type) -> Option<String> {
    if let Some(found) = find_unordered(ty) {
        return found.is_whole.then(|| found.name());
    }
    match ty {
        Type::Group(inner) => unordered_elements(&inner.elem),
        Type::Paren(inner) => unordered_elements(&inner.elem),
        Type::Reference(inner) => unordered_elements(&inner.elem),
        Type::Path(ty) => {
            let last = ty.path.segments.last()?;
            UNORDERED_MAPS.iter().find(|name| last.ident == **name).map(|name| (*name).to_owned())
        }
        _ => None,
    }
}

/// The methods that can give equal results for different elements.
const REPEATING_METHODS: [&str; 3] = ["map", "values", "into_values"];

/// A sequence that is collected from a variable in the order of the variable's elements.
pub(crate) struct CollectedSequence<'a> {
    pub(crate) variable: &'a Ident,
    /// True if different elements of the variable are certain to stay different in the sequence.
    pub(crate) is_distinct: bool,
}

/// Returns the variable whose elements the expression collects into a sequence, such as `ids` in
/// `ids.iter().copied().collect::<Vec<_>>()`. Returns `None` if a method in the chain can change
/// the order of the elements.
pub(crate) fn collected_in_order(expression: &Expr) -> Option<CollectedSequence<'_>> {
    let Expr::MethodCall(collect) = expression else { return None };
    let elements = is_collect_of_sequence(collect).then_some(&*collect.receiver)?;
    let (mut inner, mut is_distinct) = (elements, true);
    while let Expr::MethodCall(call) = inner {
        if !ORDER_KEEPING_METHODS.iter().any(|method| call.method == method) {
            return None;
        }
        is_distinct &= !REPEATING_METHODS.iter().any(|method| call.method == method);
        inner = &call.receiver;
    }
    match inner {
        Expr::Path(path) => {
            let variable = path.path.get_ident()?;
            Some(CollectedSequence { variable, is_distinct })
        }
        _ => None,
    }
}

/// Returns true if the call is a `collect` that names one of [`SEQUENCES`], such as
/// `collect::<Vec<…>>()`.
fn is_collect_of_sequence(call: &ExprMethodCall) -> bool {
    let arguments = call.turbofish.iter().flat_map(|turbofish| &turbofish.args);
    let is_sequence = arguments.into_iter().any(|argument| match argument {
        GenericArgument::Type(Type::Path(ty)) => {
            let last = ty.path.segments.last();
            last.is_some_and(|last| SEQUENCES.iter().any(|name| last.ident == name))
        }
        _ => false,
    });
    call.method == "collect" && is_sequence
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

    #[test]
    fn a_collected_sequence_keeps_its_elements_order() {
        let found = |text: &str| {
            let expression: Expr = syn::parse_str(text).expect("an expression");
            let found = collected_in_order(&expression)?;
            Some((found.variable.to_string(), found.is_distinct))
        };
        for (text, is_distinct) in [
            ("ids.iter().collect::<Vec<_>>()", true),
            ("ids.into_iter().map(|id| id / 2).collect::<std::vec::Vec<u32>>()", false),
            ("ids.values().copied().collect::<VecDeque<u32>>()", false),
            ("ids.keys().cloned().collect::<Box<[_]>>()", true),
        ] {
            assert_eq!(found(text), Some(("ids".to_owned(), is_distinct)), "{text}");
        }
        for text in [
            "ids.iter().collect::<BTreeSet<_>>()",
            "ids.iter().sorted().collect::<Vec<_>>()",
            "ids.iter().filter(|id| **id == 7).collect::<Vec<_>>()",
            "sorted(ids.iter().collect::<Vec<_>>())",
            "self.ids.iter().collect::<Vec<_>>()",
            "ids.iter().collect()",
            "ids.len()",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
        let unordered = |text: &str| unordered_elements(&syn::parse_str(text).expect("a type"));
        assert_eq!(unordered("&HashMap<u8, u8>").as_deref(), Some("HashMap"));
        assert_eq!(unordered("Arc<HashSet<u8>>").as_deref(), Some("HashSet"));
        assert_eq!(unordered("Vec<HashSet<u8>>"), None);
        assert_eq!(unordered("BTreeMap<u8, u8>"), None);
    }
}
