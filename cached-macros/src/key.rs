//! Checks the rules about the key, above all that each parameter is in the key or in `skip`.
//!
//! The key of a call is made from the values of two expressions, which are the options `identifier`
//! and `version`. Without the option `identifier`, the key has the parameters instead.

use proc_macro2::{Ident, Span};
use quote::ToTokens;
use syn::visit::Visit;
use syn::{Expr, ExprCall, ExprPath, FnArg, Pat};

use crate::args::Args;
use crate::errors::{Errors, nearest, prose_list};
use crate::item::{Function, SignatureBinding};
use crate::mentions::mentions;
use crate::signature::{find_mutable_reference, shows_all_names};
use crate::unordered::{collected_in_order, find_unordered, unordered_elements};

/// Checks `version`, `identifier` and `skip` against the function's parameters.
pub(crate) fn check_key(args: &Args, function: &Function, errors: &mut Errors) {
    // If a pattern hides names, the list of parameters is incomplete. The pattern already has an
    // error, and a further error about a missing parameter could be false.
    if !shows_all_names(function) {
        return;
    }
    // The parameters that already have an error. No second error is reported about them.
    let mut reported = Vec::new();
    check_skip(args, function, &mut reported, errors);
    check_version(args, function, &mut reported, errors);
    check_completeness(args, function, &mut reported, errors);
    check_mutable_references(args, function, &reported, errors);
    check_unordered(args, function, &reported, errors);
    check_collected(args, function, errors);
}

/// Checks that each name in `skip` is a parameter, is listed once and is not in the key.
fn check_skip(args: &Args, function: &Function, reported: &mut Vec<Ident>, errors: &mut Errors) {
    let Some(skip) = &args.skip else { return };
    for (index, name) in skip.value.iter().enumerate() {
        let Some(parameter) = function.parameter(name) else {
            errors.on(name, unknown_parameter(name, function, reported));
            continue;
        };
        let option_in_key = [&args.identifier, &args.version]
            .into_iter()
            .flatten()
            .find(|option| mentions(&option.value, &parameter.ident));
        if skip.value[..index].contains(name) {
            errors.on(name, format!("`{name}` is in `skip` twice; remove one"));
        } else if let Some(option) = option_in_key {
            let message = format!(
                "`{name}` is in `skip` and also in the key, by `{}`; remove it from one of them",
                option.key
            );
            errors.on(name, message);
        }
    }
}

/// Checks that the version mentions a parameter.
fn check_version(args: &Args, function: &Function, reported: &mut Vec<Ident>, errors: &mut Errors) {
    let Some(version) = &args.version else { return };
    let version = &version.value;
    let all: Vec<&SignatureBinding> = function.parameters.iter().collect();
    if function.parameters.iter().any(|parameter| mentions(version, &parameter.ident)) {
        return;
    }
    if let Some(name) = as_lone_name(version) {
        let message = unknown_parameter(name, function, reported);
        let is_constant = name.to_string().starts_with(|first: char| first.is_ascii_uppercase());
        if !is_constant {
            errors.on(name, message);
            return;
        }
    } else if let Some((name, meant)) = misspelt_parameter(version, function, &all) {
        errors.on(&name, format!("unknown parameter `{name}`; did you mean `{}`?", meant.ident));
        reported.push(meant.ident.clone());
        return;
    }
    errors.on(
        version,
        "the version is a constant, so it does not prevent overwriting; \
            mention a parameter, or write `overwrite(reason = \"…\")`",
    );
}

/// Checks that each parameter is in the identifier, in the version or in `skip`.
fn check_completeness(
    args: &Args,
    function: &Function,
    reported: &mut Vec<Ident>,
    errors: &mut Errors,
) {
    let is_used = |parameter: &SignatureBinding| {
        let name = &parameter.ident;
        let in_identifier = match &args.identifier {
            Some(identifier) => mentions(&identifier.value, name),
            None => name != "self",
        };
        in_identifier
            || args.version.as_ref().is_some_and(|version| mentions(&version.value, name))
            || args.skip.as_ref().is_some_and(|skip| skip.value.contains(name))
            || is_key_unknown(args)
    };
    let unused: Vec<&SignatureBinding> =
        function.parameters.iter().filter(|parameter| !is_used(parameter)).collect();

    if let Some(identifier) = &args.identifier
        && let Some((name, meant)) = misspelt_parameter(&identifier.value, function, &unused)
    {
        errors.on(&name, format!("unknown parameter `{name}`; did you mean `{}`?", meant.ident));
        reported.push(meant.ident.clone());
    }
    for SignatureBinding { ident, argument, .. } in unused {
        if reported.contains(ident) {
            continue;
        }
        let skip = how_to_skip(ident, args);
        let argument = function.signature.inputs.get(*argument);
        let message = if ident != "self" && argument.is_some_and(has_mutable_reference) {
            mutable_reference_message(ident, args)
        } else if ident == "self" {
            let fields = match &args.identifier {
                Some(_) => {
                    "add the fields that the answer depends on to `identifier`, for example \
                    `self.base_url`"
                        .to_owned()
                }
                None => format!(
                    "name the fields that the answer depends on, for example `identifier = {}`",
                    example_identifier(args, function)
                ),
            };
            format!(
                "`self` is neither in the key nor in `skip`; {fields}, or {skip}, which claims that \
                    every instance gives the same answer"
            )
        } else {
            format!(
                "parameter `{ident}` is neither in the key nor in `skip`; \
                    add it to `identifier`, or {skip}, which claims that it does not change the answer"
            )
        };
        errors.on(ident, message);
    }
}

/// Returns true if `identifier` or `skip` could not be parsed. The parameters that the user meant
/// to list are then unknown.
fn is_key_unknown(args: &Args) -> bool {
    (args.identifier.is_none() && args.was_attempted("identifier"))
        || (args.skip.is_none() && args.was_attempted("skip"))
}

/// Returns an example of an `identifier` for an error message. The example has a field of `self`,
/// and the parameters that the key has if the option `identifier` is not given.
fn example_identifier(args: &Args, function: &Function) -> String {
    let parts = identifier_parts(args, function);
    let parts = parts.iter().map(|part| part.to_token_stream().to_string());
    let parts: Vec<String> = std::iter::once("self.base_url".to_owned()).chain(parts).collect();
    match &parts[..] {
        [field] => field.clone(),
        parts => format!("({})", parts.join(", ")),
    }
}

/// Returns what an error message suggests: how to add the parameter to `skip`.
fn how_to_skip(parameter: &Ident, args: &Args) -> String {
    match &args.skip {
        Some(_) => format!("add `{parameter}` to `skip`"),
        None => format!("write `skip({parameter})`"),
    }
}

/// Checks that no `&mut` parameter is in the key as a whole. On a hit the body does not run, so
/// nothing would be written through the reference.
///
/// An expression that only uses the parameter, such as `out.len()`, is allowed in the key.
fn check_mutable_references(
    args: &Args,
    function: &Function,
    reported: &[Ident],
    errors: &mut Errors,
) {
    if is_key_unknown(args) {
        return;
    }
    let in_key = parameters_in_key(args, function);
    for SignatureBinding { ident, argument, .. } in &function.parameters {
        let argument = function.signature.inputs.get(*argument);
        if let Some(reference) = argument.and_then(find_mutable_reference)
            && in_key.contains(ident)
            && !reported.contains(ident)
        {
            errors.on(reference, mutable_reference_message(ident, args));
        }
    }
}

fn has_mutable_reference(argument: &FnArg) -> bool {
    find_mutable_reference(argument).is_some()
}

/// Returns the error message about a `&mut` parameter that is not skipped.
fn mutable_reference_message(parameter: &Ident, args: &Args) -> String {
    let skip = how_to_skip(parameter, args);
    let instead = if parameter == "self" {
        format!("put the fields that the result depends on into `identifier`, or {skip}")
    } else {
        format!("if only the fetch uses it, such as a connection, {skip}")
    };
    format!(
        "`{parameter}` is a `&mut`, which cannot be in the key: a hit does not run the body that \
            writes to it; {instead}; if the caller reads what the body wrote, return that instead"
    )
}

/// Checks that no parameter in the key has a type that names a collection without a stable order,
/// such as a `HashSet`. Equal collections could give different keys, so the calls would not hit.
///
/// An expression that only uses the parameter, such as a sorted copy, is allowed in the key.
fn check_unordered(args: &Args, function: &Function, reported: &[Ident], errors: &mut Errors) {
    if is_key_unknown(args) {
        return;
    }
    let in_key = parameters_in_key(args, function);
    for SignatureBinding { ident, argument, .. } in &function.parameters {
        // In a pattern, the name might stand for a part of the argument that is not the collection.
        // Only a parameter with a plain name is checked.
        let Some(FnArg::Typed(argument)) = function.signature.inputs.get(*argument) else {
            continue;
        };
        let Some(collection) = find_unordered(&argument.ty) else { continue };
        if !matches!(*argument.pat, Pat::Ident(_))
            || !in_key.contains(ident)
            || reported.contains(ident)
        {
            continue;
        }
        let name = collection.name();
        // A `BinaryHeap` can have equal elements, and a set would keep only one of them.
        let sorted = match collection.is_whole && name != "BinaryHeap" {
            true => format!("put `{ident}.iter().collect::<BTreeSet<_>>()` into `identifier`"),
            false => format!("put a sorted copy of `{ident}` into `identifier`"),
        };
        let message = format!(
            "`{ident}` is in the key, and a `{name}` has no stable order, so equal ones would miss; \
                take a `BTreeSet`, or {sorted}"
        );
        errors.on(collection.ty, message);
    }
}

/// Checks that no part of the key collects the elements of a `HashSet` or a `HashMap` into a
/// sequence. The sequence would have the unstable order of the collection.
fn check_collected(args: &Args, function: &Function, errors: &mut Errors) {
    let options = [&args.identifier, &args.version].into_iter().flatten();
    let parts = options.flat_map(|option| {
        tuple_elements(&option.value).into_iter().map(move |part| (option, part))
    });
    for (option, part) in parts {
        let Some(collected) = collected_in_order(part) else { continue };
        let Some(parameter) = function.parameter(collected.variable) else { continue };
        // In a pattern, the name might stand for a part of the argument that is not the collection.
        // Only a parameter with a plain name is checked.
        let Some(FnArg::Typed(argument)) = function.signature.inputs.get(parameter.argument) else {
            continue;
        };
        if matches!(*argument.pat, Pat::Ident(_))
            && let Some(collection) = unordered_elements(&argument.ty)
        {
            // If the sequence can have equal elements, a set would change the key: `[1, 1]` and
            // `[1]` would have the same key.
            let is_set = collected.is_distinct && collection != "BinaryHeap";
            let sorted = match is_set {
                true => "collect them into a `BTreeSet<_>`".to_owned(),
                false => format!("put a sorted copy into `{}`", option.key),
            };
            let message = format!(
                "the elements of a `{collection}` have no stable order, so equal ones would miss; {sorted}"
            );
            errors.on(part, message);
        }
    }
}

/// Returns the elements of a tuple and of the tuples in it. Returns the expression itself if it is
/// not a tuple.
fn tuple_elements(expression: &Expr) -> Vec<&Expr> {
    match without_wrappers(expression) {
        Expr::Tuple(tuple) => tuple.elems.iter().flat_map(tuple_elements).collect(),
        other => vec![other],
    }
}

/// Returns the parameters that are in the key as a whole.
fn parameters_in_key(args: &Args, function: &Function) -> Vec<Ident> {
    let identifier = identifier_parts(args, function);
    let key = identifier.iter().chain(args.version.as_ref().map(|version| &version.value));
    key.flat_map(lone_names).cloned().collect()
}

/// Returns the parts of the option `identifier`: the elements if it is a tuple, or else the whole
/// expression.
///
/// Without the option, the parts are all parameters except these:
///
/// - `self`
/// - the parameters in `skip`
/// - the parameters that stand alone in `version` (see [`lone_names`])
pub(crate) fn identifier_parts(args: &Args, function: &Function) -> Vec<Expr> {
    if let Some(identifier) = &args.identifier {
        return match without_wrappers(&identifier.value) {
            Expr::Tuple(tuple) => tuple.elems.iter().cloned().collect(),
            other => vec![other.clone()],
        };
    }
    let versions =
        args.version.as_ref().map(|version| lone_names(&version.value)).unwrap_or_default();
    let skip = args.skip.as_ref().map(|skip| skip.value.as_slice()).unwrap_or_default();
    let parameters = function.parameters.iter().map(|parameter| &parameter.ident);
    parameters
        .filter(|name| *name != "self" && !skip.contains(name) && !versions.contains(name))
        .map(|name| {
            Expr::Path(ExprPath { attrs: Vec::new(), qself: None, path: name.clone().into() })
        })
        .collect()
}

/// Returns each name that stands alone, as the whole expression or as an element of its tuple. In
/// `(a, b.c)` the name `a` stands alone, but `b` does not: only a part of `b` is in the expression.
fn lone_names(expression: &Expr) -> Vec<&Ident> {
    match without_wrappers(expression) {
        Expr::Tuple(tuple) => tuple.elems.iter().flat_map(lone_names).collect(),
        other => as_lone_name(other).into_iter().collect(),
    }
}

/// Removes parentheses, invisible groups and borrows around an expression.
fn without_wrappers(mut expression: &Expr) -> &Expr {
    loop {
        expression = match expression {
            Expr::Paren(inner) => &inner.expr,
            Expr::Group(inner) => &inner.expr,
            Expr::Reference(inner) => &inner.expr,
            other => return other,
        }
    }
}

/// Returns the name if the expression is nothing but a name.
fn as_lone_name(expression: &Expr) -> Option<&Ident> {
    match without_wrappers(expression) {
        Expr::Path(ExprPath { qself: None, path, .. }) => path.get_ident(),
        _ => None,
    }
}

/// Returns the error message for a name that is not a parameter. If the name resembles a parameter,
/// that parameter is added to `reported`.
fn unknown_parameter(name: &Ident, function: &Function, reported: &mut Vec<Ident>) -> String {
    let names = function.parameter_names();
    if names.is_empty() {
        return format!("unknown parameter `{name}`; the function has no parameters");
    }
    match nearest(&name.to_string(), names.iter().map(String::as_str)) {
        Some(meant) => {
            reported.push(Ident::new(meant, Span::call_site()));
            format!("unknown parameter `{name}`; did you mean `{meant}`?")
        }
        None if names.len() == 1 => {
            format!("unknown parameter `{name}`; the only parameter is `{}`", names[0])
        }
        None => {
            let names = prose_list(names.iter().map(String::as_str));
            format!("unknown parameter `{name}`; the parameters are {names}")
        }
    }
}

/// Finds a name in the expression that resembles one of the candidates. Returns the name and the
/// candidate. Names that are parameters, and names of called functions, are not considered.
fn misspelt_parameter<'a>(
    expression: &Expr,
    function: &Function,
    candidates: &[&'a SignatureBinding],
) -> Option<(Ident, &'a SignatureBinding)> {
    /// The names in an expression that are paths of one segment, such as variables.
    #[derive(Default)]
    struct PathNames(Vec<Ident>);
    impl<'ast> Visit<'ast> for PathNames {
        fn visit_expr_path(&mut self, path: &'ast ExprPath) {
            self.0.extend(path.path.get_ident().cloned());
        }
        fn visit_expr_call(&mut self, call: &'ast ExprCall) {
            if as_lone_name(&call.func).is_none() {
                self.visit_expr(&call.func);
            }
            call.args.iter().for_each(|argument| self.visit_expr(argument));
        }
    }
    let spellings: Vec<String> =
        candidates.iter().map(|parameter| parameter.ident.to_string()).collect();
    let mut names = PathNames::default();
    names.visit_expr(expression);
    names.0.into_iter().filter(|name| function.parameter(name).is_none()).find_map(|name| {
        let meant = nearest(&name.to_string(), spellings.iter().map(String::as_str))?;
        let meant = candidates.iter().find(|parameter| parameter.ident == meant)?;
        Some((name, *meant))
    })
}

#[cfg(test)]
mod tests {
    use proc_macro2::TokenStream;
    use quote::quote;

    /// Expands a function with the parameters `client`, `number` and `hash`.
    fn expand(options: TokenStream) -> String {
        let function = quote! {
            async fn payment(client: Client, number: u32, hash: u64) -> Result<Payment, Error> {
                client.get(number, hash).await
            }
        };
        crate::expand(quote!(name = "payment", #options), function).to_string()
    }

    #[test]
    fn names_that_resemble_keyed_parameters_are_accepted() {
        for options in [
            quote!(version = hash, skip(client), identifier = number_key(number)),
            quote!(version = hash, skip(client), identifier = numbers(number)),
            quote!(version = hash(hasher), skip(client), identifier = number),
            quote!(version = hash, skip(client), identifier = (number, numbers)),
            quote!(version = hashed(hash), skip(client), identifier = hash_all(number)),
        ] {
            let expansion = expand(options.clone());
            assert!(!expansion.contains("compile_error"), "{options}: {expansion}");
        }
    }

    #[test]
    fn called_functions_are_not_misspelt_parameters() {
        for (options, expected) in [
            (
                quote!(version = hash, skip(client), identifier = number_key(1)),
                "parameter `number` is neither in the key nor in `skip`",
            ),
            (
                quote!(version = hash, skip(client), identifier = (number_key)(numbr)),
                "unknown parameter `numbr`; did you mean `number`?",
            ),
            (quote!(version = hash_of(1), skip(client)), "the version is a constant"),
            (
                quote!(version = f(hashh), skip(client)),
                "unknown parameter `hashh`; did you mean `hash`?",
            ),
        ] {
            let expansion = expand(options.clone());
            assert!(expansion.contains(expected), "{options}: {expansion}");
            assert_eq!(expansion.matches("compile_error").count(), 1, "{options}: {expansion}");
        }
    }
}
