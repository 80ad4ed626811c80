//! Checks the rules of the attribute. Only a [`ValidatedFunction`], which satisfies every rule, is
//! expanded.

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Expr, FnArg, LitStr, Type};

use crate::args::{Arg, Args};
use crate::errors::{Errors, prose_list};
use crate::failures::{ErrorSharing, check_failures};
use crate::item::Function;
use crate::key::{check_key, identifier_parts};
use crate::lifetimes::{borrows, borrows_otherwise, is_borrowed, is_shared_reference};
use crate::literal::{check_name, check_reason};
use crate::signature::{check_body, check_signature};
use crate::trait_impl::find_trait;
use crate::ttl::{DurationOption, Ttl, check_durations, check_ttl};
use crate::value_function::{ValueFunctionOption, check_value_functions, value_functions};

/// An annotated function that satisfies every rule, and what its options say.
pub(crate) struct ValidatedFunction<'a> {
    pub(crate) function: &'a Function,
    pub(crate) body: &'a Group,
    pub(crate) return_type: &'a Type,
    /// The cache name, from the option `name`.
    pub(crate) name: &'a LitStr,
    /// The text in `overwrite(reason = "…")`, an option that allows entries to be replaced.
    pub(crate) overwrite_reason: Option<&'a LitStr>,
    /// The expressions that make the key, except the version.
    pub(crate) identifier_parts: Vec<Expr>,
    pub(crate) version: Option<&'a Expr>,
    /// The parameters in `skip`, whose values are not in the key.
    pub(crate) skipped: &'a [Ident],
    pub(crate) ttl: Ttl<'a>,
    /// The options that are durations, except `ttl`.
    pub(crate) durations: Vec<DurationOption>,
    /// The options whose value is a function that takes the cached value.
    pub(crate) value_functions: Vec<ValueFunctionOption<'a>>,
    /// How the error of a failed fetch reaches the calls that waited for the fetch.
    pub(crate) error_sharing: ErrorSharing<'a>,
    /// True if the option `refresh_ahead` is given. The function's body may then run in the
    /// background after the call has ended.
    pub(crate) has_refresh_ahead: bool,
    /// The expression of the option `refresh_with`, which makes a receiver that outlives the call.
    pub(crate) refresh_with: Option<&'a Expr>,
    /// True if entries are stored in the local tier, which is the memory of this process.
    pub(crate) uses_local: bool,
    /// True if entries are stored in the remote tier, which is memcached or another store.
    pub(crate) uses_remote: bool,
    /// The cache to use instead of the default cache.
    pub(crate) cache: Option<&'a Expr>,
    /// True if the option `infallible` is given. The whole return value is then cached.
    pub(crate) infallible: bool,
}

/// Checks all rules. Returns the validated function if no rule is broken.
pub(crate) fn validate<'a>(
    args: &'a Args,
    function: &'a Function,
    errors: &mut Errors,
) -> Option<ValidatedFunction<'a>> {
    // The other rules are checked only if the function has a body.
    let body = check_body(function, errors)?;
    let return_type = check_signature(function, args.infallible.is_some(), errors);
    let name = check_name_option(args, function, errors);
    let overwrite_reason = check_overwrite(args, errors);
    let ttl = check_ttl(args, errors);
    let durations = check_durations(args, &ttl, errors);
    check_tiers(args, errors);
    check_entry(args, function, errors);
    check_version_or_overwrite(args, errors);
    check_refresh_ahead(args, function, errors);
    check_refresh_with(args, function, errors);
    check_awaits(args, errors);
    check_key(args, function, errors);
    check_value_functions(args, function, errors);
    let error_sharing = check_failures(args, function, errors);

    let (return_type, name) = (return_type?, name?);
    errors.is_empty().then(|| ValidatedFunction {
        function,
        body,
        return_type,
        name,
        overwrite_reason,
        identifier_parts: identifier_parts(args, function),
        version: args.version.as_ref().map(|version| &version.value),
        skipped: args.skip.as_ref().map(|skip| skip.value.as_slice()).unwrap_or_default(),
        ttl,
        durations,
        value_functions: value_functions(args, function),
        error_sharing,
        has_refresh_ahead: args.refresh_ahead.is_some(),
        refresh_with: args.refresh_with.as_ref().map(|receiver| &receiver.value),
        uses_local: is_used(&args.local),
        uses_remote: is_used(&args.remote),
        cache: args.cache.as_ref().map(|cache| &cache.value),
        infallible: args.infallible.is_some(),
    })
}

fn check_name_option<'a>(
    args: &'a Args,
    function: &Function,
    errors: &mut Errors,
) -> Option<&'a LitStr> {
    let Some(name) = &args.name else {
        if !args.was_attempted("name") {
            let own = function.signature.ident.to_string();
            let example = if check_name(&own).is_ok() { &own } else { "payment" };
            errors.at(
                Span::call_site(),
                format!("option `name` is missing; write `name = \"{example}\"`"),
            );
        }
        return None;
    };
    if let Err(message) = check_name(&name.value.value()) {
        errors.on(&name.value, message);
    }
    Some(&name.value)
}

fn check_overwrite<'a>(args: &'a Args, errors: &mut Errors) -> Option<&'a LitStr> {
    let reason = &args.overwrite.as_ref()?.value;
    if let Err(message) = check_reason(&reason.value()) {
        errors.on(reason, message);
    }
    Some(reason)
}

/// Checks the two rules of `refresh_ahead`:
///
/// - A reason to overwrite is declared, because a refresh replaces an entry.
/// - No argument is borrowed, because a refresh may outlive the call. With the option
///   `refresh_with`, shared references to owned data are allowed: a refresh gets copies of the
///   data.
fn check_refresh_ahead(args: &Args, function: &Function, errors: &mut Errors) {
    let Some(refresh_ahead) = &args.refresh_ahead else { return };
    if !args.was_attempted("overwrite") {
        let message = "`refresh_ahead` replaces entries, which needs a reason; \
            add `overwrite(reason = \"…\")`";
        errors.on(&refresh_ahead.key, message);
    }
    for (index, argument) in function.signature.inputs.iter().enumerate() {
        let is_copied = is_shared_reference(argument) && !borrows_otherwise(argument);
        if is_copied && args.was_attempted("refresh_with") {
            continue;
        }
        let (borrow, owned) = match argument {
            FnArg::Typed(argument) if borrows(&argument.ty) => {
                let owned = match &*argument.ty {
                    Type::Reference(reference) => owned_type(&reference.elem),
                    _ => OWNING_TYPE.to_owned(),
                };
                (argument.ty.to_token_stream(), owned)
            }
            FnArg::Receiver(receiver) if is_borrowed(receiver) => {
                let owned = match is_copied {
                    true => "`self: Arc<Self>`, or write `refresh_with = self.clone()`",
                    false => "`self: Arc<Self>`",
                };
                (receiver.to_token_stream(), owned.to_owned())
            }
            _ => continue,
        };
        let names = function.parameters.iter().filter(|parameter| parameter.argument == index);
        let names: Vec<String> = names.map(|parameter| parameter.ident.to_string()).collect();
        let owner = match names[..] {
            [] => "its arguments".to_owned(),
            _ => prose_list(names.iter().map(String::as_str)),
        };
        let message = format!(
            "a `refresh_ahead` fetch may outlive the call, so it must own {owner}; take {owned}"
        );
        errors.on(borrow, message);
    }
}

/// Checks that `refresh_with` is given beside `refresh_ahead`, and that the receiver is a
/// reference.
fn check_refresh_with(args: &Args, function: &Function, errors: &mut Errors) {
    let Some(refresh_with) = &args.refresh_with else { return };
    if !args.was_attempted("refresh_ahead") {
        let message = "`refresh_with` has no effect without `refresh_ahead`; \
            remove it, or add `refresh_ahead = \"…\"`";
        errors.on(&refresh_with.key, message);
    }
    let receiver = function.signature.inputs.iter().find_map(|argument| match argument {
        FnArg::Receiver(receiver) => Some(receiver),
        FnArg::Typed(_) => None,
    });
    let message = match receiver {
        None => {
            "`refresh_with` makes the `self` of a refresh, and this function has no `self`; \
                remove it, and let the function own its parameters"
        }
        Some(receiver) if !is_borrowed(receiver) => {
            "`refresh_with` makes the `self` of a refresh, and this function owns its `self`; remove it"
        }
        Some(_) => return,
    };
    errors.on(&refresh_with.key, message);
}

/// Stands in an error message for an owned type that [`owned_type`] cannot name.
pub(crate) const OWNING_TYPE: &str = "a type that owns its data";

/// Returns the owned type that an error message suggests in place of a reference to `borrowed`,
/// for example "a `String`" for `str`.
pub(crate) fn owned_type(borrowed: &Type) -> String {
    const OWNED_OF_UNSIZED: [(&str, &str); 4] = [
        ("str", "a `String`"),
        ("Path", "a `PathBuf`"),
        ("OsStr", "an `OsString`"),
        ("CStr", "a `CString`"),
    ];
    match borrowed {
        Type::Group(inner) => return owned_type(&inner.elem),
        Type::Paren(inner) => return owned_type(&inner.elem),
        Type::Reference(inner) => return owned_type(&inner.elem),
        _ if borrows(borrowed) => return OWNING_TYPE.to_owned(),
        _ => {}
    }
    let text = source_text(borrowed);
    match borrowed {
        Type::Slice(slice) => format!("a `Vec<{}>`", source_text(&slice.elem)),
        Type::TraitObject(_) => format!("an `Arc<{text}>`"),
        Type::ImplTrait(_) => format!("an `{text}`, or an `Arc` of it"),
        _ => {
            let last = match borrowed {
                Type::Path(path) => path.path.segments.last(),
                _ => None,
            };
            let is_last = |name| last.is_some_and(|l| l.ident == name && l.arguments.is_empty());
            let owned = OWNED_OF_UNSIZED.iter().find(|(name, _)| is_last(*name));
            owned.map_or_else(
                || format!("a `{text}`, or an `Arc` of it"),
                |(_, owned)| (*owned).to_owned(),
            )
        }
    }
}

/// Formats a type as a user writes it: `HashMap<u8, u8>`, not `HashMap < u8 , u8 >`.
fn source_text(ty: &Type) -> String {
    let mut text = String::new();
    for next in ty.to_token_stream().to_string().split_whitespace() {
        let is_joined = text.is_empty()
            || text.ends_with(['<', '(', '[', '&'])
            || text.ends_with("::")
            || next.starts_with(['>', ')', ']', ',', ';'])
            || (next.starts_with(['<', '(', ':']) && ends_with_name(&text));
        if !is_joined {
            text.push(' ');
        }
        text.push_str(next);
    }
    text
}

/// Returns true if the text ends with an identifier. A keyword that can stand before a type, such
/// as `dyn`, does not count.
fn ends_with_name(text: &str) -> bool {
    let is_in_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let last = text.rsplit(|letter| !is_in_name(letter)).next().unwrap_or_default();
    !["", "dyn", "impl", "mut", "const"].contains(&last)
}

/// Returns true unless `option`, which is `local` or `remote`, turns its tier off.
fn is_used(option: &Option<Arg<bool>>) -> bool {
    option.as_ref().is_none_or(|option| option.value)
}

/// Checks that at least one tier is on. If the local tier is off, also checks that no option is
/// given that applies only to the local tier.
fn check_tiers(args: &Args, errors: &mut Errors) {
    if is_used(&args.local) {
        return;
    }
    if let Some(remote) = &args.remote
        && !remote.value
    {
        let message = "both tiers are turned off, so nothing is cached; \
            remove `local = false` or `remote = false`, or remove the attribute";
        errors.on(&remote.key, message);
        return;
    }
    let local_options = [
        args.local_ttl.as_ref().map(|local_ttl| &local_ttl.key),
        args.weight.as_ref().map(|weight| &weight.key),
    ];
    for key in local_options.into_iter().flatten() {
        let message = format!(
            "`{key}` has no effect without the local tier; remove it, or remove `local = false`"
        );
        errors.on(key, message);
    }
}

fn check_entry(args: &Args, function: &Function, errors: &mut Errors) {
    let Some(entry) = &args.entry else { return };
    let name = &entry.value;
    if *name == function.signature.ident {
        let message = format!(
            "`{name}` is the name of the function itself; \
                write another name, for example `entry = {name}_entry`"
        );
        errors.on(name, message);
    }
    if let Some(found) = find_trait(function, name) {
        let message = format!(
            "a method of a trait impl cannot have an entry, because `{found}` has no method `{name}`; \
                annotate an inherent method of the type, and call it here"
        );
        errors.on(name, message);
    }
}

/// Checks that the key has a version, or that a reason to overwrite is declared.
fn check_version_or_overwrite(args: &Args, errors: &mut Errors) {
    if !args.was_attempted("version") && !args.was_attempted("overwrite") {
        errors.at(
            Span::call_site(),
            "one of `version` and `overwrite` is required; write `version = …` with the parameter \
                that changes when the result does, or `overwrite(reason = \"…\")`",
        );
    }
}

/// Checks that no option contains an `.await`. There are two reasons: the annotated function
/// evaluates its options before its first `.await`, and the companion evaluates the same options
/// but is not `async`. The companion is the function that the option `entry` generates.
fn check_awaits(args: &Args, errors: &mut Errors) {
    fn find_await(tokens: TokenStream) -> Option<Ident> {
        tokens.into_iter().find_map(|token| match token {
            TokenTree::Ident(ident) if ident == "await" => Some(ident),
            TokenTree::Group(group) => find_await(group.stream()),
            _ => None,
        })
    }
    let options = [
        &args.identifier,
        &args.version,
        &args.cache,
        &args.ttl,
        &args.cache_if,
        &args.ttl_with,
        &args.weight,
        &args.refresh_with,
        &args.share_error,
    ];
    for option in options.into_iter().flatten() {
        if let Some(found) = find_await(option.value.to_token_stream()) {
            let message =
                format!("`{}` cannot await; pass the awaited value as a parameter", option.key);
            errors.at(found.span(), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    #[test]
    fn owned_types_are_written_like_source() {
        for (borrowed, owned) in [
            ("str", "a `String`"),
            ("[u8]", "a `Vec<u8>`"),
            ("[Vec<u8>]", "a `Vec<Vec<u8>>`"),
            ("[u8; 4]", "a `[u8; 4]`, or an `Arc` of it"),
            ("std::path::Path", "a `PathBuf`"),
            ("Path<u32>", "a `Path<u32>`, or an `Arc` of it"),
            ("HashMap<u8, (u8, u8)>", "a `HashMap<u8, (u8, u8)>`, or an `Arc` of it"),
            ("::std::vec::Vec<u8>", "a `::std::vec::Vec<u8>`, or an `Arc` of it"),
            ("dyn Store", "an `Arc<dyn Store>`"),
            ("dyn ::store::Store", "an `Arc<dyn ::store::Store>`"),
            ("(dyn Store + Send)", "an `Arc<dyn Store + Send>`"),
            ("dyn Fn(u8) -> Vec<u8>", "an `Arc<dyn Fn(u8) -> Vec<u8>>`"),
            ("impl Store", "an `impl Store`, or an `Arc` of it"),
            ("&'a str", "a `String`"),
            ("Vec<&str>", "a type that owns its data"),
        ] {
            let ty: Type = syn::parse_str(borrowed).expect("the text is a type");
            assert_eq!(owned_type(&ty), owned, "{borrowed}");
        }
    }

    #[test]
    fn refresh_ahead_names_the_borrowed_parameters() {
        let options = quote!(
            name = "price",
            overwrite(reason = "the upstream has no versions of a price"),
            refresh_ahead = "5m"
        );
        let expansion = crate::expand(
            options,
            quote! {
                async fn price(mut s: &str, (a, b): &(u8, u8), _: &u8, store: &dyn Store) -> u8 { 1 }
            },
        )
        .to_string();
        for expected in [
            "must own `s`; take a `String`",
            "must own `a` and `b`; take a `(u8, u8)`, or an `Arc` of it",
            "must own its arguments; take a `u8`, or an `Arc` of it",
            "must own `store`; take an `Arc<dyn Store>`",
        ] {
            assert!(expansion.contains(expected), "the expansion contains {expected}: {expansion}");
        }
    }
}
