//! Generates the companion: a second function, which the option `entry = NAME` adds beside the
//! annotated function.
//!
//! A companion returns the cache entry of its arguments. Its signature leaves out most parameters
//! that the option `skip` names, because these parameters do not identify the entry.

use proc_macro2::{Group, Ident, Punct, Spacing, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, FnArg};

use crate::args::Args;
use crate::expand::{CratePath, ExpansionWriter};
use crate::item::Function;
use crate::lifetimes::with_static_lifetimes;
use crate::mentions::{may_mention, mentions};
use crate::trait_impl::find_trait;
use crate::value_function::CopyKind;

/// The parts of a companion's signature that differ from the annotated function's signature.
pub(crate) struct CompanionSignature<'a> {
    name: &'a Ident,
    arguments: Vec<&'a FnArg>,
    attributes: Vec<TokenStream>,
}

impl<'a> CompanionSignature<'a> {
    /// Returns `None` without the option `entry`. May be called for an attribute that has errors.
    pub(crate) fn new(args: &'a Args, function: &'a Function) -> Option<CompanionSignature<'a>> {
        let name = &args.entry.as_ref()?.value;
        let arguments = function.signature.inputs.iter().enumerate();
        let arguments = arguments.filter(|(argument, _)| takes_argument(args, function, *argument));
        let arguments = arguments.map(|(_, input)| input).collect();
        let attributes = inherited_attributes(&function.attributes);
        Some(CompanionSignature { name, arguments, attributes })
    }

    /// Returns the span that errors and editors show as the companion's definition.
    fn span(&self) -> Span {
        Span::mixed_site().located_at(self.name.span())
    }
}

/// Writes the companion.
///
/// ```text
/// pub fn payment_entry(number: &str, state: State) -> CacheEntry<Payment, WriteOnce> {
///     lookup::<Result<Payment, FetchError>, _>(…, declared!(…), (part(&number), part(&state)))
///         .entry(round_trip!(Result<Payment, FetchError>))
///         .build()
/// }
/// ```
pub(crate) fn expand(
    expansion: &ExpansionWriter<'_>,
    companion: &CompanionSignature<'_>,
) -> TokenStream {
    let ExpansionWriter { input, krate } = expansion;
    let lookup = expansion.lookup(&declared(expansion));
    let options = expansion.call_options(CopyKind::Owned);
    let head =
        head(input.function, companion, input.infallible, input.overwrite_reason.is_some(), krate);
    let return_type = input.return_type;
    let round_trip = krate.private(return_type.span(), "round_trip");
    let entry = quote_spanned!(return_type.span()=> .entry(#round_trip!(#return_type)));
    quote_spanned!(companion.span()=> #head { #lookup #entry #options .build() })
}

/// Writes a companion with an endless loop as its body, for an attribute with errors. The callers
/// of the companion then compile, and the compiler reports no errors about a missing function.
pub(crate) fn stub(args: &Args, function: &Function, krate: &CratePath<'_>) -> Option<TokenStream> {
    let companion = CompanionSignature::new(args, function)?;
    if *companion.name == function.signature.ident || find_trait(function, companion.name).is_some()
    {
        return None;
    }
    let is_overwritable = args.was_attempted("overwrite");
    let head = head(function, &companion, args.infallible.is_some(), is_overwritable, krate);
    Some(quote_spanned!(companion.span()=>
        #[allow(unused, clippy::empty_loop)] #head { loop {} }
    ))
}

/// Writes the companion's attributes and signature.
fn head(
    function: &Function,
    companion: &CompanionSignature<'_>,
    is_infallible: bool,
    is_overwritable: bool,
    krate: &CratePath<'_>,
) -> TokenStream {
    let CompanionSignature { name, arguments, attributes } = companion;
    let generics = &function.signature.generics;
    let entry = entry_type(function, is_infallible, is_overwritable, krate);
    let doc = format!(
        "Returns the cache entry of `{}` for these arguments: reads, adds{} or invalidates it. \
            Never fetches.",
        function.signature.ident,
        if is_overwritable { ", overwrites" } else { "" },
    );
    let span = companion.span();
    let visibility = located_at(function.visibility.to_token_stream(), span);
    let where_clause = &generics.where_clause;
    quote_spanned! {span=>
        #(#attributes)*
        #[doc = #doc]
        #[allow(unused_variables, unused_mut, clippy::all, clippy::pedantic)]
        #visibility fn #name #generics(#(#arguments),*) -> #entry #where_clause
    }
}

/// Writes the companion's return type: `EntryOf<R, P>`, or `CacheEntry<R, P>` for a function with
/// the option `infallible`.
///
/// The type has the span of the function's return type `R`. Every error about `R` is also reported
/// for the function itself, and the compiler reports identical errors at the same span only once.
fn entry_type(
    function: &Function,
    is_infallible: bool,
    is_overwritable: bool,
    krate: &CratePath<'_>,
) -> TokenStream {
    let return_type = function.return_type().filter(|_| function.is_async());
    let span = return_type.map_or_else(Span::call_site, Spanned::span);
    let value = return_type.map_or_else(|| quote!(()), with_static_lifetimes);
    let is_inferred = return_type.is_some() && !is_infallible;
    let entry = Ident::new(if is_inferred { "EntryOf" } else { "CacheEntry" }, span);
    let path = krate.at(span);
    let policy = Ident::new(if is_overwritable { "Overwritable" } else { "WriteOnce" }, span);
    // If a trait bound is missing, the compiler suggests where to add it: at the last token of the
    // type. This type and `R` get the same span for that token, so the suggestion appears once.
    let mut end = Punct::new('>', Spacing::Alone);
    let last = return_type.and_then(|ty| ty.to_token_stream().into_iter().last());
    end.set_span(last.map_or(span, |last| last.span()));
    quote_spanned!(span=> #path::#entry<#value, #path::#policy #end)
}

/// Writes the `declared!` macro call, which finds the function's declaration by name at run time.
///
/// The declaration is a static that describes the function. It is inside the function's body, so
/// the companion cannot name it. It cannot stand beside the function either: an `impl` block must
/// not contain a static, and the attribute does not see whether the function is in an `impl` block.
fn declared(expansion: &ExpansionWriter<'_>) -> TokenStream {
    let ExpansionWriter { input, krate } = expansion;
    let declared = krate.private(Span::call_site(), "declared");
    let (name, function) = (input.name, input.function.signature.ident.to_string());
    quote!(#declared!(#name, #function))
}

/// Moves the tokens to `span`. The names in the tokens resolve as before.
fn located_at(tokens: TokenStream, span: Span) -> TokenStream {
    let relocate = |mut token: TokenTree| {
        if let TokenTree::Group(group) = &token {
            token = Group::new(group.delimiter(), located_at(group.stream(), span)).into();
        }
        token.set_span(token.span().located_at(span));
        token
    };
    tokens.into_iter().map(relocate).collect()
}

/// Returns true if the companion takes this argument of the function.
///
/// The companion takes `self` even if `self` is in `skip`, so that the companion of a method is a
/// method. Any other argument in `skip` is taken in two cases:
///
/// - The option `cache`, `ttl`, `cache_if` or `ttl_with` uses the argument.
/// - The type of the argument is an `impl Trait`. The key contains the type's name, and without the
///   argument a caller has no way to say which type is meant.
fn takes_argument(args: &Args, function: &Function, argument: usize) -> bool {
    let is_skipped =
        |name: &Ident| args.skip.as_ref().is_some_and(|skip| skip.value.contains(name));
    let is_in_option = |name: &Ident| {
        let options = [&args.cache, &args.ttl];
        let functions = [&args.cache_if, &args.ttl_with];
        options.into_iter().flatten().any(|option| mentions(&option.value, name))
            || functions.into_iter().flatten().any(|option| may_mention(&option.value, name))
    };
    let mut parameters = function.parameters.iter().filter(|p| p.argument == argument);
    parameters.any(|parameter| {
        let name = &parameter.ident;
        name == "self"
            || !is_skipped(name)
            || is_in_option(name)
            || function.has_unnamed_type(parameter)
    })
}

/// Returns the attributes of the function that also apply to the companion.
fn inherited_attributes(attributes: &[Attribute]) -> Vec<TokenStream> {
    attributes
        .iter()
        .filter_map(|attribute| {
            let is = |name| attribute.path().is_ident(name);
            // True for `#[doc(hidden)]` and `#[doc(cfg(…))]`, and false for a documentation text.
            let is_doc_setting = is("doc") && attribute.meta.require_list().is_ok();
            if is("cfg") || is("allow") || is("deprecated") || is_doc_setting {
                return Some(attribute.to_token_stream());
            }
            // A lint that the function expects might not occur in the companion, so `expect`
            // becomes `allow`.
            let lints = attribute.meta.require_list().ok().filter(|_| is("expect"))?;
            let lints = &lints.tokens;
            Some(quote!(#[allow(#lints)]))
        })
        .collect()
}
