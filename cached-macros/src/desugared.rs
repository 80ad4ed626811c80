//! Desugared async functions: functions without the keyword `async` that return the future of one
//! `async` block. Methods of traits often have this form, and `#[async_trait]` generates it.

use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};
use quote::quote;
use syn::{GenericArgument, Path, PathArguments, Type, TypeParamBound};

use crate::item::is_punct;

/// The parts of a function such as `fn f() -> impl Future<Output = T> { async move { … } }`.
pub(crate) struct DesugaredAsyncFn {
    /// The future's `Output`.
    pub(crate) output: Type,
    /// The function's body with its braces.
    body: Group,
    /// `Box::pin` and its parentheses, if the function passes the `async` block to `Box::pin`.
    pin: Option<(TokenStream, Group)>,
    async_keyword: Ident,
    /// The `async` block's braces with their content.
    pub(crate) block: Group,
}

impl DesugaredAsyncFn {
    /// Parses a function's return type and body. Returns `None` if the return type is not written
    /// as a future, or if the body contains code besides the `async` block. Such code could change
    /// the arguments from which the cache key is made.
    pub(crate) fn parse(return_type: &Type, body: &Group) -> Option<DesugaredAsyncFn> {
        let output = future_output(return_type)?.clone();
        let trees: Vec<TokenTree> = body.stream().into_iter().collect();
        let (pin, (async_keyword, block)) = match trees.split_last()? {
            (TokenTree::Group(arguments), path)
                if arguments.delimiter() == Delimiter::Parenthesis
                    && matches!(path.last(), Some(TokenTree::Ident(pin)) if pin == "pin") =>
            {
                let argument: Vec<TokenTree> = arguments.stream().into_iter().collect();
                let path = path.iter().cloned().collect();
                (Some((path, arguments.clone())), async_block(without_comma(&argument))?)
            }
            _ => (None, async_block(&trees)?),
        };
        Some(DesugaredAsyncFn { output, body: body.clone(), pin, async_keyword, block })
    }

    /// Returns the function's body, in which `new_block` replaces the `async` block's braces and
    /// their content.
    ///
    /// The new block is always `async move`, because the block must own the parameters that are in
    /// the cache key.
    pub(crate) fn body_with(&self, new_block: &TokenTree) -> TokenTree {
        let async_keyword = &self.async_keyword;
        let move_keyword = Ident::new("move", async_keyword.span());
        let block = quote!(#async_keyword #move_keyword #new_block);
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

/// Returns a group with the delimiters and the span of `group`, and with new content.
fn with_content(group: &Group, content: TokenStream) -> TokenTree {
    let mut changed = Group::new(group.delimiter(), content);
    changed.set_span(group.span());
    changed.into()
}

/// Parses `async { … }` or `async move { … }`. Returns `None` if there are other tokens.
fn async_block(trees: &[TokenTree]) -> Option<(Ident, Group)> {
    let (TokenTree::Ident(async_keyword), rest) = trees.split_first()? else { return None };
    let rest = match rest {
        [TokenTree::Ident(keyword), rest @ ..] if keyword == "move" => rest,
        rest => rest,
    };
    match rest {
        [TokenTree::Group(block)]
            if async_keyword == "async" && block.delimiter() == Delimiter::Brace =>
        {
            Some((async_keyword.clone(), block.clone()))
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

/// Returns the `T` of `impl Future<Output = T>` or `Pin<Box<dyn Future<Output = T>>>`. Further
/// bounds, such as `Send`, are allowed.
pub(crate) fn future_output(return_type: &Type) -> Option<&Type> {
    match return_type {
        Type::Group(inner) => future_output(&inner.elem),
        Type::Paren(inner) => future_output(&inner.elem),
        Type::ImplTrait(future) => future.bounds.iter().find_map(output_of_bound),
        Type::Path(pin) => match type_argument(&pin.path, "Pin")? {
            Type::Path(boxed) => match type_argument(&boxed.path, "Box")? {
                Type::TraitObject(future) => future.bounds.iter().find_map(output_of_bound),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

fn output_of_bound(bound: &TypeParamBound) -> Option<&Type> {
    let TypeParamBound::Trait(bound) = bound else { return None };
    generic_arguments(&bound.path, "Future").find_map(|argument| match argument {
        GenericArgument::AssocType(output) if output.ident == "Output" => Some(&output.ty),
        _ => None,
    })
}

/// Returns the first type argument of the path's last segment, if the segment has this name.
fn type_argument<'a>(path: &'a Path, name: &str) -> Option<&'a Type> {
    generic_arguments(path, name).find_map(|argument| match argument {
        GenericArgument::Type(argument) => Some(argument),
        _ => None,
    })
}

/// Returns the generic arguments of the path's last segment, if the segment has this name.
fn generic_arguments<'a>(path: &'a Path, name: &str) -> impl Iterator<Item = &'a GenericArgument> {
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
    fn only_a_single_async_block_is_recognized() {
        let boxed = quote!(::core::pin::Pin<Box<dyn Send + Future<Output = u8> + 'a>>);
        let opaque = quote!(impl Send + ::core::future::Future<Output = u8> + 'static);
        for (return_type, body, expected) in [
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
            let return_type: Type = syn::parse2(return_type.clone()).expect("the text is a type");
            let body: Group = syn::parse2(body).expect("braces");
            let desugared = DesugaredAsyncFn::parse(&return_type, &body);
            let output = desugared.as_ref().map(|found| found.output.to_token_stream().to_string());
            assert_eq!(output, expected.map(|_| "u8".to_owned()), "{body}");
            let statements: Group = syn::parse2(quote!({ 2 })).expect("braces");
            let new_body =
                desugared.map(|found| found.body_with(&statements.clone().into()).to_string());
            assert_eq!(new_body.as_deref(), expected, "{body}");
        }
    }
}
