//! The companion function, which the option `entry = NAME` asks for.
//!
//! It has the annotated function's signature without the parameters that do not identify an entry.

use proc_macro2::{Group, Ident, Punct, Spacing, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, FnArg};

use crate::args::Args;
use crate::expand::{CratePath, Expansion};
use crate::item::Function;
use crate::lifetimes::with_static_lifetimes;
use crate::mentions::mentions;

/// The parts of a companion's signature that differ from the function's.
pub(crate) struct CompanionSignature<'a> {
    name: &'a Ident,
    arguments: Vec<&'a FnArg>,
    attributes: Vec<TokenStream>,
}

impl<'a> CompanionSignature<'a> {
    /// Returns `None` without the option `entry`. The attribute may have errors.
    pub(crate) fn new(args: &'a Args, function: &'a Function) -> Option<CompanionSignature<'a>> {
        let name = &args.entry.as_ref()?.value;
        let arguments = function.signature.inputs.iter().enumerate();
        let arguments = arguments.filter(|(argument, _)| takes_argument(args, function, *argument));
        let arguments = arguments.map(|(_, input)| input).collect();
        let attributes = inherited_attributes(&function.attributes);
        Some(CompanionSignature { name, arguments, attributes })
    }

    /// The span that errors and editors show as the companion's definition.
    fn span(&self) -> Span {
        Span::mixed_site().located_at(self.name.span())
    }
}

/// ```text
/// pub fn payment_entry(number: &str, state: State) -> CacheEntry<Payment, WriteOnce> {
///     lookup::<Result<Payment, FetchError>, _>(…, declared!(…), (part(&number), part(&state))).entry().build()
/// }
/// ```
pub(crate) fn expand(expansion: &Expansion<'_>, companion: &CompanionSignature<'_>) -> TokenStream {
    let Expansion { input, krate } = expansion;
    let lookup = expansion.lookup(&declared(expansion));
    let options = expansion.call_options();
    let head =
        head(input.function, companion, input.infallible, input.overwrite_reason.is_some(), krate);
    let entry = quote_spanned!(input.return_type.span()=> .entry());
    quote_spanned!(companion.span()=> #head { #lookup #entry #options .build() })
}

/// Writes a companion without a body, for an attribute with errors. Its callers then compile and
/// add no errors of their own.
pub(crate) fn stub(args: &Args, function: &Function, krate: &CratePath<'_>) -> Option<TokenStream> {
    let companion = CompanionSignature::new(args, function)?;
    if *companion.name == function.signature.ident {
        return None;
    }
    let is_overwritable = args.was_attempted("overwrite");
    let head = head(function, &companion, args.infallible.is_some(), is_overwritable, krate);
    Some(quote_spanned!(companion.span()=>
        #[allow(unused, clippy::empty_loop)] #head { loop {} }
    ))
}

fn head(
    function: &Function,
    companion: &CompanionSignature<'_>,
    infallible: bool,
    is_overwritable: bool,
    krate: &CratePath<'_>,
) -> TokenStream {
    let CompanionSignature { name, arguments, attributes } = companion;
    let generics = &function.signature.generics;
    let entry = entry_type(function, infallible, is_overwritable, krate);
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

/// Writes `EntryOf<R, P>`, or `CacheEntry<R, P>` under `infallible`.
///
/// Its span is that of the function's return type `R`. An error about `R` is already reported
/// there, and the compiler shows two equal errors at one span once.
fn entry_type(
    function: &Function,
    infallible: bool,
    is_overwritable: bool,
    krate: &CratePath<'_>,
) -> TokenStream {
    let return_type = function.return_type().filter(|_| function.is_async());
    let span = return_type.map_or_else(Span::call_site, Spanned::span);
    let value = return_type.map_or_else(|| quote!(()), with_static_lifetimes);
    let is_inferred = return_type.is_some() && !infallible;
    let entry = Ident::new(if is_inferred { "EntryOf" } else { "CacheEntry" }, span);
    let path = krate.at(span);
    let policy = Ident::new(if is_overwritable { "Overwritable" } else { "WriteOnce" }, span);
    // The compiler suggests missing bounds at the end of a type. With the same end as `R` it makes
    // one suggestion for both.
    let mut end = Punct::new('>', Spacing::Alone);
    let last = return_type.and_then(|ty| ty.to_token_stream().into_iter().last());
    end.set_span(last.map_or(span, |last| last.span()));
    quote_spanned!(span=> #path::#entry<#value, #path::#policy #end)
}

/// Writes the search for the function's declaration, which runs once.
///
/// The declaration is a static inside the function's body, where the companion cannot name it. It
/// cannot stand beside the function, because the attribute does not see whether the function is in
/// an impl, where no static is allowed.
fn declared(expansion: &Expansion<'_>) -> TokenStream {
    let Expansion { input, krate } = expansion;
    let declared = krate.private(Span::call_site(), "declared");
    let (name, function) = (input.name, input.function.signature.ident.to_string());
    quote!(#declared!(#name, #function))
}

/// Moves the tokens to `span`. Their names resolve as before.
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
/// The receiver stays even if it is in `skip`, so that the companion of a method is a method. Other
/// arguments in `skip` stay if `cache` or `ttl` uses them, or if their type is an `impl Trait`:
/// that type is in the key, and a caller cannot name it.
fn takes_argument(args: &Args, function: &Function, argument: usize) -> bool {
    let is_skipped =
        |name: &Ident| args.skip.as_ref().is_some_and(|skip| skip.value.contains(name));
    let is_in_option = |name: &Ident| {
        [&args.cache, &args.ttl].into_iter().flatten().any(|option| mentions(&option.value, name))
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

/// Returns the attributes of the function that apply to the companion too.
fn inherited_attributes(attributes: &[Attribute]) -> Vec<TokenStream> {
    attributes
        .iter()
        .filter_map(|attribute| {
            let is = |name| attribute.path().is_ident(name);
            // `#[doc(hidden)]` and `#[doc(cfg(…))]`, but not the function's documentation.
            let is_doc_setting = is("doc") && attribute.meta.require_list().is_ok();
            if is("cfg") || is("allow") || is("deprecated") || is_doc_setting {
                return Some(attribute.to_token_stream());
            }
            // A lint expected in the function may not occur in the companion, so it is allowed.
            let lints = attribute.meta.require_list().ok().filter(|_| is("expect"))?;
            let lints = &lints.tokens;
            Some(quote!(#[allow(#lints)]))
        })
        .collect()
}
