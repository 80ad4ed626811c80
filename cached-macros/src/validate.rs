//! The rules. What passes them all is a [`Cached`] function, which alone can be expanded.

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::visit::Visit;
use syn::{Expr, ExprPath, FnArg, LitStr, Type};

use crate::args::{Args, Given};
use crate::errors::{Errors, listed, nearest};
use crate::item::{Function, Parameter};
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
    let returned = signature::validate(function, errors);
    let name = name(args, function, errors);
    let reason = reason(args, errors);
    let ttl = ttl(args, errors);
    let lifetimes = lifetimes(args, &ttl, errors);
    let tiers = tiers(args, errors);
    entry(args, function, errors);
    overwriting(args, errors);
    refreshing(args, function, errors);
    waiting(args, errors);

    // Parameters that a mistake already reported is about: one mistake, one error.
    let mut reported = Vec::new();
    // Where a name is hidden, one that is not found may well be it.
    if signature::shows_all_names(function) {
        skipped(args, function, &mut reported, errors);
        version(args, function, &mut reported, errors);
        accounted(args, function, &mut reported, errors);
        written(args, function, &reported, errors);
    }
    of_the_value_alone(args, function, errors);

    let (returned, name) = (returned?, name?);
    errors.is_empty().then(|| Cached {
        function,
        body,
        returned,
        name,
        reason,
        identifier: identifier(args, function),
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

/// What to take in place of a borrow of this type.
fn owned(borrowed: &Type) -> String {
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
    let given = [("cache_if", &args.cache_if), ("ttl_with", &args.ttl_with)];
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
    if let (Some(local_ttl), [false, true]) = (&args.local_ttl, tiers) {
        let message = "without the local tier there is nothing that `local_ttl` bounds; \
            remove it, or `local = false`";
        errors.on(&local_ttl.key, message);
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
    for option in options.into_iter().chain([&args.cache_if, &args.ttl_with]).flatten() {
        if let Some(found) = find_await(option.value.to_token_stream()) {
            let message =
                format!("`{}` cannot await; pass what it needs as a parameter", option.key);
            errors.at(found.span(), message);
        }
    }
}

fn skipped(args: &Args, function: &Function, reported: &mut Vec<Ident>, errors: &mut Errors) {
    let Some(skip) = &args.skip else { return };
    for (place, name) in skip.value.iter().enumerate() {
        let Some(parameter) = function.parameter(name) else {
            errors.on(name, no_parameter(name, function, reported));
            continue;
        };
        let in_key = [&args.identifier, &args.version]
            .into_iter()
            .flatten()
            .find(|option| mentions(&option.value, &parameter.ident));
        if skip.value[..place].contains(name) {
            errors.on(name, format!("`{name}` is skipped twice; remove one"));
        } else if let Some(option) = in_key {
            let message = format!(
                "`{name}` is skipped, but `{}` puts it in the key; remove it from one",
                option.key
            );
            errors.on(name, message);
        }
    }
}

fn version(args: &Args, function: &Function, reported: &mut Vec<Ident>, errors: &mut Errors) {
    let Some(version) = &args.version else { return };
    let version = &version.value;
    if function.parameters.iter().any(|parameter| mentions(version, &parameter.ident)) {
        return;
    }
    if let Some(name) = lone_name(version) {
        let message = no_parameter(name, function, reported);
        let is_constant = name.to_string().starts_with(|first: char| first.is_ascii_uppercase());
        if !is_constant {
            errors.on(name, message);
            return;
        }
    } else if let Some((name, meant)) = misspelt(version, function, &[]) {
        errors.on(&name, format!("no parameter `{name}`; did you mean `{}`?", meant.ident));
        reported.push(meant.ident.clone());
        return;
    }
    errors.on(
        version,
        "a constant version never changes, so it would not prevent overwriting; \
            mention a parameter, or write `overwrite(reason = \"…\")`",
    );
}

/// Every parameter is in the key or skipped: none is left out without anyone having said so.
fn accounted(args: &Args, function: &Function, reported: &mut Vec<Ident>, errors: &mut Errors) {
    let is_accounted = |parameter: &Parameter| {
        let name = &parameter.ident;
        let in_key = match &args.identifier {
            Some(identifier) => mentions(&identifier.value, name),
            None => name != "self",
        };
        in_key
            || args.version.as_ref().is_some_and(|version| mentions(&version.value, name))
            || args.skip.as_ref().is_some_and(|skip| skip.value.contains(name))
            || may_account_for_more(args)
    };
    let left_out: Vec<&Parameter> =
        function.parameters.iter().filter(|parameter| !is_accounted(parameter)).collect();

    if let Some(identifier) = &args.identifier
        && let Some((name, meant)) = misspelt(&identifier.value, function, &left_out)
    {
        errors.on(&name, format!("no parameter `{name}`; did you mean `{}`?", meant.ident));
        reported.push(meant.ident.clone());
    }
    for Parameter { ident, .. } in left_out {
        if reported.contains(ident) {
            continue;
        }
        let skip = to_skip(ident, args);
        let message = if ident == "self" {
            format!(
                "`self` is in neither the key nor `skip`; \
                    put what matters of it in `identifier`, or {skip}"
            )
        } else {
            format!(
                "parameter `{ident}` is in neither the key nor `skip`; \
                    add it to `identifier`, or {skip}"
            )
        };
        errors.on(ident, message);
    }
}

/// Whether an option was not understood that says which parameters are in the key.
fn may_account_for_more(args: &Args) -> bool {
    (args.identifier.is_none() && args.tried("identifier"))
        || (args.skip.is_none() && args.tried("skip"))
}

fn to_skip(parameter: &Ident, args: &Args) -> String {
    match &args.skip {
        Some(_) => format!("add it to `skip({parameter})`"),
        None => format!("write `skip({parameter})`"),
    }
}

/// A hit does not run the body, so nothing is written to a `&mut`. One of which something else is
/// made for the key (`out.len()`) is left to who wrote that.
fn written(args: &Args, function: &Function, reported: &[Ident], errors: &mut Errors) {
    if may_account_for_more(args) {
        return;
    }
    let identifier = identifier(args, function);
    let key = identifier.iter().chain(args.version.as_ref().map(|version| &version.value));
    let in_key: Vec<&Ident> = key.flat_map(whole_names).collect();
    for Parameter { ident, argument, .. } in &function.parameters {
        let argument = function.signature.inputs.get(*argument);
        if let Some(reference) = argument.and_then(signature::mutable_reference)
            && in_key.contains(&ident)
            && !reported.contains(ident)
        {
            let message = format!(
                "`{ident}` is a `&mut` in the key, but a hit does not run the body and writes \
                    nothing to it; return what is written, or, where only the fetch uses it, {}",
                to_skip(ident, args)
            );
            errors.on(reference, message);
        }
    }
}

/// What is in the key besides the version: each element of a tuple is a part of its own.
fn identifier(args: &Args, function: &Function) -> Vec<Expr> {
    if let Some(identifier) = &args.identifier {
        return match stripped(&identifier.value) {
            Expr::Tuple(tuple) => tuple.elems.iter().cloned().collect(),
            other => vec![other.clone()],
        };
    }
    let versions =
        args.version.as_ref().map(|version| whole_names(&version.value)).unwrap_or_default();
    let skip = args.skip.as_ref().map(|skip| skip.value.as_slice()).unwrap_or_default();
    let parameters = function.parameters.iter().map(|parameter| &parameter.ident);
    parameters
        .filter(|name| *name != "self" && !skip.contains(name) && !versions.contains(name))
        .map(|name| {
            Expr::Path(ExprPath { attrs: Vec::new(), qself: None, path: name.clone().into() })
        })
        .collect()
}

/// The parameters that are the version as they stand: in it, nothing of them is lost.
fn whole_names(version: &Expr) -> Vec<&Ident> {
    match stripped(version) {
        Expr::Tuple(tuple) => tuple.elems.iter().flat_map(whole_names).collect(),
        other => lone_name(other).into_iter().collect(),
    }
}

/// The expression without parentheses and borrows around it.
fn stripped(mut expression: &Expr) -> &Expr {
    loop {
        expression = match expression {
            Expr::Paren(inner) => &inner.expr,
            Expr::Group(inner) => &inner.expr,
            Expr::Reference(inner) => &inner.expr,
            other => return other,
        }
    }
}

fn lone_name(expression: &Expr) -> Option<&Ident> {
    match stripped(expression) {
        Expr::Path(ExprPath { qself: None, path, .. }) => path.get_ident(),
        _ => None,
    }
}

fn no_parameter(name: &Ident, function: &Function, reported: &mut Vec<Ident>) -> String {
    let names = function.names();
    if names.is_empty() {
        return format!("no parameter `{name}`: the function has none");
    }
    match nearest(&name.to_string(), names.iter().map(String::as_str)) {
        Some(meant) => {
            reported.push(Ident::new(meant, Span::call_site()));
            format!("no parameter `{name}`; did you mean `{meant}`?")
        }
        None if names.len() == 1 => {
            format!("no parameter `{name}`; the only one is `{}`", names[0])
        }
        None => {
            let names = listed(names.iter().map(String::as_str));
            format!("no parameter `{name}`; the parameters are {names}")
        }
    }
}

/// A name in the expression that is no parameter, and the one that was probably meant; among
/// `candidates` only, where there are some.
fn misspelt<'a>(
    expression: &Expr,
    function: &'a Function,
    candidates: &[&'a Parameter],
) -> Option<(Ident, &'a Parameter)> {
    #[derive(Default)]
    struct Names(Vec<Ident>);
    impl<'ast> Visit<'ast> for Names {
        fn visit_expr_path(&mut self, path: &'ast ExprPath) {
            self.0.extend(path.path.get_ident().cloned());
        }
    }
    let mut names = Names::default();
    names.visit_expr(expression);
    names.0.into_iter().filter(|name| function.parameter(name).is_none()).find_map(|name| {
        let all: Vec<&Parameter> = function.parameters.iter().collect();
        let candidates = if candidates.is_empty() { &all } else { candidates };
        let spelt: Vec<String> =
            candidates.iter().map(|parameter| parameter.ident.to_string()).collect();
        let meant = nearest(&name.to_string(), spelt.iter().map(String::as_str))?;
        let meant = candidates.iter().find(|parameter| parameter.ident == meant)?;
        Some((name, *meant))
    })
}
