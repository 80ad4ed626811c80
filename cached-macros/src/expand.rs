//! Generates the tokens that replace an annotated function.
//!
//! The logic of a cached call is in the runtime crate `cached_core`. The generated code passes
//! three things to the runtime:
//!
//! - the declaration, which contains the function's name and options
//! - the parts of the key
//! - the *fetch*, a future that runs the function's body
//!
//! The option `entry = NAME` asks for a *companion*: a second function, which returns a handle of
//! the cache entry and fetches nothing.
//!
//! In the generated code every path is absolute, and every local variable has a hygienic name
//! (`Span::mixed_site`), which no other code can use. So nothing that the program defines can
//! shadow these names.

use proc_macro2::{Delimiter, Group, Ident, Literal, Punct, Spacing, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::visit::Visit;
use syn::{Expr, Generics, Path, Type};

use crate::args::Args;
use crate::failures::ErrorSharing;
use crate::item::{Function, SignatureBinding, is_punct};
use crate::mentions::mentions;
use crate::receiver::{RefreshCopies, with_receiver};
use crate::signature::type_arguments;
use crate::source_text::source_text;
use crate::ttl::{DurationOption, Ttl};
use crate::validate::ValidatedFunction;
use crate::value_function::CopyKind;

/// The path of the runtime crate: `::cached_core`, or the path that the option `crate` names.
pub(crate) struct CratePath<'a>(Option<&'a Path>);

impl<'a> CratePath<'a> {
    pub(crate) fn new(args: &'a Args) -> CratePath<'a> {
        CratePath(args.krate.as_ref().map(|krate| &krate.value))
    }

    /// Returns the path of an item in the runtime's `private` module. The compiler shows errors
    /// about the use of the item at `span`.
    pub(crate) fn private(&self, span: Span, item: &str) -> TokenStream {
        let (path, item) = (self.at(span), Ident::new(item, span));
        quote_spanned!(span=> #path::private::#item)
    }

    /// Returns the path of the runtime crate. `::cached_core` gets this span; the path of the
    /// option `crate` keeps its own.
    pub(crate) fn at(&self, span: Span) -> TokenStream {
        self.0.map_or_else(|| quote_spanned!(span=> ::cached_core), ToTokens::to_token_stream)
    }
}

/// The generator of the tokens that replace one annotated function.
pub(crate) struct ExpansionWriter<'a> {
    pub(crate) input: &'a ValidatedFunction<'a>,
    pub(crate) krate: &'a CratePath<'a>,
}

impl ExpansionWriter<'_> {
    /// Writes the annotated function with its new body.
    ///
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
    ///             lookup::<Result<Payment, FetchError>, _>(…, declare!(…), (part(&number), part(&state))),
    ///             begin as Result<Payment, FetchError>
    ///         );
    ///         (call, async move { BODY })
    ///     };
    ///     call.complete(pin!(fetch)).await
    /// }
    /// ```
    ///
    /// The inner block moves the parameters into locals, and `begin!` borrows these locals. If
    /// `begin!` borrowed the parameters themselves, they would take up space in the future for as
    /// long as the future lives. `begin!` is a statement of its own, so that its borrows end before
    /// the `async move` block takes the locals.
    pub(crate) fn function(&self) -> TokenStream {
        let ExpansionWriter { input, krate } = self;
        // A function with an empty body stays unchanged. The compiler then reports its usual error
        // about the missing return value.
        if input.body.stream().is_empty() {
            return input.function.tokens.clone();
        }
        let (head, body) = (&input.function.head, SplitBody::split(input.body));
        let [call, fetch] = ["call", "fetch"].map(|name| Ident::new(name, Span::mixed_site()));
        let begin = krate.private(Span::call_site(), "begin");
        let return_type = input.return_type;
        let method = self.begin_method();
        let lookup = self.lookup(&self.declaration());
        // With `refresh_ahead` (a fetch in the background before the entry expires), the options
        // `cache_if` and `ttl_with` are left out here. `fetch` writes them instead.
        let options = match input.has_refresh_ahead {
            true => self.options_of_the_entry(),
            false => self.call_options(CopyKind::Clones),
        };
        let share_error = self.share_error();
        let fetch_future = self.fetch(&call, body.statements);
        let names: Vec<&Ident> = self.parameters().map(|parameter| &parameter.ident).collect();
        let rebind = krate.private(Span::call_site(), "rebind");
        let rebind = (!names.is_empty()).then(|| quote!(#rebind!((#(#names,)*) = (#(#names,)*));));
        let call_and_fetch = match input.has_refresh_ahead {
            true => quote!(let #fetch = #fetch_future; (#call, #fetch)),
            false => quote!((#call, #fetch_future)),
        };
        let completion = match input.has_refresh_ahead {
            true => quote!(#call.complete_with_refresh(#fetch).await),
            false => quote!(#call.complete(::core::pin::pin!(#fetch)).await),
        };
        let statements = in_braces_of(
            input.body,
            &quote! {
                let (#call, #fetch) = {
                    #rebind
                    #[allow(clippy::used_underscore_binding)]
                    let #call = #begin!(#lookup, #method as #return_type) #options #share_error;
                    #call_and_fetch
                };
                #completion
            },
        );
        let statements = match &input.function.desugared {
            Some(desugared) => desugared.body_with(&statements),
            None => statements,
        };
        let attributes = body.attributes;
        quote!(#attributes #head #statements)
    }

    /// Writes the future that runs the body. With `refresh_ahead`, writes a closure that makes this
    /// future instead, because only a hit that starts a refresh needs the future.
    fn fetch(&self, call: &Ident, statements: TokenStream) -> TokenStream {
        let (input, krate) = (self.input, self.krate);
        let rules_name = Ident::new("rules", Span::mixed_site());
        let (rebind, edge) = (self.rebind_in_fetch(), self.fake_return_edge());
        let future = |borrow: TokenStream, statements: TokenStream| {
            let body = in_braces_of(input.body, &quote!(#borrow #rebind #edge #statements));
            quote!(async move #body)
        };
        let (copy, future) = match input.refresh_with {
            None => (TokenStream::new(), future(TokenStream::new(), statements)),
            Some(receiver) => {
                let this = Ident::new("this", Span::mixed_site());
                let copies = RefreshCopies::new(input.function, receiver, &this, krate);
                (copies.copy, future(copies.borrow, with_receiver(statements, &this)))
            }
        };
        if !input.has_refresh_ahead {
            return future;
        }
        // With `refresh_with`, the parameters may be references. The functions of `cache_if` and
        // `ttl_with` outlive these references, so they get owned copies.
        let copies = if input.refresh_with.is_some() { CopyKind::Owned } else { CopyKind::Clones };
        let rules = self.rules(copies);
        let rules = (!rules.is_empty()).then(|| quote!(let #rules_name = #rules_name #rules;));
        quote! {{
            let #rules_name = #call.no_rules();
            move || {
                #rules
                #copy
                (#rules_name, ::std::boxed::Box::pin(#future))
            }
        }}
    }

    /// Writes the `declare!` macro call, which declares the function in a static.
    fn declaration(&self) -> TokenStream {
        let ExpansionWriter { input, krate } = self;
        let declare = krate.private(Span::call_site(), "declare");
        let (name, function) = (input.name, input.function.signature.ident.to_string());
        let ttl = match input.ttl {
            Ttl::Milliseconds(milliseconds) => Some(DurationOption { option: "ttl", milliseconds }),
            Ttl::Default | Ttl::Expression(_) => None,
        };
        let durations = ttl.iter().chain(&input.durations).map(|duration| {
            let DurationOption { option, milliseconds } = duration;
            let option = Ident::new(option, Span::call_site());
            quote!(, #option(::core::time::Duration::from_millis(#milliseconds)))
        });
        let (local, remote) = (input.uses_local, input.uses_remote);
        let tiers = (!local || !remote).then(|| quote!(, tiers(#local, #remote)));
        let version = input.version.map(|version| {
            let text = source_text(version.to_token_stream());
            quote!(, #text)
        });
        let overwrite = input.overwrite_reason.map(|reason| quote!(, overwrite(#reason)));
        let computed = self.computed_options();
        let computes = (!computed.is_empty()).then(|| quote!(, computes(#computed)));
        let code = Literal::u32_unsuffixed(code_hash(&input.function.tokens));
        quote!(#declare!(#name, #function, #code #version #(#durations)* #tiers #overwrite #computes))
    }

    /// Returns the names of the options that are expressions. The ledger, the runtime's list of
    /// annotated functions, shows these names.
    fn computed_options(&self) -> String {
        let ttl = self.ttl_expression().map(|_| "ttl");
        let functions = self.input.value_functions.iter().map(|value| value.option);
        let share_error = self.share_error().map(|_| "share_error");
        let options = ttl.into_iter().chain(functions).chain(share_error);
        options.collect::<Vec<_>>().join(", ")
    }

    /// Writes the expression that identifies the cache entry. The function and its companion both
    /// contain this expression.
    ///
    /// The expression determines which part of the return type is cached. It has the span of the
    /// return type, so the compiler reports an unsuitable return type once, at the type.
    pub(crate) fn lookup(&self, declaration: &TokenStream) -> TokenStream {
        let ExpansionWriter { input, krate } = self;
        let return_type = input.return_type;
        let span = name_span(value_type(return_type, input.infallible));
        let lookup = match (input.uses_remote, input.infallible) {
            (false, _) => "lookup_local",
            (true, true) => "lookup_whole",
            (true, false) => "lookup",
        };
        let [lookup, probe] = [lookup, "ErrorProbe"].map(|item| krate.private(span, item));
        let sharing = Ident::new(input.error_sharing.method(), return_type.span());
        // Values that never leave the process need not implement serde's traits. Their type
        // therefore determines how they are weighed.
        let (local_types, weigher) = match input.uses_remote {
            true => (None, None),
            false => {
                let mode = if input.infallible { "WholeValue" } else { "InferredValue" };
                let [mode, probe] = [mode, "WeightProbe"].map(|item| krate.private(span, item));
                let weigher = quote_spanned!(span=> #probe::<#return_type, #mode>::NEW.weigher(),);
                (Some(quote_spanned!(span=> #mode, _,)), Some(weigher))
            }
        };
        let identifier = self.key_parts(&input.identifier_parts);
        let version = self.key_parts(input.version);
        // All method calls of the chain have the span of the return type, so the compiler's errors
        // about them underline the return type.
        let arguments = self.generic_arguments(span);
        let cache = input.cache.map(|cache| {
            let (function, cache_ref) = (krate.private(cache.span(), "cache"), by_ref(cache));
            let cache = quote_spanned!(cache.span()=> #function(#cache_ref));
            quote_spanned!(span=> .cache(#cache))
        });
        quote_spanned! {span=>
            #lookup::<#return_type, #local_types _>(
                #probe::<#return_type>::NEW.#sharing(), #weigher #declaration, (#identifier, #version),
            ) #arguments #cache
        }
    }

    /// Returns the name of the method that begins the call. This method also has the trait bounds
    /// that the type of the cached value must fulfil.
    fn begin_method(&self) -> Ident {
        let ExpansionWriter { input, .. } = self;
        let value = value_type(input.return_type, input.infallible);
        let is_generic = names_type_parameter(&input.function.signature.generics, value);
        Ident::new(if is_generic { "begin_generic" } else { "begin" }, name_span(value))
    }

    /// Writes the method calls that add the function's own type and const arguments to the key.
    ///
    /// The result of the body can depend on these arguments. A type argument is therefore in the
    /// key even if the option `skip` leaves every parameter of this type out of the key.
    fn generic_arguments(&self, span: Span) -> TokenStream {
        let function = self.input.function;
        let generics = &function.signature.generics;
        let types: Vec<&Ident> = generics.type_params().map(|param| &param.ident).collect();
        let types = (!types.is_empty()).then(|| {
            quote_spanned!(span=> .type_arguments::<(#(::core::marker::PhantomData<#types>,)*)>())
        });
        // The generated code cannot write the type of an `impl Trait` parameter. The key contains
        // the type's name as text instead, which is read at run time.
        let unnamed =
            function.parameters.iter().filter(|parameter| function.has_unnamed_type(parameter));
        let unnamed = unnamed.map(|parameter| {
            let name = &parameter.ident;
            quote!(::core::any::type_name_of_val(&#name))
        });
        let constants: Vec<Expr> = generics
            .const_params()
            .map(|param| param.ident.to_token_stream())
            .chain(unnamed)
            .map(Expr::Verbatim)
            .collect();
        let constants = (!constants.is_empty()).then(|| {
            let constants = self.key_parts(&constants);
            quote_spanned!(span=> .constants(#constants))
        });
        quote!(#types #constants)
    }

    /// Writes key parts as nested pairs: `()`, `a`, `(a, b)`, `(a, (b, c))`.
    fn key_parts<'e>(&self, parts: impl IntoIterator<Item = &'e Expr>) -> TokenStream {
        let parts: Vec<TokenStream> = parts.into_iter().map(|part| self.key_part(part)).collect();
        let pairs = parts.into_iter().rev().reduce(|rest, first| quote!((#first, #rest)));
        pairs.unwrap_or_else(|| quote!(()))
    }

    /// Writes one key part: `part(&expression)`, or `generic_part(&expression)` if the part's type
    /// names a type parameter.
    fn key_part(&self, part: &Expr) -> TokenStream {
        let is_generic = has_generic_type(self.input.function, part);
        let name = if is_generic { "generic_part" } else { "part" };
        let (function, part_ref) = (self.krate.private(part.span(), name), by_ref(part));
        quote_spanned!(part.span()=> #function(#part_ref))
    }

    /// Writes the options whose values are expressions. Each option is a method call. The cached
    /// function calls the method on the runtime's `Call`, and a companion on `EntryBuilder`.
    pub(crate) fn call_options(&self, copies: CopyKind) -> TokenStream {
        let (of_the_entry, rules) = (self.options_of_the_entry(), self.rules(copies));
        quote!(#of_the_entry #rules)
    }

    /// Writes the options that a call needs before it fetches: `ttl` and `weight`.
    fn options_of_the_entry(&self) -> TokenStream {
        let ttl = self.ttl_expression().map(|ttl| {
            let option = Ident::new("ttl", ttl.span());
            quote_spanned!(ttl.span()=> .#option(#ttl))
        });
        let weight = self.value_options(|option| option == "weight", CopyKind::Clones);
        quote!(#ttl #weight)
    }

    /// Writes the options that are applied to a fetched value: `cache_if` and `ttl_with`.
    fn rules(&self, copies: CopyKind) -> TokenStream {
        self.value_options(|option| option != "weight", copies)
    }

    fn value_options(&self, is_wanted: impl Fn(&str) -> bool, copies: CopyKind) -> TokenStream {
        let ExpansionWriter { input, krate } = self;
        let values = input.value_functions.iter().filter(|value| is_wanted(value.option));
        values
            .map(|value| {
                let span = value.function.span();
                let option = Ident::new(value.option, span);
                let function = value.tokens(input.function, copies, krate);
                quote_spanned!(span=> .#option(#function))
            })
            .collect()
    }

    /// Writes the method call for the option `share_error`, whose function copies an error for the
    /// calls that waited for the same fetch. A companion runs no fetch, so it does not need the
    /// option.
    ///
    /// The method call has the return type's span. If the option's function does not fit the error
    /// type, the compiler reports this at the return type.
    fn share_error(&self) -> Option<TokenStream> {
        let ErrorSharing::ByFunction(function) = self.input.error_sharing else { return None };
        let return_type = self.input.return_type;
        let span = return_type.span();
        let error_copier = self.krate.private(span, "error_copier");
        let returned = Ident::new("returned", Span::mixed_site());
        Some(quote_spanned!(span=>
            .share_error(|#returned| #error_copier::<#return_type>().copy(#returned, #function))
        ))
    }

    /// Returns the option `ttl` if its value is an expression and not a literal.
    fn ttl_expression(&self) -> Option<&Expr> {
        match self.input.ttl {
            Ttl::Expression(ttl) => Some(ttl),
            Ttl::Default | Ttl::Milliseconds(_) => None,
        }
    }

    /// Returns all parameters except `self`, because no `let` can bind `self`.
    fn parameters(&self) -> impl Iterator<Item = &SignatureBinding> {
        self.input.function.parameters.iter().filter(|parameter| parameter.ident != "self")
    }

    /// Writes `let (number, mut state) = (number, state);` at the start of the fetch. The fetch is
    /// an `async move` block. Without this statement, the compiler's messages about a parameter
    /// would call it a captured variable.
    fn rebind_in_fetch(&self) -> TokenStream {
        let is_in_option = |name: &Ident| {
            let options = self.input.cache.into_iter().chain(self.ttl_expression());
            options.into_iter().any(|option| mentions(option, name))
                || self.input.value_functions.iter().any(|value| value.mentions(name))
        };
        let (skipped, used): (Vec<_>, Vec<_>) = self.parameters().partition(|parameter| {
            self.input.skipped.contains(&parameter.ident) && !is_in_option(&parameter.ident)
        });
        let rebind = self.krate.private(Span::call_site(), "rebind");
        let statement = |parameters: &[&SignatureBinding], marker: TokenStream| {
            let names: Vec<&Ident> = parameters.iter().map(|parameter| &parameter.ident).collect();
            let mutability = parameters.iter().map(|parameter| &parameter.mutability);
            let patterns = quote!((#(#mutability #names,)*));
            (!names.is_empty()).then(|| quote!(#rebind!(#marker #patterns = (#(#names,)*));))
        };
        // The key or an option uses these parameters, so the compiler must not warn if the body
        // does not use them.
        let used = statement(&used, quote!(used));
        let skipped = statement(&skipped, quote!());
        quote!(#used #skipped)
    }

    /// Writes a `return` that never runs. The `return` tells the compiler the type of the body. If
    /// the body has another type, the compiler then underlines the wrong code in the body, and not
    /// the generated code around the body.
    fn fake_return_edge(&self) -> TokenStream {
        let return_type = self.input.return_type;
        let span = return_type.span();
        let returns = self.krate.private(span, "returns");
        quote_spanned!(span=> #returns!(#return_type);)
    }
}

/// Hashes the function's tokens with FNV-1a. A macro can generate two functions at the same place
/// in the source. The runtime tells them apart by their hashes. Two copies of one function have
/// equal hashes, so the runtime recognises them.
fn code_hash(tokens: &TokenStream) -> u32 {
    let add = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    tokens.to_string().bytes().fold(0x811c_9dc5, add)
}

/// A search for a type parameter of the function. The `bool` is true if one was found.
struct TypeParameterSearch<'g>(&'g Generics, bool);

impl<'ast> Visit<'ast> for TypeParameterSearch<'_> {
    fn visit_path(&mut self, path: &'ast Path) {
        self.1 |= self.0.type_params().any(|param| path.is_ident(&param.ident));
        syn::visit::visit_path(self, path);
    }
}

/// Returns true if the type names a type parameter of the function.
fn names_type_parameter(generics: &Generics, ty: &Type) -> bool {
    let mut search = TypeParameterSearch(generics, false);
    search.visit_type(ty);
    search.1
}

/// Returns `T` for the return type `Result<T, E>`: `T` is the type of the cached value. Any other
/// return type is returned as a whole, because it may be an alias.
fn value_type(return_type: &Type, infallible: bool) -> &Type {
    match return_type {
        Type::Group(inner) => value_type(&inner.elem, infallible),
        Type::Paren(inner) => value_type(&inner.elem, infallible),
        Type::Path(path) if !infallible => {
            let last = path.path.segments.last().filter(|last| last.ident == "Result");
            let value = last.and_then(|last| type_arguments(&last.arguments).next());
            value.unwrap_or(return_type)
        }
        _ => return_type,
    }
}

/// Returns the span of the type's name, without the path before it. If the type has no name,
/// returns the span of its first token.
fn name_span(ty: &Type) -> Span {
    match ty {
        Type::Path(path) => {
            path.path.segments.last().map_or_else(|| ty.span(), |last| last.ident.span())
        }
        _ => ty.span(),
    }
}

/// Returns true if the expression is a parameter whose type names a type parameter of the function,
/// such as `K` or `&[K]`.
pub(crate) fn has_generic_type(function: &Function, part: &Expr) -> bool {
    let Expr::Path(part) = part else { return false };
    let parameter = part.path.get_ident().and_then(|name| function.parameter(name));
    let argument =
        parameter.and_then(|parameter| function.signature.inputs.get(parameter.argument));
    let mut visitor = TypeParameterSearch(&function.signature.generics, false);
    argument.into_iter().for_each(|argument| visitor.visit_fn_arg(argument));
    visitor.1
}

/// Writes `&expression`. A tuple becomes a tuple of borrows, so that no element is moved into the
/// tuple.
fn by_ref(expression: &Expr) -> TokenStream {
    let mut and = Punct::new('&', Spacing::Alone);
    and.set_span(expression.span());
    match expression {
        Expr::Group(inner) => by_ref(&inner.expr),
        Expr::Paren(inner) if matches!(*inner.expr, Expr::Tuple(_)) => by_ref(&inner.expr),
        Expr::Tuple(tuple) => {
            let elements = tuple.elems.iter().map(by_ref);
            quote_spanned!(expression.span()=> #and (#(#elements,)*))
        }
        Expr::Binary(_) | Expr::Cast(_) | Expr::Range(_) | Expr::Closure(_) | Expr::Assign(_) => {
            quote_spanned!(expression.span()=> #and (#expression))
        }
        _ => quote!(#and #expression),
    }
}

/// Puts the tokens in braces that have the span of the body's own braces.
fn in_braces_of(body: &Group, tokens: &TokenStream) -> TokenTree {
    let mut group = Group::new(Delimiter::Brace, tokens.clone());
    group.set_span(body.span());
    TokenTree::Group(group)
}

/// A body, split into its inner attributes (`#![allow(…)]`) and its statements.
struct SplitBody {
    /// The inner attributes, converted to outer attributes. Put before the function, they have the
    /// same effect.
    attributes: TokenStream,
    statements: TokenStream,
}

impl SplitBody {
    fn split(body: &Group) -> SplitBody {
        let mut trees = body.stream().into_iter().peekable();
        let mut attributes = TokenStream::new();
        let mut statements = trees.clone();
        while is_punct(trees.next().as_ref(), '#') && is_punct(trees.next().as_ref(), '!') {
            let Some(TokenTree::Group(attribute)) = trees.next() else {
                break;
            };
            attributes.extend(quote!(# #attribute));
            statements = trees.clone();
        }
        SplitBody { attributes, statements: statements.collect() }
    }
}
