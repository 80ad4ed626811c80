//! The rules about the function itself.

use proc_macro2::{Group, TokenStream, TokenTree};
use quote::ToTokens;
use syn::visit::Visit;
use syn::{
    FnArg, GenericArgument, Lifetime, ParenthesizedGenericArguments, Pat, PathArguments, Receiver,
    ReceiverKind, Safety, Signature, Type, TypeFnPtr, TypeImplTrait, TypeReference,
};

use crate::desugared::output;
use crate::errors::Errors;
use crate::item::{Function, Unread, hides_names};
use crate::validate::owned;

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
pub(crate) fn validate<'a>(
    function: &'a Function,
    whole: bool,
    errors: &mut Errors,
) -> Option<&'a Type> {
    asynchronous(function, errors);
    qualifiers(&function.signature, errors);
    parameters(function, errors);
    returned(function, whole, errors)
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

fn returned<'a>(function: &'a Function, whole: bool, errors: &mut Errors) -> Option<&'a Type> {
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
    if let Some(borrow) = borrowed_value(returned, whole) {
        let instead = match syn::parse2(borrow.clone()) {
            Ok(Type::Reference(reference)) => {
                format!("return {} instead of this", owned(&reference.elem))
            }
            _ => "write `'static` here, or return a type that owns its data".to_owned(),
        };
        let message = format!("a cached value outlives the call, so it cannot borrow; {instead}");
        errors.on(borrow, message);
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

/// Returns the first borrow in the value that is cached: of a `Result`, in the `Ok`; of a type that the standard
/// library has, or under `infallible`, in all of it. What an alias hides is not seen here.
fn borrowed_value(returned: &Type, whole: bool) -> Option<TokenStream> {
    const STANDARD: [&str; 12] = [
        "Option", "Vec", "VecDeque", "Box", "Arc", "BTreeMap", "HashMap", "BTreeSet", "HashSet",
        "Wrapping", "Reverse", "Range",
    ];
    match returned {
        Type::Group(inner) => borrowed_value(&inner.elem, whole),
        Type::Paren(inner) => borrowed_value(&inner.elem, whole),
        Type::Path(path) if !whole => {
            let last = path.path.segments.last()?;
            if last.ident == "Result" {
                return type_arguments(&last.arguments).next().and_then(borrow);
            }
            STANDARD.iter().any(|standard| last.ident == standard).then(|| borrow(returned))?
        }
        _ => borrow(returned),
    }
}

fn type_arguments(arguments: &PathArguments) -> impl Iterator<Item = &Type> {
    let arguments = match arguments {
        PathArguments::AngleBracketed(arguments) => Some(&arguments.args),
        _ => None,
    };
    arguments.into_iter().flatten().filter_map(|argument| match argument {
        GenericArgument::Type(argument) => Some(argument),
        _ => None,
    })
}

/// Returns the first reference or lifetime in the type that is not `'static`. Those of a function's own
/// parameters borrow nothing.
fn borrow(value: &Type) -> Option<TokenStream> {
    #[derive(Default)]
    struct Borrow(Option<TokenStream>);
    impl<'ast> Visit<'ast> for Borrow {
        fn visit_type_reference(&mut self, reference: &'ast TypeReference) {
            let is_static = |lifetime: &Lifetime| lifetime.ident == "static";
            if !reference.lifetime.as_ref().is_some_and(is_static) && self.0.is_none() {
                self.0 = Some(reference.to_token_stream());
            }
            syn::visit::visit_type_reference(self, reference);
        }
        fn visit_lifetime(&mut self, lifetime: &'ast Lifetime) {
            if lifetime.ident != "static" && self.0.is_none() {
                self.0 = Some(lifetime.to_token_stream());
            }
        }
        fn visit_type_fn_ptr(&mut self, _: &'ast TypeFnPtr) {}
        fn visit_parenthesized_generic_arguments(
            &mut self,
            _: &'ast ParenthesizedGenericArguments,
        ) {
        }
    }
    let mut found = Borrow::default();
    found.visit_type(value);
    found.0
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
