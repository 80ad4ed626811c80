//! A function that is not `async` and returns the future of its one `async` block: as traits have
//! it written, and as `#[async_trait]` leaves it.

use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};
use quote::quote;
use syn::{GenericArgument, Path, PathArguments, Type, TypeParamBound};

use crate::item::is_punct;

pub(crate) struct Desugared {
    /// What the future gives.
    pub(crate) output: Type,
    /// The function's own braces.
    body: Group,
    /// `Box::pin` and its parentheses, where the block stands in them.
    pin: Option<(TokenStream, Group)>,
    asynchronous: Ident,
    /// The braces of the block.
    pub(crate) block: Group,
}

impl Desugared {
    /// `None` where the body is something else than one block, since what stands before the block
    /// could give other values to the names that are in the key.
    pub(crate) fn of(returned: &Type, body: &Group) -> Option<Desugared> {
        let output = output(returned)?.clone();
        let trees: Vec<TokenTree> = body.stream().into_iter().collect();
        let (pin, (asynchronous, block)) = match trees.split_last()? {
            (TokenTree::Group(arguments), path)
                if arguments.delimiter() == Delimiter::Parenthesis
                    && matches!(path.last(), Some(TokenTree::Ident(pin)) if pin == "pin") =>
            {
                let argument: Vec<TokenTree> = arguments.stream().into_iter().collect();
                let path = path.iter().cloned().collect();
                (Some((path, arguments.clone())), block(without_comma(&argument))?)
            }
            _ => (None, block(&trees)?),
        };
        Some(Desugared { output, body: body.clone(), pin, asynchronous, block })
    }

    /// The function's body, with `statements` for the block's braces and what was in them. It is
    /// `async move` in any case: the key is made in it.
    pub(crate) fn around(&self, statements: &TokenTree) -> TokenTree {
        let asynchronous = &self.asynchronous;
        let moving = Ident::new("move", asynchronous.span());
        let block = quote!(#asynchronous #moving #statements);
        let future = match &self.pin {
            Some((path, parentheses)) => {
                let argument = with_content(parentheses, block);
                quote!(#path #argument)
            }
            None => block,
        };
        with_content(&self.body, future)
    }
}

fn with_content(group: &Group, content: TokenStream) -> TokenTree {
    let mut changed = Group::new(group.delimiter(), content);
    changed.set_span(group.span());
    changed.into()
}

/// `async { … }` or `async move { … }` and nothing else.
fn block(trees: &[TokenTree]) -> Option<(Ident, Group)> {
    let (TokenTree::Ident(asynchronous), rest) = trees.split_first()? else { return None };
    let rest = match rest {
        [TokenTree::Ident(moving), rest @ ..] if moving == "move" => rest,
        rest => rest,
    };
    match rest {
        [TokenTree::Group(block)]
            if asynchronous == "async" && block.delimiter() == Delimiter::Brace =>
        {
            Some((asynchronous.clone(), block.clone()))
        }
        _ => None,
    }
}

fn without_comma(trees: &[TokenTree]) -> &[TokenTree] {
    match trees.split_last() {
        Some((last, rest)) if is_punct(Some(last), ',') => rest,
        _ => trees,
    }
}

/// The `T` of `impl Future<Output = T>` and of `Pin<Box<dyn Future<Output = T>>>`, whatever the
/// other bounds are.
pub(crate) fn output(returned: &Type) -> Option<&Type> {
    match returned {
        Type::Group(inner) => output(&inner.elem),
        Type::Paren(inner) => output(&inner.elem),
        Type::ImplTrait(future) => future.bounds.iter().find_map(output_of),
        Type::Path(pin) => match argument(&pin.path, "Pin")? {
            Type::Path(boxed) => match argument(&boxed.path, "Box")? {
                Type::TraitObject(future) => future.bounds.iter().find_map(output_of),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

fn output_of(bound: &TypeParamBound) -> Option<&Type> {
    let TypeParamBound::Trait(bound) = bound else { return None };
    arguments(&bound.path, "Future").find_map(|argument| match argument {
        GenericArgument::AssocType(output) if output.ident == "Output" => Some(&output.ty),
        _ => None,
    })
}

fn argument<'a>(path: &'a Path, name: &str) -> Option<&'a Type> {
    arguments(path, name).find_map(|argument| match argument {
        GenericArgument::Type(argument) => Some(argument),
        _ => None,
    })
}

fn arguments<'a>(path: &'a Path, name: &str) -> impl Iterator<Item = &'a GenericArgument> {
    let last = path.segments.last().filter(|last| last.ident == name);
    let arguments = last.and_then(|last| match &last.arguments {
        PathArguments::AngleBracketed(arguments) => Some(&arguments.args),
        _ => None,
    });
    arguments.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use quote::ToTokens;

    use super::*;

    #[test]
    fn one_block_is_desugared_and_nothing_else() {
        let boxed = quote!(::core::pin::Pin<Box<dyn Send + Future<Output = u8> + 'a>>);
        let opaque = quote!(impl Send + ::core::future::Future<Output = u8> + 'static);
        for (returned, body, expected) in [
            (&opaque, quote!({ async move { 1 } }), Some("{ async move { 2 } }")),
            (&opaque, quote!({ async { 1 } }), Some("{ async move { 2 } }")),
            (
                &boxed,
                quote!({ Box::pin(async move { 1 },) }),
                Some("{ Box :: pin (async move { 2 }) }"),
            ),
            (
                &opaque,
                quote!({
                    let number = 0;
                    async move { number }
                }),
                None,
            ),
            (&opaque, quote!({ async move { 1 }.boxed() }), None),
            (&boxed, quote!({ upstream(async move { 1 }) }), None),
            (&quote!(BoxFuture<'a, u8>), quote!({ Box::pin(async move { 1 }) }), None),
            (&quote!(u8), quote!({ async move { 1 } }), None),
        ] {
            let returned: Type = syn::parse2(returned.clone()).expect("a type");
            let body: Group = syn::parse2(body).expect("braces");
            let desugared = Desugared::of(&returned, &body);
            let output = desugared.as_ref().map(|found| found.output.to_token_stream().to_string());
            assert_eq!(output, expected.map(|_| "u8".to_owned()), "{body}");
            let statements: Group = syn::parse2(quote!({ 2 })).expect("braces");
            let around =
                desugared.map(|found| found.around(&statements.clone().into()).to_string());
            assert_eq!(around.as_deref(), expected, "{body}");
        }
    }
}
