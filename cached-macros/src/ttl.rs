//! Checks `ttl` and the other options of the attribute whose values are durations.

use quote::ToTokens;
use syn::{Expr, ExprLit, Lit};

use crate::args::Args;
use crate::duration::parse_duration;
use crate::errors::Errors;

/// The time to live that the option `ttl` gives an entry.
pub(crate) enum Ttl<'a> {
    /// The option is not given, so the default ttl of the cache applies.
    Default,
    /// The option is a literal, such as `"30m"`.
    Milliseconds(u64),
    /// The option is an expression of type `Duration`. The function evaluates the expression in
    /// each call that does not find the value in this process.
    Expression(&'a Expr),
}

/// An option whose value is a duration, such as `stale_if_error = "1h"`.
#[derive(Clone, Copy)]
pub(crate) struct DurationOption {
    /// The name of the option. `cached_core::Declaration` has a method of the same name, which
    /// takes the duration.
    pub(crate) option: &'static str,
    pub(crate) milliseconds: u64,
}

/// Reads the option `ttl`. Adds an error to `errors` if the value cannot be a duration.
pub(crate) fn check_ttl<'a>(args: &'a Args, errors: &mut Errors) -> Ttl<'a> {
    let Some(ttl) = &args.ttl else {
        return Ttl::Default;
    };
    let Expr::Lit(ExprLit { lit, .. }) = &ttl.value else {
        if is_numeric(&ttl.value) {
            let message = format!(
                "`{}` has no unit; write for example `ttl = \"5m\"`, \
                    or an expression of type `Duration`",
                ttl.value.to_token_stream()
            );
            errors.on(&ttl.value, message);
        }
        return Ttl::Expression(&ttl.value);
    };
    let milliseconds = match lit {
        Lit::Str(text) => parse_positive("ttl", &text.value()),
        Lit::Int(number) => Err(format!(
            "`{number}` has no unit; \
                write `ttl = \"{number}s\"`, or an expression of type `Duration`"
        )),
        _ => Err("`ttl` must be a string such as `\"90s\"`, or an expression of type `Duration`"
            .to_owned()),
    };
    match milliseconds {
        Ok(milliseconds) => Ttl::Milliseconds(milliseconds),
        Err(message) => {
            errors.on(lit, message);
            Ttl::Default
        }
    }
}

/// Checks the options whose values must be literals such as `"5m"`, and returns the valid ones.
/// Checks also that `refresh_ahead` is shorter than `ttl`.
pub(crate) fn check_durations(
    args: &Args,
    ttl: &Ttl<'_>,
    errors: &mut Errors,
) -> Vec<DurationOption> {
    let options = [
        ("local_ttl", &args.local_ttl),
        ("none_ttl", &args.none_ttl),
        ("stale_if_error", &args.stale_if_error),
        ("refresh_ahead", &args.refresh_ahead),
        ("error_ttl", &args.error_ttl),
    ];
    let mut durations = Vec::new();
    for (option, arg) in options {
        let Some(arg) = arg else { continue };
        match parse_positive(option, &arg.value.value()) {
            Ok(milliseconds) => durations.push(DurationOption { option, milliseconds }),
            Err(message) => errors.on(&arg.value, message),
        }
    }
    if let (Ttl::Milliseconds(ttl), None, Some(refresh_ahead)) =
        (ttl, &args.ttl_with, &args.refresh_ahead)
        && durations.iter().any(|DurationOption { option, milliseconds }| {
            *option == "refresh_ahead" && milliseconds >= ttl
        })
    {
        let message = "`refresh_ahead` is not shorter than `ttl`, so every hit would be due for a \
            refresh; write a shorter `refresh_ahead`";
        errors.on(&refresh_ahead.value, message);
    }
    durations
}

fn parse_positive(option: &str, text: &str) -> Result<u64, String> {
    match parse_duration(text)? {
        0 => Err(format!(
            "`{option}` must be longer than zero; write a longer duration, or remove the option"
        )),
        milliseconds => Ok(milliseconds),
    }
}

/// Returns true if all operands of the expression are numbers, as in `5 * 60`. The type of such an
/// expression cannot be `Duration`.
fn is_numeric(expression: &Expr) -> bool {
    match expression {
        Expr::Lit(ExprLit { lit, .. }) => matches!(lit, Lit::Int(_) | Lit::Float(_)),
        Expr::Binary(operation) => is_numeric(&operation.left) && is_numeric(&operation.right),
        Expr::Unary(operation) => is_numeric(&operation.expr),
        Expr::Paren(inner) => is_numeric(&inner.expr),
        Expr::Group(inner) => is_numeric(&inner.expr),
        _ => false,
    }
}
