//! The companion function that `entry = NAME` asks for. Its signature is the annotated one's, less
//! what does not say which entry is meant.

use proc_macro2::{Group, Ident, Punct, Spacing, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, FnArg};

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
    let key = Key { cached, krate };
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
    let Companion { name, arguments, attributes } = companion;
    let generics = &function.signature.generics;
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

/// `EntryOf<R, P>`, or `CacheEntry<R, P>` where all that is returned is cached, at the function's return type: what is wrong with that is said there by the
/// function already, and at one place the compiler says a thing once.
fn entry_type(
    function: &Function,
    whole: bool,
    overwritable: bool,
    krate: &Krate<'_>,
) -> TokenStream {
    let returned = function.returned().filter(|_| function.is_async());
    let span = returned.map_or_else(Span::call_site, Spanned::span);
    let value = returned.map_or_else(|| quote!(()), without_lifetimes);
    let by_type = returned.is_some() && !whole;
    let entry = Ident::new(if by_type { "EntryOf" } else { "CacheEntry" }, span);
    let path = krate.path(span);
    let policy = Ident::new(if overwritable { "Overwritable" } else { "WriteOnce" }, span);
    // It ends where the type does: there the compiler proposes bounds, and for both the same.
    let mut end = Punct::new('>', Spacing::Alone);
    let last = returned.and_then(|returned| returned.to_token_stream().into_iter().last());
    end.set_span(last.map_or(span, |last| last.span()));
    quote_spanned!(span=> #path::#entry<#value, #path::#policy #end)
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
        let arguments = inputs.iter().enumerate();
        let arguments = arguments.filter(|(argument, _)| is_kept(args, function, *argument));
        let arguments = arguments.map(|(_, input)| input).collect();
        let attributes = attributes(&function.attributes);
        Some(Companion { name, arguments, attributes })
    }
}

/// Returns true if the companion takes this argument. The receiver stays even where it is skipped, so that a
/// method has a method beside it. A skipped argument stays where the cache or the ttl comes from it, and
/// where its type is an `impl Trait`: that type is in the key, and a caller cannot name it.
fn is_kept(args: &Args, function: &Function, argument: usize) -> bool {
    let skipped = |name: &Ident| args.skip.as_ref().is_some_and(|skip| skip.value.contains(name));
    let used = |name: &Ident| {
        [&args.cache, &args.ttl].into_iter().flatten().any(|option| mentions(&option.value, name))
    };
    let mut parameters = function.parameters.iter().filter(|p| p.argument == argument);
    parameters.any(|parameter| {
        let name = &parameter.ident;
        name == "self" || !skipped(name) || used(name) || function.is_unnamed(parameter)
    })
}

/// The attributes of the function that hold for the companion too.
fn attributes(attributes: &[Attribute]) -> Vec<TokenStream> {
    attributes
        .iter()
        .filter_map(|attribute| {
            let is = |name| attribute.path().is_ident(name);
            // `#[doc(hidden)]` and `#[doc(cfg(…))]`; the function's text is its own.
            let is_about_documentation = is("doc") && attribute.meta.require_list().is_ok();
            if is("cfg") || is("allow") || is("deprecated") || is_about_documentation {
                return Some(attribute.to_token_stream());
            }
            // What is expected of the function need not be there in its companion.
            let lints = attribute.meta.require_list().ok().filter(|_| is("expect"))?;
            let lints = &lints.tokens;
            Some(quote!(#[allow(#lints)]))
        })
        .collect()
}
