//! The rules of what is in the key: each parameter is in it or is skipped.

use proc_macro2::{Ident, Span};
use syn::visit::Visit;
use syn::{Expr, ExprPath};

use crate::args::Args;
use crate::errors::{Errors, listed, nearest};
use crate::item::{Function, Parameter};
use crate::mentions::mentions;
use crate::signature;

/// Reports what is wrong with the parameters that are in it, and with those that are not.
pub(crate) fn validate(args: &Args, function: &Function, errors: &mut Errors) {
    // Parameters that a mistake already reported is about: one mistake, one error.
    let mut reported = Vec::new();
    // Where a name is hidden, one that is not found may well be it.
    if signature::shows_all_names(function) {
        skipped(args, function, &mut reported, errors);
        version(args, function, &mut reported, errors);
        accounted(args, function, &mut reported, errors);
        written(args, function, &reported, errors);
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
pub(crate) fn identifier(args: &Args, function: &Function) -> Vec<Expr> {
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
