//! Copies of the receiver (`self`), for a refresh that runs after the annotated function has
//! returned. No `let` can bind `self`, so the copy gets another name. [`with_receiver`] writes this
//! name in place of `self` in the code that uses the copy.

use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Expr, FnArg, ReceiverKind, Type};

use crate::expand::CratePath;
use crate::item::Function;
use crate::lifetimes::is_shared_reference;

/// The statements that give a refresh its own receiver and parameters. The option `refresh_with`
/// makes the receiver. A parameter that is a reference is replaced by a copy of its target.
pub(crate) struct RefreshCopies {
    /// Makes the copies.
    pub(crate) copy: TokenStream,
    /// Borrows the copies under the names of the parameters and of the receiver.
    pub(crate) borrow: TokenStream,
}

impl RefreshCopies {
    pub(crate) fn new(
        function: &Function,
        refresh_with: &Expr,
        receiver: &Ident,
        krate: &CratePath<'_>,
    ) -> RefreshCopies {
        let (mut names, mut copies, mut borrows) = (Vec::new(), Vec::new(), Vec::new());
        for parameter in &function.parameters {
            let argument = &function.signature.inputs[parameter.argument];
            let name = &parameter.ident;
            if let FnArg::Receiver(written) = argument {
                let target = match &written.kind {
                    ReceiverKind::Typed(_, ty) => match &**ty {
                        Type::Reference(reference) => reference.elem.to_token_stream(),
                        other => other.to_token_stream(),
                    },
                    _ => quote!(Self),
                };
                let span = refresh_with.span();
                let own = krate.private(span, "own_receiver");
                names.push(receiver);
                copies.push(quote_spanned!(span=> #own::<#target, _>(#refresh_with)));
                borrows.push(quote!(#receiver.get()));
            } else if is_shared_reference(argument) {
                let own = krate.private(name.span(), "own_parameter");
                names.push(name);
                copies.push(quote_spanned!(name.span()=> #own(&#name)));
                borrows.push(quote!(#name.get()));
            }
        }
        let rebind = krate.private(refresh_with.span(), "rebind");
        let copy = quote!(#rebind!((#(#names,)*) = (#(#copies,)*)););
        let borrow = quote!(#rebind!(used (#(#names,)*) = (#(#borrows,)*)););
        RefreshCopies { copy, borrow }
    }
}

/// Replaces `self` by `name`.
///
/// These uses stay, because they are not the receiver of the annotated function: the path
/// `self::…`, a `self` in a `use` or in `pub(self)`, and everything in an item that has a `self` of
/// its own.
pub(crate) fn with_receiver(tokens: TokenStream, name: &Ident) -> TokenStream {
    let mut replaced = Vec::new();
    let mut rest = tokens.into_iter().peekable();
    while let Some(token) = rest.next() {
        match token {
            TokenTree::Ident(word) if word == "self" => {
                let is_path =
                    matches!(rest.peek(), Some(TokenTree::Punct(p)) if p.as_char() == ':');
                let word = match is_path {
                    true => word,
                    false => Ident::new(&name.to_string(), name.span().located_at(word.span())),
                };
                replaced.push(word.into());
            }
            TokenTree::Ident(word) => {
                let is_item = match word.to_string().as_str() {
                    "use" | "impl" | "trait" => true,
                    // A type such as `fn(u8)` has no name after the `fn`.
                    "fn" => matches!(rest.peek(), Some(TokenTree::Ident(_))),
                    _ => false,
                };
                let is_visibility = word == "pub";
                replaced.push(word.into());
                if is_item {
                    // The item ends with its `;` or with its braces.
                    for token in rest.by_ref() {
                        let is_end = matches!(&token, TokenTree::Punct(p) if p.as_char() == ';')
                            || matches!(&token, TokenTree::Group(g) if g.delimiter() == Delimiter::Brace);
                        replaced.push(token);
                        if is_end {
                            break;
                        }
                    }
                } else if is_visibility && matches!(rest.peek(), Some(TokenTree::Group(_))) {
                    replaced.extend(rest.next());
                }
            }
            TokenTree::Group(group) => {
                let mut with_name =
                    Group::new(group.delimiter(), with_receiver(group.stream(), name));
                with_name.set_span(group.span());
                replaced.push(with_name.into());
            }
            other => replaced.push(other),
        }
    }
    replaced.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use proc_macro2::Span;
    use quote::quote;

    use super::*;

    #[test]
    fn only_the_receiver_is_replaced() {
        let this = Ident::new("this", Span::call_site());
        let given = quote! {
            use self::{self, page};
            use page::{self, other};
            pub(self) struct A;
            impl A { fn get(&self) -> &Self { self } }
            fn helper(other: impl Fn() -> u8) -> Box<dyn Fn()> { self.x }
            let f: fn(u8) -> u8 = |x| { self.x(x) };
            self::page(self.number, [self], format!("{}", self.name), Self::new())
        };
        let expected = quote! {
            use self::{self, page};
            use page::{self, other};
            pub(self) struct A;
            impl A { fn get(&self) -> &Self { self } }
            fn helper(other: impl Fn() -> u8) -> Box<dyn Fn()> { self.x }
            let f: fn(u8) -> u8 = |x| { this.x(x) };
            self::page(this.number, [this], format!("{}", this.name), Self::new())
        };
        assert_eq!(with_receiver(given, &this).to_string(), expected.to_string());
    }
}
