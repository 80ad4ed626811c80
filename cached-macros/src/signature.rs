//! Checks the rules about the function itself, for example that the function is `async`, has a body
//! and returns a type that can be cached.

use proc_macro2::{Group, TokenStream, TokenTree};
use quote::ToTokens;
use syn::visit::Visit;
use syn::{
    FnArg, GenericArgument, Lifetime, ParenthesizedGenericArguments, Pat, PathArguments, Receiver,
    ReceiverKind, Safety, Signature, Type, TypeFnPtr, TypeImplTrait, TypeReference,
};

use crate::desugared::future_output;
use crate::errors::Errors;
use crate::item::{Function, UnsupportedItem, hides_names};
use crate::validate::{OWNING_TYPE, owned_type};

/// Reports that the annotated item is not a function, or that its signature cannot be parsed.
pub(crate) fn report_unsupported(item: &UnsupportedItem, errors: &mut Errors) {
    let (keyword, span) = match item {
        UnsupportedItem::UnreadableFunction(span) => {
            let message = "cannot parse the signature of this function; \
                write it in plain Rust syntax";
            return errors.at(*span, message);
        }
        UnsupportedItem::NotAFunction { keyword, span } => {
            (keyword.as_ref().map(ToString::to_string), span)
        }
    };
    let message = match keyword.as_deref() {
        Some("impl") => {
            "only an `async fn` can be cached, not an `impl`; annotate its methods instead".into()
        }
        Some("trait") => "only an `async fn` can be cached, not a `trait`; \
            annotate the methods in its impls instead"
            .into(),
        Some(keyword) => format!("only an `async fn` can be cached, not a `{keyword}`"),
        None => "only an `async fn` can be cached".to_owned(),
    };
    errors.at(*span, message);
}

/// Returns the function's body. Reports an error if the function has none.
pub(crate) fn check_body<'a>(function: &'a Function, errors: &mut Errors) -> Option<&'a Group> {
    let body = function.body.as_ref();
    if body.is_none() {
        let name = &function.signature.ident;
        let message = format!("`{name}` has no body to cache; annotate the method in the impl");
        errors.on(name, message);
    }
    body
}

/// Checks the signature. Returns the return type, also if the signature breaks a rule. Returns
/// `None` if no return type is written.
pub(crate) fn check_signature<'a>(
    function: &'a Function,
    infallible: bool,
    errors: &mut Errors,
) -> Option<&'a Type> {
    check_async(function, errors);
    check_qualifiers(&function.signature, errors);
    check_parameters(function, errors);
    check_return_type(function, infallible, errors)
}

fn check_async(function: &Function, errors: &mut Errors) {
    if function.is_async() {
        return;
    }
    let signature = &function.signature;
    let name = &signature.ident;
    let return_type = function.return_type();
    let tokens = return_type.map(ToTokens::to_token_stream).unwrap_or_default();
    let message = if return_type.and_then(future_output).is_some() {
        let is_pinned = contains_word(&tokens, "Pin");
        let block = if is_pinned { "Box::pin(async move { … })" } else { "async move { … }" };
        format!(
            "only an `async fn`, or a function whose whole body is `{block}`, can be cached; \
                write `async fn {name}`"
        )
    } else if contains_word(&tokens, "Future") {
        format!(
            "only an `async fn` can be cached; \
                write `async fn {name}` and return the future's output"
        )
    } else {
        format!("only an `async fn` can be cached; write `async fn {name}`")
    };
    errors.at(signature.fn_token.span, message);
}

fn check_qualifiers(signature: &Signature, errors: &mut Errors) {
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

fn check_parameters(function: &Function, errors: &mut Errors) {
    for input in &function.signature.inputs {
        let attributes = match input {
            FnArg::Receiver(receiver) => &receiver.attrs,
            FnArg::Typed(typed) => &typed.attrs,
        };
        for attribute in attributes {
            if attribute.path().is_ident("cfg") || attribute.path().is_ident("cfg_attr") {
                errors.on(
                    attribute,
                    "a parameter under `#[cfg]` cannot be in a key; \
                        write two functions, each with its own `#[cfg]`",
                );
            }
        }
        if let FnArg::Typed(typed) = input
            && are_names_hidden(function, &typed.pat)
        {
            errors.on(
                &typed.pat,
                "the attribute cannot see the names in this pattern; \
                    write a plain parameter and match on it in the body",
            );
        }
    }
}

/// Returns true if all names that the parameters bind can be seen in the signature.
pub(crate) fn shows_all_names(function: &Function) -> bool {
    function.signature.inputs.iter().all(|input| match input {
        FnArg::Receiver(_) => true,
        FnArg::Typed(typed) => !are_names_hidden(function, &typed.pat),
    })
}

/// Returns true if the pattern might bind names that cannot be seen in it. Either the pattern
/// contains a macro or unknown syntax, or `#[async_trait]` has replaced the user's pattern by a
/// name such as `__arg0`.
fn are_names_hidden(function: &Function, pattern: &Pat) -> bool {
    let is_replaced = |pattern: &Pat| matches!(pattern, Pat::Ident(name) if name.ident.to_string().starts_with("__arg"));
    hides_names(pattern) || (function.desugared.is_some() && is_replaced(pattern))
}

fn check_return_type<'a>(
    function: &'a Function,
    infallible: bool,
    errors: &mut Errors,
) -> Option<&'a Type> {
    let nothing = format!(
        "`{}` returns nothing that could be cached; return a value, or remove the attribute",
        function.signature.ident
    );
    let Some(return_type) = function.return_type() else {
        errors.on(&function.signature.ident, nothing);
        return None;
    };
    if matches!(return_type, Type::Tuple(tuple) if tuple.elems.is_empty())
        || matches!(return_type, Type::Never(_))
    {
        errors.on(return_type, nothing);
    }
    if let Some(borrow) = borrow_in_value(return_type, infallible) {
        let instead = match syn::parse2(borrow.clone()) {
            Ok(Type::Reference(reference)) => format!("return {}", owned_value(&reference.elem)),
            _ => format!("write `'static` here, or return {OWNING_TYPE}"),
        };
        let message = format!("a cached value outlives the call, so it cannot borrow; {instead}");
        errors.on(borrow, message);
    }
    // If the function is not async, `check_async` has already reported what to return.
    if function.is_async()
        && let Some(opaque) = find_impl_trait(return_type)
    {
        errors.on(
            opaque,
            "an `impl Trait` cannot be read back from a cache; write the name of the type",
        );
    }
    Some(return_type)
}

/// Returns what an error message suggests: the type to return instead of a reference to `borrowed`.
/// An `Arc` of a trait object cannot be read back from memcached, so it needs `remote = false`.
fn owned_value(borrowed: &Type) -> String {
    match borrowed {
        Type::Group(inner) => owned_value(&inner.elem),
        Type::Paren(inner) => owned_value(&inner.elem),
        Type::TraitObject(_) => {
            format!("{} with the option `remote = false`", owned_type(borrowed))
        }
        Type::ImplTrait(_) => OWNING_TYPE.to_owned(),
        other => owned_type(other),
    }
}

/// Returns the first borrow in the part of the return type that is cached.
///
/// With the option `infallible`, the whole type is searched. Without the option:
///
/// - In a `Result`, only the first type argument is searched. Errors are not cached, so an error
///   may borrow.
/// - References, tuples, arrays and the types in `STANDARD_TYPES` are searched as a whole.
/// - Other named types are not searched, because the name might be an alias of a `Result`.
fn borrow_in_value(return_type: &Type, infallible: bool) -> Option<TokenStream> {
    const STANDARD_TYPES: [&str; 12] = [
        "Option", "Vec", "VecDeque", "Box", "Arc", "BTreeMap", "HashMap", "BTreeSet", "HashSet",
        "Wrapping", "Reverse", "Range",
    ];
    match return_type {
        Type::Group(inner) => borrow_in_value(&inner.elem, infallible),
        Type::Paren(inner) => borrow_in_value(&inner.elem, infallible),
        Type::Path(path) if !infallible => {
            let last = path.path.segments.last()?;
            if last.ident == "Result" {
                return type_arguments(&last.arguments).next().and_then(find_borrow);
            }
            STANDARD_TYPES
                .iter()
                .any(|standard| last.ident == standard)
                .then(|| find_borrow(return_type))?
        }
        _ => find_borrow(return_type),
    }
}

/// Returns the type arguments of a path's segment.
pub(crate) fn type_arguments(arguments: &PathArguments) -> impl Iterator<Item = &Type> {
    let arguments = match arguments {
        PathArguments::AngleBracketed(arguments) => Some(&arguments.args),
        _ => None,
    };
    arguments.into_iter().flatten().filter_map(|argument| match argument {
        GenericArgument::Type(argument) => Some(argument),
        _ => None,
    })
}

/// Returns the first reference or lifetime in the type, not counting those that are `'static`. The
/// signature of a function pointer or of an `Fn` bound is not searched, because a value of such a
/// type does not hold the references in its signature.
fn find_borrow(value: &Type) -> Option<TokenStream> {
    #[derive(Default)]
    struct FirstBorrow(Option<TokenStream>);
    impl<'ast> Visit<'ast> for FirstBorrow {
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
    let mut first = FirstBorrow::default();
    first.visit_type(value);
    first.0
}

/// Returns the first `impl Trait` in the type.
pub(crate) fn find_impl_trait(ty: &Type) -> Option<&TypeImplTrait> {
    struct FirstImplTrait<'a>(Option<&'a TypeImplTrait>);
    impl<'ast> Visit<'ast> for FirstImplTrait<'ast> {
        fn visit_type_impl_trait(&mut self, found: &'ast TypeImplTrait) {
            self.0 = self.0.or(Some(found));
        }
    }
    let mut first = FirstImplTrait(None);
    first.visit_type(ty);
    first.0
}

/// Returns the first `&mut` in an argument's type. The signature of a function pointer or of an
/// `Fn` bound is not searched, because the argument does not hold the references in its signature.
pub(crate) fn find_mutable_reference(argument: &FnArg) -> Option<TokenStream> {
    #[derive(Default)]
    struct FirstMutableReference(Option<TokenStream>);
    impl<'ast> Visit<'ast> for FirstMutableReference {
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
    let mut first = FirstMutableReference::default();
    first.visit_fn_arg(argument);
    first.0
}

/// Returns true if the identifier occurs anywhere in the tokens, also inside brackets.
fn contains_word(tokens: &TokenStream, word: &str) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == word,
        TokenTree::Group(group) => contains_word(&group.stream(), word),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use quote::quote;

    #[test]
    fn a_returned_borrow_becomes_a_cacheable_type() {
        for (return_type, instead) in [
            (quote!(&'a str), "return a `String`"),
            (quote!(Result<&'a [u8], Error>), "return a `Vec<u8>`"),
            (quote!(&'a dyn Store), "return an `Arc<dyn Store>` with the option `remote = false`"),
            (
                quote!(Option<&'a (dyn Store + Send)>),
                "return an `Arc<dyn Store + Send>` with the option `remote = false`",
            ),
            (quote!(Option<&Config>), "return a `Config`, or an `Arc` of it"),
        ] {
            let options = quote!(name = "price", version = day);
            let function = quote!(async fn price<'a>(day: u8) -> #return_type { f(day) });
            let expansion = crate::expand(options, function).to_string();
            let expected = format!("so it cannot borrow; {instead}");
            assert!(
                expansion.contains(&expected),
                "the expansion contains {expected}: {expansion}"
            );
        }
    }
}
