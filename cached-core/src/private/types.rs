//! What tells the keys of a function's type arguments apart.

use std::sync::atomic::Ordering;

use serde::ser::Serializer;

use crate::declaration::Declaration;
use crate::key::{END, KeyParts, KeySerializer, KeySink, SEQ};

/// The type and const arguments of a function and of the impl around it.
#[derive(Clone, Copy)]
pub(super) struct Types<C> {
    /// The name of the type of a closure in the function's body.
    pub(super) site: &'static str,
    /// The names of the function's own type arguments.
    pub(super) own: &'static str,
    pub(super) constants: C,
}

impl<C: KeyParts> Types<C> {
    /// Adds what there is to the key; nothing where there are no arguments, so that such keys
    /// do not depend on how the compiler writes a type.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn write<S: KeySink>(
        &self,
        declaration: &Declaration,
        sink: S,
    ) -> Result<S, S::Error> {
        if self.own.is_empty() && !C::ANY && is_plain_site(declaration, self.site) {
            return Ok(sink);
        }
        self.write_all(sink)
    }

    #[inline(never)]
    fn write_all<S: KeySink>(self, sink: S) -> Result<S, S::Error> {
        let container = container(self.site);
        let container = if is_plain(container) { "" } else { container };
        let sink = KeySerializer(sink).serialize_str(container)?;
        let sink = KeySerializer(sink).serialize_str(self.own)?;
        self.constants.write(sink.brackets([SEQ])?)?.brackets([END])
    }
}

/// Whether a site has no type arguments. An ordinary function has one site, and it is looked at once.
#[cfg_attr(not(debug_assertions), inline(always))]
fn is_plain_site(declaration: &Declaration, site: &'static str) -> bool {
    let address = site.as_ptr().addr();
    declaration.non_generic_site.load(Ordering::Relaxed) == address
        || look_at_site(declaration, site, address)
}

#[inline(never)]
fn look_at_site(declaration: &Declaration, site: &'static str, address: usize) -> bool {
    let is_plain = is_plain(container(site));
    if is_plain {
        declaration.non_generic_site.store(address, Ordering::Relaxed);
    }
    is_plain
}

/// The part of a closure's type name that stands before the function: its module, or its type.
/// `app::Client<A>::fetch<B>::{{closure}}` → `app::Client<A>`.
fn container(site: &str) -> &str {
    let mut path = site;
    while let Some(outer) = path.strip_suffix("::{{closure}}") {
        path = outer;
    }
    if path.ends_with('>') {
        let mut depth = 0usize;
        let open = path.char_indices().rev().find(|&(index, c)| {
            match c {
                // The arrow of a function pointer closes nothing.
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

/// Whether a path names no type arguments. A method of a trait has its `Self` for one: a default
/// method runs for every type that implements the trait.
fn is_plain(container: &str) -> bool {
    container.chars().all(|c| c == ':' || c == '_' || c.is_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_of_a_function_is_what_stands_before_it() {
        for (site, expected, plain) in [
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
            assert_eq!(container(site), expected, "{site}");
            assert_eq!(is_plain(container(site)), plain, "{site}");
        }
    }
}
