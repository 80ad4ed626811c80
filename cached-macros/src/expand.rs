//! The tokens. All that happens in a call is in the runtime; what is emitted here names the
//! declaration, the parts of the key and the fetch, and makes one call.
//!
//! Everything is named by its absolute path, and every local has a name that no user can write
//! (`Span::mixed_site`), so nothing the program defines can get in the way.

use proc_macro2::{Delimiter, Group, Ident, Literal, Punct, Spacing, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::visit::Visit;
use syn::{Expr, Generics, Path, Type};

use crate::args::Args;

use crate::item::{Function, Parameter, is_punct};
use crate::lifetimes::borrows;
use crate::mentions::mentions;
use crate::ttl::Ttl;
use crate::validate::Cached;

/// The path of the runtime crate.
pub(crate) struct Krate<'a>(Option<&'a Path>);

impl<'a> Krate<'a> {
    pub(crate) fn new(args: &'a Args) -> Krate<'a> {
        Krate(args.krate.as_ref().map(|krate| &krate.value))
    }

    /// The path of something in the runtime's `private` module; errors in its use are shown at
    /// `span`.
    pub(crate) fn private(&self, span: Span, item: &str) -> TokenStream {
        let item = Ident::new(item, span);
        match self.0 {
            Some(path) => quote_spanned!(span=> #path::private::#item),
            None => quote_spanned!(span=> ::cached_core::private::#item),
        }
    }

    pub(crate) fn path(&self, span: Span) -> TokenStream {
        self.0.map_or_else(|| quote_spanned!(span=> ::cached_core), ToTokens::to_token_stream)
    }
}

/// ```text
/// // Input:
/// #[coordinator_cached(name = "payment", version = state)]
/// async fn fetch_payment(number: &str, state: State) -> Result<Payment, FetchError> { BODY }
///
/// // Output:
/// async fn fetch_payment(number: &str, state: State) -> Result<Payment, FetchError> {
///     let (call, fetch) = {
///         let (number, state) = (number, state);
///         let call = begin!(
///             lookup::<Result<Payment, FetchError>, _>(…, declaration!(…), (part(&number), part(&state)))
///         );
///         (call, async move { BODY })
///     };
///     call.answer(pin!(fetch)).await
/// }
/// ```
///
/// The call is begun in a statement of its own: what its arguments borrow must be gone before the
/// body moves the parameters, and before anything is awaited. And it borrows locals of a block of
/// their own: a parameter that was borrowed is kept in the future for as long as that lives.
pub(crate) fn function(cached: &Cached<'_>, krate: &Krate<'_>) -> TokenStream {
    // There is nothing to fetch yet, and the compiler says so at the braces.
    if cached.body.stream().is_empty() {
        return cached.function.tokens.clone();
    }
    let (head, inner) = (&cached.function.head, InnerAttributes::split(cached.body));
    let [call, fetch] = ["call", "fetch"].map(|name| Ident::new(name, Span::mixed_site()));
    let key = Key { cached, krate };
    let begin = krate.private(Span::call_site(), "begin");
    // Its bounds are those of the lookup: what is said twice at one place is shown once.
    let method = Ident::new("begin", cached.returned.span());
    let (lookup, rules) = (key.lookup(&declaration(cached, krate)), key.rules());
    let body = in_braces_of(cached.body, &{
        let (taken, edge) = (take_over(cached, krate), fake_return_edge(cached.returned, krate));
        let rest = inner.rest;
        quote!(#taken #edge #rest)
    });
    let names: Vec<&Ident> = arguments(cached).map(|parameter| &parameter.ident).collect();
    let rebind = krate.private(Span::call_site(), "rebind");
    let moved = (!names.is_empty()).then(|| quote!(#rebind!((#(#names,)*) = (#(#names,)*));));
    let answer = match cached.refreshed {
        true => quote!(#call.answer_ahead(::std::boxed::Box::pin(#fetch)).await),
        false => quote!(#call.answer(::core::pin::pin!(#fetch)).await),
    };
    let statements = in_braces_of(
        cached.body,
        &quote! {
            let (#call, #fetch) = {
                #moved
                #[allow(clippy::used_underscore_binding)]
                let #call = #begin!(#lookup, #method) #rules;
                (#call, async move #body)
            };
            #answer
        },
    );
    let statements = match &cached.function.desugared {
        Some(desugared) => desugared.around(&statements),
        None => statements,
    };
    let attributes = inner.as_outer;
    quote!(#attributes #head #statements)
}

fn declaration(cached: &Cached<'_>, krate: &Krate<'_>) -> TokenStream {
    let declaration = krate.private(Span::call_site(), "declaration");
    let (name, function) = (cached.name, cached.function.signature.ident.to_string());
    let ttl = match cached.ttl {
        Ttl::Milliseconds(ttl) => Some(("ttl", ttl)),
        Ttl::Default | Ttl::Expression(_) => None,
    };
    let lifetimes = ttl.iter().chain(&cached.lifetimes).map(|(option, milliseconds)| {
        let option = Ident::new(option, Span::call_site());
        quote!(, #option(::core::time::Duration::from_millis(#milliseconds)))
    });
    let [local, remote] = cached.tiers;
    let tiers = (!local || !remote).then(|| quote!(, tiers(#local, #remote)));
    let overwrite = cached.reason.map(|reason| quote!(, overwrite(#reason)));
    let code = Literal::u32_unsuffixed(code_hash(&cached.function.tokens));
    quote!(#declaration!(#name, #function, #code #(#lifetimes)* #tiers #overwrite))
}

/// A hash of the function's tokens (FNV-1a, Fowler, Noll and Vo), by which the runtime tells a copy of
/// the function from another function that a macro wrote at the same place.
fn code_hash(tokens: &TokenStream) -> u32 {
    let add = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    tokens.to_string().bytes().fold(0x811c_9dc5, add)
}

/// The arguments that say which entry is meant. The function and its companion make the same.
pub(crate) struct Key<'a> {
    pub(crate) cached: &'a Cached<'a>,
    pub(crate) krate: &'a Krate<'a>,
}

impl Key<'_> {
    /// The call that is the same in both. It is the one place where the return type's trait bounds
    /// are checked, so that what is wrong with the type is said once, and at the type.
    pub(crate) fn lookup(&self, declaration: &TokenStream) -> TokenStream {
        let Key { cached, krate } = self;
        let returned = cached.returned;
        let span = returned.span();
        let [lookup, probe] = [if cached.whole { "lookup_whole" } else { "lookup" }, "ErrorProbe"]
            .map(|item| krate.private(span, item));
        let errors = match cached.whole {
            true => "infallible",
            // Only an error without borrows can outlive the call that it ended.
            false if borrows(returned) => "unshared",
            false => "sharing",
        };
        let errors = Ident::new(errors, span);
        let identifier = self.parts(&self.cached.identifier);
        let version = self.parts(self.cached.version);
        // All calls in the chain are at the type, so that the whole of it is.
        let types = self.types(span);
        let cache = self.cached.cache.map(|cache| {
            let (function, borrowed) = (krate.private(cache.span(), "cache"), borrowed(cache));
            let lent = quote_spanned!(cache.span()=> #function(#borrowed));
            quote_spanned!(span=> .cache(#lent))
        });
        quote_spanned! {span=>
            #lookup::<#returned, _>(
                #probe::<#returned>::NEW.#errors(), #declaration, (#identifier, #version),
            ) #types #cache
        }
    }

    /// Adds the function's own type and const arguments, if it has any. They are in the key also where the
    /// parameter that has the type is skipped: what the function does depends on them.
    fn types(&self, span: Span) -> TokenStream {
        let function = self.cached.function;
        let (own, constants) = type_and_const_params(&function.signature.generics);
        let own = (!own.is_empty())
            .then(|| quote_spanned!(span=> .of::<(#(::core::marker::PhantomData<#own>,)*)>()));
        // The type of an `impl Trait` cannot be named, but that of its value can.
        let unnamed = function.parameters.iter().filter(|parameter| function.is_unnamed(parameter));
        let unnamed = unnamed.map(|parameter| {
            let name = &parameter.ident;
            quote!(::core::any::type_name_of_val(&#name))
        });
        let constants: Vec<Expr> = constants
            .iter()
            .map(ToTokens::to_token_stream)
            .chain(unnamed)
            .map(Expr::Verbatim)
            .collect();
        let constants = (!constants.is_empty()).then(|| {
            let constants = self.parts(&constants);
            quote_spanned!(span=> .constants(#constants))
        });
        quote!(#own #constants)
    }

    /// None, one, or a pair of one and the rest.
    fn parts<'e>(&self, parts: impl IntoIterator<Item = &'e Expr>) -> TokenStream {
        let parts: Vec<TokenStream> = parts.into_iter().map(|part| self.part(part)).collect();
        let pairs = parts.into_iter().rev().reduce(|rest, first| quote!((#first, #rest)));
        pairs.unwrap_or_else(|| quote!(()))
    }

    /// What else is told to the runtime, each by a method of what the call begins with.
    pub(crate) fn rules(&self) -> TokenStream {
        let ttl = match self.cached.ttl {
            Ttl::Expression(ttl) => Some(("ttl", ttl)),
            Ttl::Default | Ttl::Milliseconds(_) => None,
        };
        let rules = ttl.into_iter().chain(self.cached.rules.iter().copied());
        rules
            .map(|(rule, expression)| {
                let rule = Ident::new(rule, expression.span());
                quote_spanned!(expression.span()=> .#rule(#expression))
            })
            .collect()
    }

    fn part(&self, part: &Expr) -> TokenStream {
        let function = self.cached.function;
        let name = if is_of_type_parameters(function, part) { "generic_part" } else { "part" };
        let (function, borrowed) = (self.krate.private(part.span(), name), borrowed(part));
        quote_spanned!(part.span()=> #function(#borrowed))
    }
}

/// Returns true for a parameter whose type is made of the function's type parameters, such as `K` or `&[K]`.
fn is_of_type_parameters(function: &Function, part: &Expr) -> bool {
    struct Names<'g>(&'g Generics, bool);
    impl<'ast> Visit<'ast> for Names<'_> {
        fn visit_path(&mut self, path: &'ast Path) {
            self.1 |= self.0.type_params().any(|param| path.is_ident(&param.ident));
            syn::visit::visit_path(self, path);
        }
    }
    let Expr::Path(part) = part else { return false };
    let parameter = part.path.get_ident().and_then(|name| function.parameter(name));
    let argument =
        parameter.and_then(|parameter| function.signature.inputs.get(parameter.argument));
    let mut names = Names(&function.signature.generics, false);
    argument.into_iter().for_each(|argument| names.visit_fn_arg(argument));
    names.1
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

/// The parameters but `self`, which cannot be bound anew.
fn arguments<'c>(cached: &'c Cached<'_>) -> impl Iterator<Item = &'c Parameter> {
    cached.function.parameters.iter().filter(|parameter| parameter.ident != "self")
}

/// `let (number, mut state) = (number, state);`, as the compiler does it for a plain `async fn`: what
/// it says of a local names it, what it says of a captured variable does not.
fn take_over(cached: &Cached<'_>, krate: &Krate<'_>) -> TokenStream {
    let in_option = |name: &Ident| {
        let ttl = match cached.ttl {
            Ttl::Expression(ttl) => Some(ttl),
            Ttl::Default | Ttl::Milliseconds(_) => None,
        };
        cached.cache.into_iter().chain(ttl).any(|option| mentions(option, name))
    };
    let (skipped, in_key): (Vec<_>, Vec<_>) = arguments(cached).partition(|parameter| {
        cached.skipped.contains(&parameter.ident) && !in_option(&parameter.ident)
    });
    let rebind = krate.private(Span::call_site(), "rebind");
    let bind = |parameters: &[&Parameter], is_used: TokenStream| {
        let names: Vec<&Ident> = parameters.iter().map(|parameter| &parameter.ident).collect();
        let mutability = parameters.iter().map(|parameter| &parameter.mutability);
        let patterns = quote!((#(#mutability #names,)*));
        (!names.is_empty()).then(|| quote!(#rebind!(#is_used #patterns = (#(#names,)*));))
    };
    // A parameter of the key or of an option is used, even where the body does not use it.
    let in_key = bind(&in_key, quote!(used));
    let skipped = bind(&skipped, quote!());
    quote!(#in_key #skipped)
}

/// Tells the compiler what the body returns, so that an error in the body is shown there and not at
/// the call that is made of it.
fn fake_return_edge(returned: &Type, krate: &Krate<'_>) -> TokenStream {
    let span = returned.span();
    let returns = krate.private(span, "returns");
    quote_spanned!(span=> #returns!(#returned);)
}

/// The tokens in braces that stand where the body's own do.
fn in_braces_of(body: &Group, tokens: &TokenStream) -> TokenTree {
    let mut group = Group::new(Delimiter::Brace, tokens.clone());
    group.set_span(body.span());
    TokenTree::Group(group)
}

/// Attributes at the beginning of a body (`#![allow(…)]`). They must stay the first thing in it,
/// or stand before the function, where they mean the same.
struct InnerAttributes {
    as_outer: TokenStream,
    rest: TokenStream,
}

impl InnerAttributes {
    fn split(body: &Group) -> InnerAttributes {
        let mut trees = body.stream().into_iter().peekable();
        let mut as_outer = TokenStream::new();
        let mut rest = trees.clone();
        while is_punct(trees.next().as_ref(), '#') && is_punct(trees.next().as_ref(), '!') {
            let Some(TokenTree::Group(attribute)) = trees.next() else {
                break;
            };
            as_outer.extend(quote!(# #attribute));
            rest = trees.clone();
        }
        InnerAttributes { as_outer, rest: rest.collect() }
    }
}

/// The type and const parameters among the generics.
fn type_and_const_params(generics: &Generics) -> (Vec<&Ident>, Vec<&Ident>) {
    let types = generics.type_params().map(|param| &param.ident).collect();
    let constants = generics.const_params().map(|param| &param.ident).collect();
    (types, constants)
}
