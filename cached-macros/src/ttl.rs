//! The rules of lifetimes.

use quote::ToTokens;
use syn::{Expr, ExprLit, Lit};

use crate::args::Args;
use crate::errors::Errors;
use crate::literal;

/// How long an entry lives.
pub(crate) enum Ttl<'a> {
    Default,
    Milliseconds(u64),
    Expression(&'a Expr),
}

pub(crate) fn ttl<'a>(args: &'a Args, errors: &mut Errors) -> Ttl<'a> {
    let Some(ttl) = &args.ttl else {
        return Ttl::Default;
    };
    let Expr::Lit(ExprLit { lit, .. }) = &ttl.value else {
        if is_number(&ttl.value) {
            let message = format!(
                "`{}` has no unit; write a text such as `ttl = \"5m\"`, or an expression of type `Duration`",
                ttl.value.to_token_stream()
            );
            errors.on(&ttl.value, message);
        }
        return Ttl::Expression(&ttl.value);
    };
    let milliseconds = match lit {
        Lit::Str(text) => literal::milliseconds(&text.value()),
        Lit::Int(number) => Err(format!(
            "`{number}` has no unit; \
                write `ttl = \"{number}s\"`, or an expression of type `Duration`"
        )),
        _ => Err("a `ttl` is a text such as `\"90s\"` or an expression of type `Duration`".into()),
    };
    match milliseconds {
        Ok(milliseconds) => Ttl::Milliseconds(milliseconds),
        Err(message) => {
            errors.on(lit, message);
            Ttl::Default
        }
    }
}

/// The lifetimes that are always texts.
pub(crate) fn lifetimes(
    args: &Args,
    ttl: &Ttl<'_>,
    errors: &mut Errors,
) -> Vec<(&'static str, u64)> {
    let given = [
        ("local_ttl", &args.local_ttl),
        ("none_ttl", &args.none_ttl),
        ("stale_if_error", &args.stale_if_error),
        ("refresh_ahead", &args.refresh_ahead),
    ];
    let mut lifetimes = Vec::new();
    for (option, given) in given {
        let Some(given) = given else { continue };
        match literal::milliseconds(&given.value.value()) {
            Ok(milliseconds) => lifetimes.push((option, milliseconds)),
            Err(message) => errors.on(&given.value, message),
        }
    }
    if let (Ttl::Milliseconds(ttl), None, Some(ahead)) = (ttl, &args.ttl_with, &args.refresh_ahead)
        && lifetimes.iter().any(|given| given.0 == "refresh_ahead" && given.1 >= *ttl)
    {
        let message = "an entry would be refreshed all its life; \
            write a `refresh_ahead` that is shorter than the `ttl`";
        errors.on(&ahead.value, message);
    }
    lifetimes
}

/// Whether it is made of numbers alone, such as `5 * 60`: whatever else is in scope, that is no
/// `Duration`.
fn is_number(expression: &Expr) -> bool {
    match expression {
        Expr::Lit(ExprLit { lit, .. }) => matches!(lit, Lit::Int(_) | Lit::Float(_)),
        Expr::Binary(operation) => is_number(&operation.left) && is_number(&operation.right),
        Expr::Unary(operation) => is_number(&operation.expr),
        Expr::Paren(inner) => is_number(&inner.expr),
        Expr::Group(inner) => is_number(&inner.expr),
        _ => false,
    }
}
