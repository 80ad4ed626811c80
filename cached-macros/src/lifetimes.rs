//! Finds and replaces the lifetimes that the tokens of a type show. A type alias, for example, can
//! hide further lifetimes.

use proc_macro2::{Group, Ident, Punct, Spacing, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};

use crate::item::is_punct;

/// Returns true if the type's tokens show a reference or a lifetime that is not `'static`.
pub(crate) fn borrows(ty: &impl ToTokens) -> bool {
    let ty = ty.to_token_stream();
    let text = |tokens: &TokenStream| tokens.to_string().replace(' ', "");
    text(&ty) != text(&with_static_lifetimes(&ty))
}

/// Replaces every lifetime in the type by `'static`, also the elided lifetime of a reference.
///
/// The companion (the function that the option `entry` generates) needs this in its return type,
/// `EntryOf<R, P>`, where `R` is the return type of the annotated function. The lifetimes in `R`
/// may come from parameters that the companion lacks. The replacement is harmless: a cached value
/// is `'static` anyway, and `EntryOf` ignores the error type.
pub(crate) fn with_static_lifetimes(ty: &impl ToTokens) -> TokenStream {
    let mut result = TokenStream::new();
    let mut tokens = ty.to_token_stream().into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) => {
                let content = with_static_lifetimes(&group.stream());
                let mut inner = Group::new(group.delimiter(), content);
                inner.set_span(group.span());
                inner.to_tokens(&mut result);
            }
            TokenTree::Punct(quote) if quote.as_char() == '\'' => {
                let name = tokens.next();
                let span = name.map_or(quote.span(), |name| name.span());
                static_lifetime(span).to_tokens(&mut result);
            }
            TokenTree::Punct(reference) if reference.as_char() == '&' => {
                reference.to_tokens(&mut result);
                if !is_punct(tokens.peek(), '\'') {
                    static_lifetime(reference.span()).to_tokens(&mut result);
                }
            }
            other => other.to_tokens(&mut result),
        }
    }
    result
}

fn static_lifetime(span: Span) -> TokenStream {
    let mut quote = Punct::new('\'', Spacing::Joint);
    quote.set_span(span);
    let name = Ident::new("static", span);
    quote!(#quote #name)
}
