//! Writes the type and const arguments of an annotated function into the keys of its entries.

use std::sync::atomic::Ordering;

use serde::ser::Serializer;

use crate::declaration::Declaration;
use crate::key::{END, KeyParts, KeySerializer, KeySink, SEQ};

/// The type and const arguments of a function and of the `impl` block around it.
#[derive(Clone, Copy)]
pub(super) struct GenericArguments<Constants> {
    /// The type name of a closure in the function's body. This name contains the path of the
    /// function, with the type arguments of the `impl` block.
    pub(super) closure: &'static str,
    /// The type name of a tuple with the function's own type arguments, or an empty string if the
    /// function has none.
    pub(super) own_types: &'static str,
    /// The function's own const arguments, and the type names of its `impl Trait` arguments.
    pub(super) constants: Constants,
}

impl<Constants: KeyParts> GenericArguments<Constants> {
    /// Writes the arguments into a key. If there are none, writes nothing. The keys of such a
    /// function therefore do not depend on how the compiler prints types.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn write<S: KeySink>(
        &self,
        declaration: &Declaration,
        sink: S,
    ) -> Result<S, S::Error> {
        if self.own_types.is_empty()
            && !Constants::HAS_PARTS
            && is_in_plain_container(declaration, self.closure)
        {
            return Ok(sink);
        }
        self.write_all(sink)
    }

    #[inline(never)]
    fn write_all<S: KeySink>(self, sink: S) -> Result<S, S::Error> {
        let container = container(self.closure);
        let container = if is_plain(container) { "" } else { container };
        let sink = KeySerializer(sink).serialize_str(container)?;
        let sink = KeySerializer(sink).serialize_str(self.own_types)?;
        self.constants.write(sink.unhashed([SEQ])?)?.unhashed([END])
    }
}

/// Returns true if the annotated function is in a module, or in the `impl` block of a type without
/// type arguments. `closure` is the type name of a closure in the function.
///
/// If the result is true, the declaration stores the address of the closure's name. The next call
/// with the same closure compares two addresses and does not parse the name.
#[cfg_attr(not(debug_assertions), inline(always))]
fn is_in_plain_container(declaration: &Declaration, closure: &'static str) -> bool {
    let address = closure.as_ptr().addr();
    declaration.non_generic_closure.load(Ordering::Relaxed) == address
        || parse_container(declaration, closure, address)
}

#[inline(never)]
fn parse_container(declaration: &Declaration, closure: &'static str, address: usize) -> bool {
    let is_plain = is_plain(container(closure));
    if is_plain {
        declaration.non_generic_closure.store(address, Ordering::Relaxed);
    }
    is_plain
}

/// Returns the path of the module or the type that contains a function. `closure` is the type name
/// of a closure in the function. Example: `app::Client<A>::fetch<B>::{{closure}}` →
/// `app::Client<A>`.
fn container(closure: &str) -> &str {
    let mut path = closure;
    while let Some(outer) = path.strip_suffix("::{{closure}}") {
        path = outer;
    }
    if path.ends_with('>') {
        let mut depth = 0usize;
        let open = path.char_indices().rev().find(|&(index, c)| {
            match c {
                // The `>` of `->` closes no bracket.
                '>' if !path[..index].ends_with('-') => depth += 1,
                '<' => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0
        });
        path = open.map_or(path, |(open, _)| &path[..open]);
    }
    path.rsplit_once("::").map_or("", |(container, _)| container)
}

/// Returns true if the path shows no type arguments.
///
/// The path of a trait implementation, such as `<Client as Fetch>`, is not plain. A default method
/// of the trait runs for every type that implements the trait, so `Self` counts as a type argument.
fn is_plain(container: &str) -> bool {
    container.chars().all(|c| c == ':' || c == '_' || c.is_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_the_path_before_the_function() {
        for (closure, expected, plain) in [
            ("app::free::{{closure}}::{{closure}}", "app", true),
            ("app::free<alloc::vec::Vec<u8>, 3>::{{closure}}", "app", true),
            ("app::Client::fetch::{{closure}}", "app::Client", true),
            ("app::Client<u8>::fetch::{{closure}}", "app::Client<u8>", false),
            ("app::Client<u8>::fetch<fn(u8) -> u8>::{{closure}}", "app::Client<u8>", false),
            ("<app::P as app::Tr>::g::{{closure}}", "<app::P as app::Tr>", false),
            ("<app::P as app::Tr<u8>>::g::{{closure}}", "<app::P as app::Tr<u8>>", false),
            ("<&app::P as app::Tr>::g::{{closure}}", "<&app::P as app::Tr>", false),
            ("<(u8, u16) as app::Tr>::g<u8>::{{closure}}", "<(u8, u16) as app::Tr>", false),
        ] {
            assert_eq!(container(closure), expected, "the container of {closure}");
            assert_eq!(is_plain(container(closure)), plain, "is the container of {closure} plain?");
        }
    }
}
