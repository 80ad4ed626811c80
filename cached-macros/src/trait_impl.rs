//! Finds out whether an annotated method is in a trait impl. Such a method cannot have a companion.
//!
//! A *companion* is a second function that the option `entry = NAME` adds beside the annotated
//! function. In a trait impl, the compiler accepts only methods of the trait, so it would refuse a
//! companion.
//!
//! The compiler passes the attribute only the method, and not the impl around the method. This
//! module therefore reads the source file.

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::visit::{Visit, visit_file, visit_item_fn, visit_item_impl};
use syn::{Attribute, ImplItem, ItemFn, ItemImpl, Meta, Signature, Visibility};

use crate::item::Function;

/// Returns the name of the trait if the method with this companion is in a trait impl.
///
/// Returns `None` if the method is not in a trait impl, or if that is uncertain. It is uncertain,
/// for example, if the source file cannot be read, if another macro wrote the function, or if two
/// functions in the file match. If the method is in a trait impl after all, the compiler reports
/// that the trait has no method with the companion's name.
pub(crate) fn find_trait(function: &Function, companion: &Ident) -> Option<String> {
    // The methods of a trait impl have no visibility of their own.
    if !matches!(function.visibility, Visibility::Inherited) || !proc_macro::is_available() {
        return None;
    }
    let file = proc_macro::Span::call_site().local_file()?;
    find_trait_in(&std::fs::read_to_string(file).ok()?, &function.signature.ident, companion)
}

fn find_trait_in(source: &str, method: &Ident, companion: &Ident) -> Option<String> {
    let mut search = TraitOfMethodSearch { method, companion, traits: Vec::new() };
    visit_file(&mut search, &syn::parse_file(source).ok()?);
    // The file can have several matching functions. If one of them is not in a trait impl, it might
    // be the annotated function.
    search.traits.into_iter().reduce(|found, other| found.and(other)).flatten()
}

/// A search for the functions in a file that could be the annotated one. These have the method's
/// name and an attribute that names the companion.
struct TraitOfMethodSearch<'a> {
    method: &'a Ident,
    companion: &'a Ident,
    /// For each place where such a function was found: the trait of the impl around the function.
    /// `None` stands for an inherent impl, or for a free function.
    traits: Vec<Option<String>>,
}

impl TraitOfMethodSearch<'_> {
    fn may_be_annotated(&self, signature: &Signature, attributes: &[Attribute]) -> bool {
        signature.ident == *self.method
            && attributes.iter().any(|attribute| names_companion(attribute, self.companion))
    }
}

impl<'ast> Visit<'ast> for TraitOfMethodSearch<'_> {
    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        let has_method = item.items.iter().any(|item| match item {
            ImplItem::Fn(item) => self.may_be_annotated(&item.sig, &item.attrs),
            _ => false,
        });
        if has_method {
            let segment = item.trait_.as_ref().and_then(|(path, _)| path.segments.last());
            self.traits.push(segment.map(|segment| segment.ident.to_string()));
        }
        visit_item_impl(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        if self.may_be_annotated(&item.sig, &item.attrs) {
            self.traits.push(None);
        }
        visit_item_fn(self, item);
    }
}

/// Returns true if the attribute has `entry = NAME` with the companion's name. The attribute's path
/// is not checked, because it can be renamed by a `use`.
fn names_companion(attribute: &Attribute, companion: &Ident) -> bool {
    let Meta::List(list) = &attribute.meta else { return false };
    let tokens: Vec<TokenTree> = TokenStream::clone(&list.tokens).into_iter().collect();
    tokens.windows(3).any(|tokens| match tokens {
        [TokenTree::Ident(option), TokenTree::Punct(_), TokenTree::Ident(name)] => {
            option == "entry" && name == companion
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use quote::format_ident;

    use super::*;

    fn find(source: &str) -> Option<String> {
        find_trait_in(source, &format_ident!("fetch"), &format_ident!("payment_entry"))
    }

    #[test]
    fn a_method_of_a_trait_impl_is_found() {
        let annotated =
            "#[coordinator_cached(name = \"p\", entry = payment_entry)] async fn fetch(&self) {}";
        let of_trait = format!("mod a {{ impl shop::Payments for Client {{ {annotated} }} }}");
        let in_function = format!("fn main() {{ impl Payments<u8> for Client {{ {annotated} }} }}");
        let inherent = format!("impl Client {{ {annotated} }}");
        assert_eq!(find(&of_trait).as_deref(), Some("Payments"));
        assert_eq!(find(&in_function).as_deref(), Some("Payments"));
        assert_eq!(find(&inherent), None);
        assert_eq!(find(&format!("{of_trait} {inherent}")), None);
        let free = annotated.replace("&self", "");
        assert_eq!(find(&format!("{of_trait} mod b {{ {free} }}")), None);
        assert_eq!(find(&of_trait.replace("payment_entry", "other_entry")), None);
        assert_eq!(find("impl Payments for"), None);
    }
}
