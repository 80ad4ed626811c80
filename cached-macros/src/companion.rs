//! The signature of the companion function: the annotated one's, less what does not say which
//! entry is meant.

use std::collections::BTreeSet;

use proc_macro2::{Ident, Punct, Spacing, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{Attribute, FnArg, GenericParam, Generics, WherePredicate};

use crate::args::Args;
use crate::item::{Function, mentions};

/// What the companion takes over from the function.
pub(crate) struct Companion<'a> {
    pub(crate) name: &'a Ident,
    pub(crate) arguments: Vec<&'a FnArg>,
    pub(crate) generics: Generics,
    pub(crate) attributes: Vec<TokenStream>,
}

impl<'a> Companion<'a> {
    /// `None` where there is no option `entry`. Also made of a function with mistakes, so that its
    /// callers see something to call.
    pub(crate) fn new(args: &'a Args, function: &'a Function) -> Option<Companion<'a>> {
        let name = &args.entry.as_ref()?.value;
        let inputs = &function.signature.inputs;
        let kept: Vec<bool> = (0..inputs.len())
            .map(|argument| is_kept(args, function, argument))
            .collect();
        let arguments = inputs
            .iter()
            .zip(&kept)
            .filter(|(_, kept)| **kept)
            .map(|(input, _)| input);
        let dropped = inputs
            .iter()
            .zip(&kept)
            .filter(|(_, kept)| !**kept)
            .map(|(input, _)| input);
        let arguments: Vec<&FnArg> = arguments.collect();
        let generics = generics(function, &arguments, &dropped.collect::<Vec<_>>());
        let attributes = attributes(&function.attributes);
        Some(Companion {
            name,
            arguments,
            generics,
            attributes,
        })
    }
}

/// The receiver is kept even where it is skipped, so that a method has a method beside it. Of the
/// other arguments a skipped one is kept only where the cache or the lifetime comes from it.
fn is_kept(args: &Args, function: &Function, argument: usize) -> bool {
    let skipped = |name: &Ident| {
        args.skip
            .as_ref()
            .is_some_and(|skip| skip.value.contains(name))
    };
    let used = |name: &Ident| {
        [&args.cache, &args.ttl]
            .into_iter()
            .flatten()
            .any(|option| mentions(&option.value, name))
    };
    let parameters = &mut function
        .parameters
        .iter()
        .filter(|parameter| parameter.argument == argument);
    parameters.any(|parameter| {
        let name = &parameter.ident;
        name == "self" || !skipped(name) || used(name)
    })
}

/// The generics that the companion still needs: those that its arguments and its return type use,
/// those that no argument uses (they are given at the call), and what the bounds of these name.
fn generics(function: &Function, kept: &[&FnArg], dropped: &[&FnArg]) -> Generics {
    let all = &function.signature.generics;
    let own: BTreeSet<String> = all.params.iter().map(name_of).collect();
    let used = |tokens: TokenStream| {
        let mut names = BTreeSet::new();
        names_in(tokens, &mut names);
        &names & &own
    };

    let of_dropped = used(quote!(#(#dropped)*));
    let of_returned = used(
        function
            .returned()
            .map(without_lifetimes)
            .unwrap_or_default(),
    );
    let mut needed = &used(quote!(#(#kept)*)) | &of_returned;
    for param in &all.params {
        let name = name_of(param);
        if !matches!(param, GenericParam::Lifetime(_)) && !of_dropped.contains(&name) {
            needed.insert(name);
        }
    }

    let predicates: Vec<&WherePredicate> = all
        .where_clause
        .iter()
        .flat_map(|clause| &clause.predicates)
        .collect();
    let concerns = |predicate: &WherePredicate, needed: &BTreeSet<String>| {
        let subject = used(subject(predicate));
        subject.is_empty() || !subject.is_disjoint(needed)
    };
    loop {
        let mut more = needed.clone();
        for param in all
            .params
            .iter()
            .filter(|param| needed.contains(&name_of(param)))
        {
            more.extend(used(param.to_token_stream()));
        }
        for predicate in predicates
            .iter()
            .filter(|predicate| concerns(predicate, &needed))
        {
            more.extend(used(predicate.to_token_stream()));
        }
        if more == needed {
            break;
        }
        needed = more;
    }

    let mut generics = all.clone();
    generics.params = all
        .params
        .iter()
        .filter(|param| needed.contains(&name_of(param)))
        .cloned()
        .collect();
    if let Some(clause) = &mut generics.where_clause {
        clause.predicates = predicates
            .into_iter()
            .filter(|predicate| concerns(predicate, &needed))
            .cloned()
            .collect();
    }
    generics
}

fn name_of(param: &GenericParam) -> String {
    match param {
        GenericParam::Lifetime(param) => param.lifetime.to_string(),
        GenericParam::Type(param) => param.ident.to_string(),
        GenericParam::Const(param) => param.ident.to_string(),
    }
}

fn subject(predicate: &WherePredicate) -> TokenStream {
    match predicate {
        WherePredicate::Type(predicate) => predicate.bounded_ty.to_token_stream(),
        WherePredicate::Lifetime(predicate) => predicate.lifetime.to_token_stream(),
        other => other.to_token_stream(),
    }
}

/// All identifiers and lifetimes in the tokens.
fn names_in(tokens: TokenStream, names: &mut BTreeSet<String>) {
    let mut after_quote = false;
    for token in tokens {
        let is_quote = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '\'');
        match token {
            TokenTree::Ident(ident) if after_quote => names.extend([format!("'{ident}")]),
            TokenTree::Ident(ident) => names.extend([ident.to_string()]),
            TokenTree::Group(group) => names_in(group.stream(), names),
            _ => {}
        }
        after_quote = is_quote;
    }
}

/// Whether something in the type may be borrowed for less than `'static`.
pub(crate) fn borrows(returned: &impl ToTokens) -> bool {
    let returned = returned.to_token_stream();
    let bare = |tokens: &TokenStream| tokens.to_string().replace(' ', "");
    bare(&returned) != bare(&without_lifetimes(&returned))
}

/// The type with `'static` for every lifetime. What is cached is `'static` anyway, and an error
/// that is not is none of the companion's concern.
pub(crate) fn without_lifetimes(returned: &impl ToTokens) -> TokenStream {
    let mut result = TokenStream::new();
    let mut tokens = returned.to_token_stream().into_iter().peekable();
    let is = |token: Option<&TokenTree>, expected: char| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == expected);
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) => {
                let mut inner =
                    proc_macro2::Group::new(group.delimiter(), without_lifetimes(&group.stream()));
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
                if !is(tokens.peek(), '\'') {
                    lifetime(reference.span()).to_tokens(&mut result);
                }
            }
            other => other.to_tokens(&mut result),
        }
    }
    result
}

fn lifetime(span: proc_macro2::Span) -> TokenStream {
    let mut quote = Punct::new('\'', Spacing::Joint);
    quote.set_span(span);
    let name = Ident::new("static", span);
    quote!(#quote #name)
}

/// The attributes of the function that hold for the companion too.
fn attributes(attributes: &[Attribute]) -> Vec<TokenStream> {
    attributes
        .iter()
        .filter_map(|attribute| {
            let is = |name| attribute.path().is_ident(name);
            if is("cfg") || is("allow") || is("deprecated") {
                return Some(attribute.to_token_stream());
            }
            // What is expected of the function need not be there in its companion.
            let lints = attribute
                .meta
                .require_list()
                .ok()
                .filter(|_| is("expect"))?;
            let lints = &lints.tokens;
            Some(quote!(#[allow(#lints)]))
        })
        .collect()
}

/// The type and const parameters among the generics.
pub(crate) fn type_and_const_params(generics: &Generics) -> (Vec<&Ident>, Vec<&Ident>) {
    let types = generics.type_params().map(|param| &param.ident).collect();
    let constants = generics.const_params().map(|param| &param.ident).collect();
    (types, constants)
}
