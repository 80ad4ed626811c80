//! Lifetimes in types, as far as tokens show them.

use proc_macro2::{Group, Ident, Punct, Spacing, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};

use crate::item::is_punct;

/// Whether something in the type may be borrowed for less than `'static`.
pub(crate) fn borrows(returned: &impl ToTokens) -> bool {
    let returned = returned.to_token_stream();
    let bare = |tokens: &TokenStream| tokens.to_string().replace(' ', "");
    bare(&returned) != bare(&without_lifetimes(&returned))
}

/// The type with `'static` for every lifetime. What is cached is `'static` anyway, and an error
/// that is not is none of anybody's concern here.
pub(crate) fn without_lifetimes(returned: &impl ToTokens) -> TokenStream {
    let mut result = TokenStream::new();
    let mut tokens = returned.to_token_stream().into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) => {
                let mut inner = Group::new(group.delimiter(), without_lifetimes(&group.stream()));
                inner.set_span(group.span());
                inner.to_tokens(&mut result);
            }
            TokenTree::Punct(quote) if quote.as_char() == '\'' => {
                let name = tokens.next();
                let span = name.map_or(quote.span(), |name| name.span());
                lifetime(span).to_tokens(&mut result);
            }
            TokenTree::Punct(reference) if reference.as_char() == '&' => {
                reference.to_tokens(&mut result);
                if !is_punct(tokens.peek(), '\'') {
                    lifetime(reference.span()).to_tokens(&mut result);
                }
            }
            other => other.to_tokens(&mut result),
        }
    }
    result
}

fn lifetime(span: Span) -> TokenStream {
    let mut quote = Punct::new('\'', Spacing::Joint);
    quote.set_span(span);
    let name = Ident::new("static", span);
    quote!(#quote #name)
}
