//! The options that are functions of the cached value: `cache_if`, `ttl_with` and `weight`.
//!
//! The closures of `cache_if` and `ttl_with` may mention parameters of the annotated function. The
//! body of the annotated function consumes the parameters before the closures are called, so the
//! closures get copies. The expansion makes the copies after the lookup, so a hit makes none.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::visit::Visit;
use syn::{Expr, ExprPath, UnOp};

use crate::args::{Args, OPTIONS};
use crate::errors::Errors;
use crate::expand::{CratePath, has_generic_type};
use crate::item::{Function, SignatureBinding};
use crate::lifetimes::{borrows_otherwise, is_shared_reference};
use crate::mentions::{may_mention, mentions};
use crate::receiver::with_receiver;
use crate::signature::find_mutable_reference;
use crate::source_text::source_text;
use crate::validate::OWNING_TYPE;

/// An option that is a function of the cached value.
pub(crate) struct ValueFunctionOption<'a> {
    /// The name of the option. The method of `cached_core` that takes the function has the same
    /// name.
    pub(crate) option: &'static str,
    pub(crate) function: &'a Expr,
    /// The parameters that the function mentions.
    mentioned: Vec<&'a SignatureBinding>,
}

/// How the parameters that an option's function mentions are copied.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum CopyKind {
    /// Clones, which live as long as the call. The clone of a reference is the reference.
    Clones,
    /// Copies that outlive the call. The value that a reference refers to is copied.
    Owned,
}

/// Returns the options that are functions of the value.
pub(crate) fn value_functions<'a>(
    args: &'a Args,
    function: &'a Function,
) -> Vec<ValueFunctionOption<'a>> {
    let options =
        [("cache_if", &args.cache_if), ("ttl_with", &args.ttl_with), ("weight", &args.weight)];
    let given = options.into_iter().filter_map(|(option, arg)| {
        let expression = &arg.as_ref()?.value;
        let parameters = function.parameters.iter();
        let mentioned = match option {
            "weight" => parameters.filter(|p| mentions(expression, &p.ident)).collect(),
            _ => parameters.filter(|p| may_mention(expression, &p.ident)).collect(),
        };
        Some(ValueFunctionOption { option, function: expression, mentioned })
    });
    given.collect()
}

/// Checks that `weight` mentions no parameter, and that `cache_if` and `ttl_with` mention only
/// parameters that can be copied.
pub(crate) fn check_value_functions(args: &Args, function: &Function, errors: &mut Errors) {
    for ValueFunctionOption { option, function: expression, mentioned } in
        value_functions(args, function)
    {
        if let Some(message) = not_a_function(option, expression, function) {
            errors.on(expression, message);
            continue;
        }
        for parameter in mentioned {
            let name = &parameter.ident;
            let Some(argument) = function.signature.inputs.get(parameter.argument) else {
                continue;
            };
            let message = if option == "weight" {
                format!(
                    "`weight` can use only the value, not `{name}`; \
                        compute the weight from the value, or add a field to the value"
                )
            } else if find_mutable_reference(argument).is_some() {
                format!(
                    "`{option}` cannot mention `{name}`, which the body holds as a `&mut`; \
                        compare in the body instead, and return an error"
                )
            } else if let Some(entry) = &args.entry
                && borrows_otherwise(argument)
            {
                let entry = &entry.value;
                format!(
                    "`{option}` mentions `{name}`, and an entry of `{entry}` outlives what `{name}` \
                        borrows; take {OWNING_TYPE}, or a reference to one"
                )
            } else {
                continue;
            };
            errors.on(mention(expression, name), message);
        }
    }
}

/// Returns the error message if the option's expression cannot be a function. For example,
/// `payment.state == state` cannot be one, but a call can return one and a path can name one.
fn not_a_function(option: &str, expression: &Expr, function: &Function) -> Option<String> {
    let is_computed = match expression {
        Expr::Paren(inner) => return not_a_function(option, &inner.expr, function),
        Expr::Binary(_) => true,
        Expr::Unary(unary) => !matches!(unary.op, UnOp::Deref(_)),
        Expr::Macro(call) if call.mac.path.is_ident("matches") => true,
        Expr::Lit(_) | Expr::Tuple(_) | Expr::Array(_) => false,
        _ => return None,
    };
    let example = match is_computed {
        true => {
            let value = unknown_name(expression, function);
            let value = value.map_or_else(|| "value".to_owned(), |name| name.to_string());
            format!("{option} = |{value}| {}", source_text(expression.to_token_stream()))
        }
        false => {
            let syntax = OPTIONS.iter().find(|syntax| syntax.name == option);
            syntax.map(|syntax| syntax.example.to_owned())?
        }
    };
    Some(format!("`{option}` is a function of the value; write a closure: `{example}`"))
}

/// Returns the first variable in the expression that is not a parameter of the function. The user
/// probably means the cached value by this name.
fn unknown_name(expression: &Expr, function: &Function) -> Option<Ident> {
    struct UnknownNameSearch<'f>(&'f Function, Option<Ident>);
    impl<'ast> Visit<'ast> for UnknownNameSearch<'_> {
        fn visit_expr_path(&mut self, path: &'ast ExprPath) {
            let name = path.path.get_ident().filter(|name| {
                let is_variable = name.to_string().starts_with(|c: char| c.is_ascii_lowercase());
                is_variable && self.0.parameter(name).is_none()
            });
            self.1 = self.1.take().or_else(|| name.cloned());
        }
    }
    let mut search = UnknownNameSearch(function, None);
    match expression {
        // The macro `matches!` begins with the expression that it matches.
        Expr::Macro(call) => {
            let first = call.mac.tokens.clone().into_iter().next();
            if let Some(TokenTree::Ident(name)) = first {
                search.1 = Some(name).filter(|name| function.parameter(name).is_none());
            }
        }
        _ => search.visit_expr(expression),
    }
    search.1
}

impl ValueFunctionOption<'_> {
    /// Returns true if the function mentions the parameter.
    pub(crate) fn mentions(&self, name: &Ident) -> bool {
        self.mentioned.iter().any(|parameter| parameter.ident == *name)
    }

    /// Writes the option's function. If the function mentions parameters, the expansion binds each
    /// parameter's name to a copy:
    /// `with_copies!((state,) = (clone_parameter(&state),), |payment| payment.state == state)`.
    pub(crate) fn tokens(
        &self,
        function: &Function,
        copies: CopyKind,
        krate: &CratePath<'_>,
    ) -> TokenStream {
        let expression = self.function;
        if self.mentioned.is_empty() {
            return expression.to_token_stream();
        }
        // No `let` can bind `self`, so its copy has another name.
        let receiver = Ident::new("this", Span::mixed_site());
        let (mut names, mut copied) = (Vec::new(), Vec::new());
        for parameter in &self.mentioned {
            let mention = mention(expression, &parameter.ident);
            let copy = krate.private(mention.span(), copy_function(function, parameter, copies));
            copied.push(quote_spanned!(mention.span()=> #copy(&#mention)));
            names.push(if mention == "self" { receiver.clone() } else { mention });
        }
        let expression_tokens = with_receiver(expression.to_token_stream(), &receiver);
        let with_copies = krate.private(expression.span(), "with_copies");
        quote!(#with_copies!((#(#names,)*) = (#(#copied,)*), #expression_tokens))
    }
}

/// Returns the first mention of the parameter in the expression, so that an error can underline it.
fn mention(expression: &Expr, name: &Ident) -> Ident {
    fn find(tokens: TokenStream, name: &Ident) -> Option<Ident> {
        tokens.into_iter().find_map(|token| match token {
            TokenTree::Ident(ident) if ident.unraw() == name.unraw() => Some(ident),
            TokenTree::Group(group) => find(group.stream(), name),
            _ => None,
        })
    }
    // If only a format string mentions the parameter, `find` finds no identifier.
    find(expression.to_token_stream(), name).unwrap_or_else(|| name.clone())
}

/// Returns the name of the function in `cached_core` that the expansion calls to copy the
/// parameter.
fn copy_function(
    function: &Function,
    parameter: &SignatureBinding,
    copies: CopyKind,
) -> &'static str {
    let path = parameter.ident.clone().into();
    let name = ExprPath { attrs: Vec::new(), qself: None, path };
    let argument = function.signature.inputs.get(parameter.argument);
    if copies == CopyKind::Owned && argument.is_some_and(is_shared_reference) {
        "own_parameter"
    } else if function.has_unnamed_type(parameter) || has_generic_type(function, &Expr::Path(name))
    {
        "clone_generic"
    } else {
        "clone_parameter"
    }
}
