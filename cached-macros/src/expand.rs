//! The tokens. All that happens in a call is in the runtime; what is emitted here names the
//! declaration, the parts of the key and the fetch, and makes one call.
//!
//! Everything is named by its absolute path, and every local has a name that no user can write
//! (`Span::mixed_site`), so nothing the program defines can get in the way.

use proc_macro2::{Delimiter, Group, Ident, Punct, Spacing, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Expr, Generics, Path, Type};

use crate::args::Args;
use crate::companion::{Companion, borrows, type_and_const_params, without_lifetimes};

use crate::item::Function;
use crate::validate::{Cached, Ttl};

/// The path of the runtime crate.
pub(crate) struct Krate<'a>(Option<&'a Path>);

impl<'a> Krate<'a> {
    pub(crate) fn new(args: &'a Args) -> Krate<'a> {
        Krate(args.krate.as_ref().map(|krate| &krate.value))
    }

    /// The path of something in the runtime's `private` module; errors in its use are shown at
    /// `span`.
    fn private(&self, span: Span, item: &str) -> TokenStream {
        let item = Ident::new(item, span);
        match self.0 {
            Some(path) => quote_spanned!(span=> #path::private::#item),
            None => quote_spanned!(span=> ::cached_core::private::#item),
        }
    }

    fn path(&self) -> TokenStream {
        self.0
            .map_or_else(|| quote!(::cached_core), ToTokens::to_token_stream)
    }
}

/// ```text
/// // Input:
/// #[coordinator_cached(name = "payment", version = state)]
/// async fn fetch_payment(number: &str, state: State) -> Result<Payment, FetchError> { BODY }
///
/// // Output:
/// async fn fetch_payment(number: &str, state: State) -> Result<Payment, FetchError> {
///     let declaration = { static DECLARATION: Declaration = …; &DECLARATION };
///     let returns = returns::<ByType, Result<Payment, FetchError>>(…);
///     let call = Call::begin(declaration, returns, None, Types::new(…), &[part(&number)], Some(part(&state)));
///     let fetch = async move { BODY };
///     call.answer(pin!(fetch)).await
/// }
/// ```
pub(crate) fn function(
    cached: &Cached<'_>,
    companion: Option<&Companion<'_>>,
    krate: &Krate<'_>,
) -> TokenStream {
    let (head, inner) = (&cached.function.head, InnerAttributes::split(cached.body));
    let [declaration, returns, call, fetch] = ["declaration", "returns", "call", "fetch"]
        .map(|name| Ident::new(name, Span::mixed_site()));
    let declared = declaration_static(cached, krate);
    let returns_value = returns_value(cached, krate);
    let begin = krate.private(Span::call_site(), "Call");
    let generics = companion.map_or(&cached.function.signature.generics, |companion| {
        &companion.generics
    });
    let key = Key {
        cached,
        krate,
        generics,
    };
    let (cache, types, identifier, version, ttl) = (
        key.cache(),
        key.types(),
        key.identifier(),
        key.version(),
        key.ttl(),
    );
    let body = in_braces_of(cached.body, &{
        let (edge, rest) = (fake_return_edge(cached.returned), inner.rest);
        quote!(#edge #rest)
    });
    let statements = in_braces_of(
        cached.body,
        &quote! {
            let #declaration = #declared;
            let #returns = #returns_value;
            let #call = #begin::begin(#declaration, #returns, #cache, #types, #identifier, #version) #ttl;
            let #fetch = async move #body;
            #call.answer(::core::pin::pin!(#fetch)).await
        },
    );
    let attributes = inner.as_outer;
    quote!(#attributes #head #statements)
}

/// ```text
/// pub fn payment_entry(number: &str, state: State) -> CacheEntry<Payment, WriteOnce> {
///     let declaration = { static DECLARED: Declared = …; DECLARED.get() };
///     entry::<ByType, Result<Payment, FetchError>, WriteOnce>(declaration, None, Types::new(…), &[…], …)
/// }
/// ```
pub(crate) fn companion(
    cached: &Cached<'_>,
    companion: &Companion<'_>,
    krate: &Krate<'_>,
) -> TokenStream {
    let declaration = Ident::new("declaration", Span::mixed_site());
    let declared = declared_lookup(cached, krate);
    let (mode, returned) = (
        mode(cached.whole, krate),
        without_lifetimes(cached.returned),
    );
    let policy = policy(cached.reason.is_some(), krate);
    let entry = krate.private(Span::call_site(), "entry");
    let key = Key {
        cached,
        krate,
        generics: &companion.generics,
    };
    let (cache, types, identifier, version, ttl) = (
        key.cache(),
        key.types(),
        key.identifier(),
        key.version(),
        key.ttl(),
    );
    let head = companion_head(
        cached.function,
        companion,
        cached.whole,
        cached.reason.is_some(),
        krate,
    );
    quote! {
        #head {
            let #declaration = #declared;
            #entry::<#mode, #returned, #policy>(#declaration, #cache, #types, #identifier, #version) #ttl
        }
    }
}

/// What stays of the companion where the attribute has mistakes: something to call, so that its
/// callers add no errors to those that are shown.
pub(crate) fn companion_stub(
    args: &Args,
    function: &Function,
    krate: &Krate<'_>,
) -> Option<TokenStream> {
    let companion = Companion::new(args, function)?;
    let head = companion_head(
        function,
        &companion,
        args.infallible.is_some(),
        args.tried("overwrite"),
        krate,
    );
    Some(quote!(#[allow(unused, clippy::empty_loop)] #head { loop {} }))
}

fn companion_head(
    function: &Function,
    companion: &Companion<'_>,
    whole: bool,
    overwritable: bool,
    krate: &Krate<'_>,
) -> TokenStream {
    let Companion {
        name,
        arguments,
        generics,
        attributes,
    } = companion;
    let visibility = &function.visibility;
    let (_, _, where_clause) = generics.split_for_impl();
    let (path, policy) = (krate.path(), policy(overwritable, krate));
    let value = match function.returned() {
        Some(returned) if function.signature.asyncness.is_some() => {
            let (mode, returned) = (mode(whole, krate), without_lifetimes(returned));
            let trait_path = krate.private(Span::call_site(), "Returned");
            quote!(<#returned as #trait_path<#mode>>::Value)
        }
        _ => quote!(()),
    };
    let doc = format!(
        "The cache entry of `{}` for these arguments: looks at it, adds, invalidates{} it. Fetches nothing.",
        function.signature.ident,
        if overwritable { " or overwrites" } else { "" },
    );
    quote! {
        #(#attributes)*
        #[doc = #doc]
        #[must_use = "an entry does nothing by itself; call one of its methods"]
        #[allow(unused_mut, unused_variables, clippy::needless_lifetimes, clippy::elidable_lifetime_names,
            clippy::needless_pass_by_value, clippy::too_many_arguments, clippy::trivially_copy_pass_by_ref, clippy::unused_self)]
        #visibility fn #name #generics(#(#arguments),*) -> #path::CacheEntry<#value, #policy> #where_clause
    }
}

fn declaration_static(cached: &Cached<'_>, krate: &Krate<'_>) -> TokenStream {
    let [linkme, slice, declaration] = ["linkme", "DECLARATIONS", "Declaration"]
        .map(|item| krate.private(Span::call_site(), item));
    let (name, function) = (cached.name, function_path(cached));
    let ttl = match cached.ttl {
        Ttl::Milliseconds(ttl) => Some(quote!(.ttl(::core::time::Duration::from_millis(#ttl)))),
        Ttl::Default | Ttl::Expression(_) => None,
    };
    let overwrite = cached.reason.map(|reason| quote!(.overwrite(#reason)));
    quote! {{
        #[#linkme::distributed_slice(#slice)]
        #[linkme(crate = #linkme)]
        static DECLARATION: #declaration = #declaration::new(
            #name, #function, ::core::file!(), ::core::line!(), ::core::column!(),
        ) #ttl #overwrite;
        &DECLARATION
    }}
}

/// The function's declaration, for the companion. The static is in the function's body, since
/// beside a function nothing can be put that both can name: the macro does not see whether it is
/// in an impl. So the companion looks for it, once.
fn declared_lookup(cached: &Cached<'_>, krate: &Krate<'_>) -> TokenStream {
    let declared = krate.private(Span::call_site(), "Declared");
    let (name, function) = (cached.name, function_path(cached));
    quote! {{
        static DECLARED: #declared = #declared::new(#name, #function);
        DECLARED.get()
    }}
}

fn function_path(cached: &Cached<'_>) -> TokenStream {
    let in_module = format!("::{}", cached.function.signature.ident);
    quote!(::core::concat!(::core::module_path!(), #in_module))
}

/// The one place where the return type's trait bounds are checked, so that what is wrong with the
/// type is said once, and at the type.
fn returns_value(cached: &Cached<'_>, krate: &Krate<'_>) -> TokenStream {
    let returned = cached.returned;
    let span = returned.span();
    let [returns, sharing] = ["returns", "Sharing"].map(|item| krate.private(span, item));
    let mode = mode(cached.whole, krate);
    // Only an error without borrows can outlive the call that it ended.
    let errors = Ident::new(
        if borrows(returned) {
            "no_errors"
        } else {
            "errors"
        },
        span,
    );
    quote_spanned!(span=> #returns::<#mode, #returned>(#sharing::<#returned>::NEW.#errors()))
}

fn mode(whole: bool, krate: &Krate<'_>) -> TokenStream {
    krate.private(Span::call_site(), if whole { "Whole" } else { "ByType" })
}

fn policy(overwritable: bool, krate: &Krate<'_>) -> TokenStream {
    let krate = krate.path();
    if overwritable {
        quote!(#krate::Overwritable)
    } else {
        quote!(#krate::WriteOnce)
    }
}

/// The arguments that say which entry is meant. The function and its companion make the same.
struct Key<'a> {
    cached: &'a Cached<'a>,
    krate: &'a Krate<'a>,
    generics: &'a Generics,
}

impl Key<'_> {
    fn cache(&self) -> TokenStream {
        let cache = self.cached.cache.map(|cache| {
            let (function, borrowed) = (self.krate.private(cache.span(), "cache"), borrowed(cache));
            quote_spanned!(cache.span()=> #function(#borrowed))
        });
        optional(cache)
    }

    fn types(&self) -> TokenStream {
        let types = self.krate.private(Span::call_site(), "Types");
        let (own, constants) = type_and_const_params(self.generics);
        let own =
            (!own.is_empty()).then(|| quote!(.of::<(#(::core::marker::PhantomData<#own>,)*)>()));
        let constants = (!constants.is_empty()).then(|| {
            let part = self.krate.private(Span::call_site(), "part");
            quote!(.constants(&[#(#part(&#constants)),*]))
        });
        quote!(#types::new(&|| ()) #own #constants)
    }

    fn identifier(&self) -> TokenStream {
        let parts = self.cached.identifier.iter().map(|part| self.part(part));
        quote!(&[#(#parts),*])
    }

    fn version(&self) -> TokenStream {
        optional(self.cached.version.map(|version| self.part(version)))
    }

    fn ttl(&self) -> TokenStream {
        match self.cached.ttl {
            Ttl::Expression(ttl) => quote_spanned!(ttl.span()=> .ttl(#ttl)),
            Ttl::Default | Ttl::Milliseconds(_) => TokenStream::new(),
        }
    }

    fn part(&self, part: &Expr) -> TokenStream {
        let (function, borrowed) = (self.krate.private(part.span(), "part"), borrowed(part));
        quote_spanned!(part.span()=> #function(#borrowed))
    }
}

fn optional(value: Option<TokenStream>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}

/// A borrow of the expression; of a tuple, a tuple of borrows, so that none of it is moved.
fn borrowed(expression: &Expr) -> TokenStream {
    let mut and = Punct::new('&', Spacing::Alone);
    and.set_span(expression.span());
    match expression {
        Expr::Group(inner) => borrowed(&inner.expr),
        Expr::Paren(inner) if matches!(*inner.expr, Expr::Tuple(_)) => borrowed(&inner.expr),
        Expr::Tuple(tuple) => {
            let elements = tuple.elems.iter().map(borrowed);
            quote_spanned!(expression.span()=> #and (#(#elements,)*))
        }
        Expr::Binary(_) | Expr::Cast(_) | Expr::Range(_) | Expr::Closure(_) | Expr::Assign(_) => {
            quote_spanned!(expression.span()=> #and (#expression))
        }
        _ => quote!(#and #expression),
    }
}

/// `if false { return … }`: it tells the compiler what the body returns, so that an error in the
/// body is shown there and not at the call that is made of it.
fn fake_return_edge(returned: &Type) -> TokenStream {
    let value = Ident::new("returned", Span::mixed_site());
    let span = returned.span();
    quote_spanned! {span=>
        #[allow(unknown_lints, unreachable_code, clippy::diverging_sub_expression, clippy::empty_loop,
            clippy::let_unit_value, clippy::needless_return, clippy::unreachable)]
        if false {
            let #value: #returned = loop {};
            return #value;
        }
    }
}

/// The tokens in braces that stand where the body's own do.
fn in_braces_of(body: &Group, tokens: &TokenStream) -> TokenTree {
    let mut group = Group::new(Delimiter::Brace, tokens.clone());
    group.set_span(body.span());
    TokenTree::Group(group)
}

/// Attributes at the beginning of a body (`#![allow(…)]`). They must stay the first thing in it, or
/// stand before the function, where they mean the same.
struct InnerAttributes {
    as_outer: TokenStream,
    rest: TokenStream,
}

impl InnerAttributes {
    fn split(body: &Group) -> InnerAttributes {
        let mut trees = body.stream().into_iter().peekable();
        let mut as_outer = TokenStream::new();
        let is = |tree: Option<&TokenTree>, expected: char| matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == expected);
        let mut rest = trees.clone();
        while is(trees.next().as_ref(), '#') && is(trees.next().as_ref(), '!') {
            let Some(TokenTree::Group(attribute)) = trees.next() else {
                break;
            };
            as_outer.extend(quote!(# #attribute));
            rest = trees.clone();
        }
        InnerAttributes {
            as_outer,
            rest: rest.collect(),
        }
    }
}
