//! What tells the keys of a function's type arguments apart.

use std::any::type_name;
use std::sync::atomic::Ordering;

use super::Part;
use crate::declaration::Declaration;
use crate::key::{Encoder, KeyError};

/// The type and const arguments of a function and of the impl around it.
pub struct Types<'t> {
    site: &'static str,
    own: &'static str,
    constants: &'t [Part<'t>],
}

impl<'t> Types<'t> {
    /// Takes a closure of the function's body: its type's name shows the arguments of the impl,
    /// which the attribute does not see.
    #[inline]
    pub fn new<Closure>(_: &Closure) -> Types<'t> {
        Types { site: type_name::<Closure>(), own: "", constants: &[] }
    }

    /// Adds the function's own type arguments, as a tuple of `PhantomData`.
    #[must_use]
    pub fn of<Arguments>(self) -> Types<'t> {
        Types { own: type_name::<Arguments>(), ..self }
    }

    /// Adds the function's own const arguments.
    #[must_use]
    pub fn constants(self, constants: &'t [Part<'t>]) -> Types<'t> {
        Types { constants, ..self }
    }

    /// Adds what there is to the key; nothing where there are no arguments, so that such keys
    /// do not depend on how the compiler writes a type.
    #[inline(always)]
    pub(super) fn encode(
        &self,
        declaration: &Declaration,
        encoder: &mut Encoder,
    ) -> Result<(), KeyError> {
        if self.own.is_empty() && self.constants.is_empty() {
            // An ordinary function has one site, and it is looked at once.
            let site = self.site.as_ptr().addr();
            if declaration.plain_site.load(Ordering::Relaxed) == site {
                return Ok(());
            }
            if is_plain(container(self.site)) {
                declaration.plain_site.store(site, Ordering::Relaxed);
                return Ok(());
            }
        }
        let container = container(self.site);
        encoder.str(if is_plain(container) { "" } else { container });
        encoder.str(self.own);
        encoder.parts(self.constants)
    }
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
