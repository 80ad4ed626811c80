//! The options about a fetch that fails: `share_error` and `error_ttl`.

use quote::ToTokens;
use syn::Expr;

use crate::args::Args;
use crate::errors::Errors;
use crate::item::{Function, SignatureBinding};
use crate::lifetimes::borrows;
use crate::mentions::mentions;

/// How the error of a failed fetch reaches the other calls that waited for the fetch.
#[derive(Clone, Copy)]
pub(crate) enum ErrorSharing<'a> {
    /// The function has the option `infallible`.
    Infallible,
    /// The return type borrows. A shared error outlives the call, so the error is not shared.
    Borrowed,
    /// `cached_core` copies the error if it can.
    IfPossible,
    /// `cached_core` copies the error, because the option `error_ttl` keeps a copy. The program
    /// does not compile if the error cannot be copied.
    Required,
    /// The function that is given as `share_error` copies the error.
    ByFunction(&'a Expr),
}

impl ErrorSharing<'_> {
    /// Returns the name of the method that the generated code calls on `cached_core`'s
    /// `ErrorProbe`. The method decides how to copy an error.
    pub(crate) fn method(&self) -> &'static str {
        match self {
            ErrorSharing::Infallible => "infallible",
            ErrorSharing::Borrowed => "unshared",
            ErrorSharing::IfPossible | ErrorSharing::ByFunction(_) => "sharing",
            ErrorSharing::Required => "sharing_for_error_ttl",
        }
    }
}

/// Checks the rules of `share_error` and `error_ttl`: the function can fail, its error does not
/// borrow, and `share_error` mentions no parameter. Only `cached_core` can check that the error can
/// be copied.
pub(crate) fn check_failures<'a>(
    args: &'a Args,
    function: &Function,
    errors: &mut Errors,
) -> ErrorSharing<'a> {
    let is_infallible = args.infallible.is_some();
    let is_borrowed = function.return_type().is_some_and(borrows);
    let keys = [
        args.share_error.as_ref().map(|share_error| &share_error.key),
        args.error_ttl.as_ref().map(|error_ttl| &error_ttl.key),
    ];
    for key in keys.into_iter().flatten() {
        if is_infallible {
            let message = format!(
                "`{key}` has no effect on a function that cannot fail; \
                    remove it, or return a `Result` and remove `infallible`"
            );
            errors.on(key, message);
        } else if is_borrowed {
            let message = format!(
                "`{key}` keeps the error after the call, and this return type borrows; \
                    return a `Result` whose error owns its data"
            );
            errors.on(key, message);
        }
    }
    if let Some(share_error) = &args.share_error {
        let expression = &share_error.value;
        let mentioned = function.parameters.iter().find(|p| mentions(expression, &p.ident));
        if let Some(SignatureBinding { ident: name, .. }) = mentioned {
            let message = format!(
                "`share_error` can use only the error, not `{name}`; \
                    put what the followers need into the error"
            );
            errors.on(expression.to_token_stream(), message);
        }
    }
    match &args.share_error {
        _ if is_infallible => ErrorSharing::Infallible,
        _ if is_borrowed => ErrorSharing::Borrowed,
        Some(share_error) => ErrorSharing::ByFunction(&share_error.value),
        None if args.error_ttl.is_some() => ErrorSharing::Required,
        None => ErrorSharing::IfPossible,
    }
}
