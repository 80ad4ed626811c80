//! The rules about the function itself.

use proc_macro2::{Group, TokenStream, TokenTree};
use quote::ToTokens;
use syn::visit::Visit;
use syn::{
    FnArg, GenericArgument, ParenthesizedGenericArguments, Pat, PathArguments, Receiver,
    ReceiverKind, Safety, Signature, Type, TypeFnPtr, TypeImplTrait, TypeReference,
};

use crate::desugared::output;
use crate::errors::Errors;
use crate::item::{Function, Unread, hides_names};

/// The attribute is on something that is no function, or cannot be read as one.
pub(crate) fn refuse(item: &Unread, errors: &mut Errors) {
    let (keyword, span) = match item {
        Unread::Function(span) => {
            return errors.at(*span, "the attribute cannot read the signature of this function");
        }
        Unread::Other { keyword, span } => (keyword.as_ref().map(ToString::to_string), span),
    };
    let message = match keyword.as_deref() {
        Some("impl") => {
            "only an `async fn` can be cached, not an `impl`; annotate the methods in it".into()
        }
        Some("trait") => {
            "only an `async fn` can be cached, not a `trait`; annotate the methods in its impls"
                .into()
        }
        Some(keyword) => format!("only an `async fn` can be cached, not a `{keyword}`"),
        None => "only an `async fn` can be cached".to_owned(),
    };
    errors.at(*span, message);
}

/// The body, which a declaration in a trait has not.
pub(crate) fn body<'a>(function: &'a Function, errors: &mut Errors) -> Option<&'a Group> {
    let body = function.body.as_ref();
    if body.is_none() {
        let name = &function.signature.ident;
        errors.on(
            name,
            format!("`{name}` has no body to cache the answer of; annotate the method in the impl"),
        );
    }
    body
}

/// The rest, of which the returned type is sure to be there once the rules hold.
pub(crate) fn validate<'a>(function: &'a Function, errors: &mut Errors) -> Option<&'a Type> {
    asynchronous(function, errors);
    qualifiers(&function.signature, errors);
    parameters(function, errors);
    returned(function, errors)
}

fn asynchronous(function: &Function, errors: &mut Errors) {
    if function.is_async() {
        return;
    }
    let signature = &function.signature;
    let name = &signature.ident;
    let returned = function.returned().map(ToTokens::to_token_stream).unwrap_or_default();
    let message = if function.returned().and_then(output).is_some() {
        let is_pinned = contains(&returned, "Pin");
        let block = if is_pinned { "Box::pin(async move { … })" } else { "async move { … }" };
        format!(
            "must be an `async fn`, or have one `{block}` for its body; write `async fn {name}`"
        )
    } else if contains(&returned, "Future") {
        format!("must be an `async fn`; write `async fn {name}` and return what the future gives")
    } else {
        format!("must be an `async fn`; write `async fn {name}`")
    };
    errors.at(signature.fn_token.span, message);
}

fn qualifiers(signature: &Signature, errors: &mut Errors) {
    if let Some(constness) = &signature.constness {
        errors.on(constness, "a `const fn` cannot be cached; remove `const`");
    }
    if let Some(abi) = &signature.abi {
        errors.on(
            abi,
            "an `extern` function cannot be cached; annotate a Rust function that calls it",
        );
    }
    if let Some(variadic) = &signature.variadic {
        errors.on(variadic.dots, "a variadic function cannot be cached; name its parameters");
    }
    if let Safety::Safe(safe) = &signature.safety {
        errors.on(
            safe,
            "a foreign function cannot be cached; annotate a Rust function that calls it",
        );
    }
}

fn parameters(function: &Function, errors: &mut Errors) {
    for input in &function.signature.inputs {
        let attributes = match input {
            FnArg::Receiver(receiver) => &receiver.attrs,
            FnArg::Typed(typed) => &typed.attrs,
        };
        for attribute in attributes {
            if attribute.path().is_ident("cfg") || attribute.path().is_ident("cfg_attr") {
                errors.on(
                    attribute,
                    "a parameter that is not always there cannot be in a key; \
                    write two functions, each with its own `#[cfg]`",
                );
            }
        }
        if let FnArg::Typed(typed) = input
            && are_names_hidden(function, &typed.pat)
        {
            errors.on(
                &typed.pat,
                "the names in this pattern cannot be seen; \
                write a plain parameter and match on it in the body",
            );
        }
    }
}

pub(crate) fn shows_all_names(function: &Function) -> bool {
    function.signature.inputs.iter().all(|input| match input {
        FnArg::Receiver(_) => true,
        FnArg::Typed(typed) => !are_names_hidden(function, &typed.pat),
    })
}

/// Whether the names that the body uses cannot be seen in the pattern: those of a macro, and those
/// for which `#[async_trait]` has put one of its own.
fn are_names_hidden(function: &Function, pattern: &Pat) -> bool {
    let is_put = |pattern: &Pat| matches!(pattern, Pat::Ident(name) if name.ident.to_string().starts_with("__arg"));
    hides_names(pattern) || (function.desugared.is_some() && is_put(pattern))
}

fn returned<'a>(function: &'a Function, errors: &mut Errors) -> Option<&'a Type> {
    let signature = &function.signature;
    let nothing = format!(
        "`{}` returns nothing that could be cached; return the answer, or remove the attribute",
        signature.ident
    );
    let Some(returned) = function.returned() else {
        errors.on(&signature.ident, nothing);
        return None;
    };
    if matches!(returned, Type::Tuple(tuple) if tuple.elems.is_empty())
        || matches!(returned, Type::Never(_))
    {
        errors.on(returned, nothing);
    }
    if let Some(borrow) = borrowed_value(returned) {
        errors.on(
            borrow,
            "a cached value outlives the call, so it cannot borrow; \
            return an owned type, such as `String` for `&str`",
        );
    }
    // A function that is not async has been told already what to return.
    if function.is_async()
        && let Some(opaque) = opaque(returned)
    {
        errors.on(
            opaque,
            "an `impl Trait` cannot be read back from a cache; name the type that is returned",
        );
    }
    Some(returned)
}

/// A value that is seen to borrow. The type decides about what is not seen here; but what it says
/// of lifetimes does not name the cause.
fn borrowed_value(returned: &Type) -> Option<&Type> {
    match returned {
        Type::Group(inner) => borrowed_value(&inner.elem),
        Type::Paren(inner) => borrowed_value(&inner.elem),
        Type::Reference(_) => Some(returned),
        Type::Path(path) => {
            let last = path.path.segments.last()?;
            let PathArguments::AngleBracketed(arguments) = &last.arguments else {
                return None;
            };
            let first = arguments.args.iter().find_map(|argument| match argument {
                GenericArgument::Type(first) => Some(first),
                _ => None,
            });
            first
                .filter(|_| last.ident == "Result" || last.ident == "Option")
                .and_then(borrowed_value)
        }
        _ => None,
    }
}

pub(crate) fn opaque(returned: &Type) -> Option<&TypeImplTrait> {
    struct Opaque<'a>(Option<&'a TypeImplTrait>);
    impl<'ast> Visit<'ast> for Opaque<'ast> {
        fn visit_type_impl_trait(&mut self, found: &'ast TypeImplTrait) {
            self.0 = self.0.or(Some(found));
        }
    }
    let mut opaque = Opaque(None);
    opaque.visit_type(returned);
    opaque.0
}

/// The first `&mut` in an argument's type. One that a function in it takes is not the caller's.
pub(crate) fn mutable_reference(argument: &FnArg) -> Option<TokenStream> {
    #[derive(Default)]
    struct Mutable(Option<TokenStream>);
    impl<'ast> Visit<'ast> for Mutable {
        fn visit_receiver(&mut self, receiver: &'ast Receiver) {
            if matches!(receiver.kind, ReceiverKind::Reference(_, _, Some(_))) {
                self.0 = Some(receiver.to_token_stream());
            }
            syn::visit::visit_receiver(self, receiver);
        }
        fn visit_type_reference(&mut self, reference: &'ast TypeReference) {
            if self.0.is_none() && reference.mutability.is_some() {
                self.0 = Some(reference.to_token_stream());
            }
            syn::visit::visit_type_reference(self, reference);
        }
        fn visit_type_fn_ptr(&mut self, _: &'ast TypeFnPtr) {}
        fn visit_parenthesized_generic_arguments(
            &mut self,
            _: &'ast ParenthesizedGenericArguments,
        ) {
        }
    }
    let mut mutable = Mutable::default();
    mutable.visit_fn_arg(argument);
    mutable.0
}

fn contains(tokens: &TokenStream, word: &str) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == word,
        TokenTree::Group(group) => contains(&group.stream(), word),
        _ => false,
    })
}
