//! The rules. What passes them all is a [`Cached`] function, which alone can be expanded.

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Expr, FnArg, LitStr, Type};

use crate::args::{Args, Given};
use crate::errors::Errors;
use crate::item::{Function, Parameter};
use crate::key;
use crate::lifetimes::borrows;
use crate::mentions::mentions;
use crate::ttl::{Ttl, lifetimes, ttl};
use crate::{literal, signature};

/// An annotated function that keeps every rule.
pub(crate) struct Cached<'a> {
    pub(crate) function: &'a Function,
    pub(crate) body: &'a Group,
    pub(crate) returned: &'a Type,
    pub(crate) name: &'a LitStr,
    pub(crate) reason: Option<&'a LitStr>,
    /// Each expression is one part of the key.
    pub(crate) identifier: Vec<Expr>,
    pub(crate) version: Option<&'a Expr>,
    pub(crate) skipped: &'a [Ident],
    pub(crate) ttl: Ttl<'a>,
    /// Further lifetimes: the declaration's method that sets one, and its milliseconds.
    pub(crate) lifetimes: Vec<(&'static str, u64)>,
    /// What is asked of each value: the runtime's method that takes it, and the function.
    pub(crate) rules: Vec<(&'static str, &'a Expr)>,
    /// The fetch may outlive the call, to refresh the entry.
    pub(crate) refreshed: bool,
    /// Whether the local and the remote tier are used.
    pub(crate) tiers: [bool; 2],
    pub(crate) cache: Option<&'a Expr>,
    /// The returned value is cached whole, whatever its type.
    pub(crate) whole: bool,
}

pub(crate) fn validate<'a>(
    args: &'a Args,
    function: &'a Function,
    errors: &mut Errors,
) -> Option<Cached<'a>> {
    // Where there is no body, nothing else that is wrong matters.
    let body = signature::body(function, errors)?;
    let returned = signature::validate(function, args.infallible.is_some(), errors);
    let name = name(args, function, errors);
    let reason = reason(args, errors);
    let ttl = ttl(args, errors);
    let lifetimes = lifetimes(args, &ttl, errors);
    let tiers = tiers(args, errors);
    entry(args, function, errors);
    overwriting(args, errors);
    refreshing(args, function, errors);
    waiting(args, errors);

    key::validate(args, function, errors);
    of_the_value_alone(args, function, errors);

    let (returned, name) = (returned?, name?);
    errors.is_empty().then(|| Cached {
        function,
        body,
        returned,
        name,
        reason,
        identifier: key::identifier(args, function),
        version: args.version.as_ref().map(|version| &version.value),
        skipped: args.skip.as_ref().map(|skip| skip.value.as_slice()).unwrap_or_default(),
        ttl,
        lifetimes,
        rules: rules(args),
        refreshed: args.refresh_ahead.is_some(),
        tiers,
        cache: args.cache.as_ref().map(|cache| &cache.value),
        whole: args.infallible.is_some(),
    })
}

fn name<'a>(args: &'a Args, function: &Function, errors: &mut Errors) -> Option<&'a LitStr> {
    let Some(name) = &args.name else {
        if !args.tried("name") {
            let own = function.signature.ident.to_string();
            let example = if literal::check_name(&own).is_ok() { &own } else { "payment" };
            errors.at(
                Span::call_site(),
                format!("option `name` is missing; write `name = \"{example}\"`"),
            );
        }
        return None;
    };
    if let Err(message) = literal::check_name(&name.value.value()) {
        errors.on(&name.value, message);
    }
    Some(&name.value)
}

fn reason<'a>(args: &'a Args, errors: &mut Errors) -> Option<&'a LitStr> {
    let reason = &args.overwrite.as_ref()?.value;
    if let Err(message) = literal::check_reason(&reason.value()) {
        errors.on(reason, message);
    }
    Some(reason)
}

/// A refresh replaces an entry, and runs when the call is over.
fn refreshing(args: &Args, function: &Function, errors: &mut Errors) {
    let Some(refresh_ahead) = &args.refresh_ahead else { return };
    if !args.tried("overwrite") {
        let message = "`refresh_ahead` replaces an entry, which needs a reason; \
            add `overwrite(reason = \"…\")`";
        errors.on(&refresh_ahead.key, message);
    }
    for argument in &function.signature.inputs {
        let (borrowed, name, owned) = match argument {
            FnArg::Typed(argument) if borrows(&argument.ty) => {
                let owned = match &*argument.ty {
                    Type::Reference(reference) => owned(&reference.elem),
                    _ => "a type that owns its data".to_owned(),
                };
                (argument.ty.to_token_stream(), bare(&argument.pat), owned)
            }
            FnArg::Receiver(receiver) if borrows(receiver) => {
                (receiver.to_token_stream(), "self".to_owned(), "`self: Arc<Self>`".to_owned())
            }
            _ => continue,
        };
        let message = format!(
            "`refresh_ahead` fetches when the call is over, so it must own `{name}`; take {owned}"
        );
        errors.on(borrowed, message);
    }
}

/// Names the type to take or to return in place of a borrow of this type.
pub(crate) fn owned(borrowed: &Type) -> String {
    match bare(borrowed).as_str() {
        "str" => "a `String`".to_owned(),
        other => match other.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(element) => format!("a `Vec<{element}>`"),
            None => format!("a `{other}`, or an `Arc` of it"),
        },
    }
}

fn bare(tokens: &impl ToTokens) -> String {
    tokens.to_token_stream().to_string().replace(" ", "").replace(",", ", ")
}

fn rules(args: &Args) -> Vec<(&'static str, &Expr)> {
    let given =
        [("cache_if", &args.cache_if), ("ttl_with", &args.ttl_with), ("weight", &args.weight)];
    given.into_iter().filter_map(|(rule, given)| Some((rule, &given.as_ref()?.value))).collect()
}

/// A rule is asked wherever a value comes from, where there are no parameters.
fn of_the_value_alone(args: &Args, function: &Function, errors: &mut Errors) {
    for (rule, expression) in rules(args) {
        let mentioned = function.parameters.iter().find(|p| mentions(expression, &p.ident));
        if let Some(Parameter { ident: name, .. }) = mentioned {
            let message = format!(
                "`{rule}` sees the value alone, not `{name}`; \
                    compare with a constant, or put what it needs into the value"
            );
            errors.on(expression, message);
        }
    }
}

fn tiers(args: &Args, errors: &mut Errors) -> [bool; 2] {
    let uses = |given: &Option<Given<bool>>| given.as_ref().is_none_or(|given| given.value);
    let tiers = [uses(&args.local), uses(&args.remote)];
    if let (Some(remote), [false, false]) = (&args.remote, tiers) {
        let message = "without the local and the remote tier nothing is cached; \
            leave one of them, or remove the attribute";
        errors.on(&remote.key, message);
    }
    let keys = [
        args.local_ttl.as_ref().map(|given| &given.key),
        args.weight.as_ref().map(|given| &given.key),
    ];
    for key in keys.into_iter().flatten().filter(|_| tiers == [false, true]) {
        let message = format!(
            "without the local tier there is nothing that `{key}` bounds; \
                remove it, or `local = false`"
        );
        errors.on(key, message);
    }
    tiers
}

fn entry(args: &Args, function: &Function, errors: &mut Errors) {
    if let Some(entry) = args.entry.as_ref().filter(|entry| entry.value == function.signature.ident)
    {
        let message = format!(
            "`{0}` is the function itself; give the entry another name, such as `{0}_entry`",
            entry.value
        );
        errors.on(&entry.value, message);
    }
}

/// Either the key has a version or a reason to overwrite is declared.
fn overwriting(args: &Args, errors: &mut Errors) {
    if !args.tried("version") && !args.tried("overwrite") {
        errors.at(
            Span::call_site(),
            "neither `version` nor `overwrite` is declared; \
                write `version = …` with the parameter that changes when the answer does, or `overwrite(reason = \"…\")`",
        );
    }
}

/// The key is computed before anything is awaited, and an entry without awaiting at all.
fn waiting(args: &Args, errors: &mut Errors) {
    fn find_await(tokens: TokenStream) -> Option<Ident> {
        tokens.into_iter().find_map(|token| match token {
            TokenTree::Ident(ident) if ident == "await" => Some(ident),
            TokenTree::Group(group) => find_await(group.stream()),
            _ => None,
        })
    }
    let options = [&args.identifier, &args.version, &args.cache, &args.ttl];
    for option in
        options.into_iter().chain([&args.cache_if, &args.ttl_with, &args.weight]).flatten()
    {
        if let Some(found) = find_await(option.value.to_token_stream()) {
            let message =
                format!("`{}` cannot await; pass what it needs as a parameter", option.key);
            errors.at(found.span(), message);
        }
    }
}
