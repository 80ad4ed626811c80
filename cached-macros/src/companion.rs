//! The companion function that `entry = NAME` asks for. Its signature is the annotated one's, less
//! what does not say which entry is meant.

use std::collections::BTreeSet;

use proc_macro2::{Group, Ident, Punct, Spacing, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, FnArg, GenericParam, Generics, WherePredicate};

use crate::args::Args;
use crate::expand::{Key, Krate};
use crate::item::Function;
use crate::lifetimes::without_lifetimes;
use crate::mentions::mentions;
use crate::validate::Cached;

/// What the companion takes over from the function.
pub(crate) struct Companion<'a> {
    pub(crate) name: &'a Ident,
    pub(crate) arguments: Vec<&'a FnArg>,
    pub(crate) generics: Generics,
    pub(crate) attributes: Vec<TokenStream>,
}

/// ```text
/// pub fn payment_entry(number: &str, state: State) -> CacheEntry<Payment, WriteOnce> {
///     lookup::<Result<Payment, FetchError>, _>(…, declared!(…), (part(&number), part(&state))).entry()
/// }
/// ```
pub(crate) fn expand(
    cached: &Cached<'_>,
    companion: &Companion<'_>,
    krate: &Krate<'_>,
) -> TokenStream {
    let key = Key { cached, krate, generics: &companion.generics };
    let (lookup, rules) = (key.lookup(&declared(cached, krate)), key.rules());
    let head = head(cached.function, companion, cached.whole, cached.reason.is_some(), krate);
    let entry = quote_spanned!(cached.returned.span()=> .entry());
    quote_spanned!(companion.place()=> #head { #lookup #entry #rules })
}

/// What stays of the companion where the attribute has mistakes: something to call, so that its
/// callers add no errors to those that are shown.
pub(crate) fn stub(args: &Args, function: &Function, krate: &Krate<'_>) -> Option<TokenStream> {
    let companion = Companion::new(args, function)?;
    let is_taken = *companion.name == function.signature.ident;
    let head =
        head(function, &companion, args.infallible.is_some(), args.tried("overwrite"), krate);
    let stub =
        quote_spanned!(companion.place()=> #[allow(unused, clippy::empty_loop)] #head { loop {} });
    (!is_taken).then_some(stub)
}

fn head(
    function: &Function,
    companion: &Companion<'_>,
    whole: bool,
    overwritable: bool,
    krate: &Krate<'_>,
) -> TokenStream {
    let Companion { name, arguments, generics, attributes } = companion;
    let entry = entry_type(function, whole, overwritable, krate);
    let doc = format!(
        "The cache entry of `{}` for these arguments: looks at it, adds{} or invalidates it. \
            Fetches nothing.",
        function.signature.ident,
        if overwritable { ", overwrites" } else { "" },
    );
    let span = companion.place();
    let visibility = moved_to(function.visibility.to_token_stream(), span);
    let where_clause = &generics.where_clause;
    quote_spanned! {span=>
        #(#attributes)*
        #[doc = #doc]
        #[allow(unused_variables, unused_mut, clippy::all, clippy::pedantic)]
        #visibility fn #name #generics(#(#arguments),*) -> #entry #where_clause
    }
}

/// `CacheEntry<V, P>`, at the function's return type: what is wrong with that is said there by the
/// function already, and at one place the compiler says a thing once.
fn entry_type(
    function: &Function,
    whole: bool,
    overwritable: bool,
    krate: &Krate<'_>,
) -> TokenStream {
    let returned = function.returned().filter(|_| function.is_async());
    let span = returned.map_or_else(Span::call_site, Spanned::span);
    let value = match returned {
        Some(returned) => {
            let mode = krate.private(span, if whole { "Whole" } else { "ByType" });
            let returned = without_lifetimes(returned);
            let trait_path = krate.private(span, "Returned");
            quote_spanned!(span=> <#returned as #trait_path<#mode>>::Value)
        }
        None => quote!(()),
    };
    let path = krate.path(span);
    let policy = Ident::new(if overwritable { "Overwritable" } else { "WriteOnce" }, span);
    // It ends where the type does: there the compiler proposes bounds, and for both the same.
    let mut end = Punct::new('>', Spacing::Alone);
    let last = returned.and_then(|returned| returned.to_token_stream().into_iter().last());
    end.set_span(last.map_or(span, |last| last.span()));
    quote_spanned!(span=> #path::CacheEntry<#value, #path::#policy #end)
}

/// The function's declaration. It is a static in the function's body, since beside a function
/// nothing can be put that both can name: the attribute does not see whether it is in an impl. So
/// the companion looks for it, once.
fn declared(cached: &Cached<'_>, krate: &Krate<'_>) -> TokenStream {
    let declared = krate.private(Span::call_site(), "declared");
    let (name, function) = (cached.name, cached.function.signature.ident.to_string());
    quote!(#declared!(#name, #function))
}

/// The tokens with the place of `span`, and the names they had.
fn moved_to(tokens: TokenStream, span: Span) -> TokenStream {
    let moved = |mut token: TokenTree| {
        if let TokenTree::Group(group) = &token {
            token = Group::new(group.delimiter(), moved_to(group.stream(), span)).into();
        }
        token.set_span(token.span().located_at(span));
        token
    };
    tokens.into_iter().map(moved).collect()
}

impl<'a> Companion<'a> {
    /// Where the companion is defined, as far as errors and editors are concerned: at its name.
    fn place(&self) -> Span {
        Span::mixed_site().located_at(self.name.span())
    }

    /// `None` where there is no option `entry`. Also made of a function with mistakes, so that its
    /// callers see something to call.
    pub(crate) fn new(args: &'a Args, function: &'a Function) -> Option<Companion<'a>> {
        let name = &args.entry.as_ref()?.value;
        let inputs = &function.signature.inputs;
        let kept: Vec<bool> =
            (0..inputs.len()).map(|argument| is_kept(args, function, argument)).collect();
        let arguments = inputs.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(input, _)| input);
        let dropped = inputs.iter().zip(&kept).filter(|(_, kept)| !**kept).map(|(input, _)| input);
        let arguments: Vec<&FnArg> = arguments.collect();
        let generics = generics(function, &arguments, &dropped.collect::<Vec<_>>());
        let attributes = attributes(&function.attributes);
        Some(Companion { name, arguments, generics, attributes })
    }
}

/// The receiver is kept even where it is skipped, so that a method has a method beside it. Of the
/// other arguments a skipped one is kept only where the cache or the lifetime comes from it.
fn is_kept(args: &Args, function: &Function, argument: usize) -> bool {
    let skipped = |name: &Ident| args.skip.as_ref().is_some_and(|skip| skip.value.contains(name));
    let used = |name: &Ident| {
        [&args.cache, &args.ttl].into_iter().flatten().any(|option| mentions(&option.value, name))
    };
    let parameters =
        &mut function.parameters.iter().filter(|parameter| parameter.argument == argument);
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
    let of_returned = used(function.returned().map(without_lifetimes).unwrap_or_default());
    let mut needed = &used(quote!(#(#kept)*)) | &of_returned;
    for param in &all.params {
        let name = name_of(param);
        if !matches!(param, GenericParam::Lifetime(_)) && !of_dropped.contains(&name) {
            needed.insert(name);
        }
    }

    let predicates: Vec<&WherePredicate> =
        all.where_clause.iter().flat_map(|clause| &clause.predicates).collect();
    let concerns = |predicate: &WherePredicate, needed: &BTreeSet<String>| {
        let subject = used(subject(predicate));
        subject.is_empty() || !subject.is_disjoint(needed)
    };
    loop {
        let mut more = needed.clone();
        for param in all.params.iter().filter(|param| needed.contains(&name_of(param))) {
            more.extend(used(param.to_token_stream()));
        }
        for predicate in predicates.iter().filter(|predicate| concerns(predicate, &needed)) {
            more.extend(used(predicate.to_token_stream()));
        }
        if more == needed {
            break;
        }
        needed = more;
    }

    let mut generics = all.clone();
    generics.params =
        all.params.iter().filter(|param| needed.contains(&name_of(param))).cloned().collect();
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
            let lints = attribute.meta.require_list().ok().filter(|_| is("expect"))?;
            let lints = &lints.tokens;
            Some(quote!(#[allow(#lints)]))
        })
        .collect()
}
