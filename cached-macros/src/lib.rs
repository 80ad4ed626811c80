//! The attribute of `cached_core`. Use it through that crate, which documents it.
//!
//! An expansion passes through the modules in this order:
//!
//! 1. `args` parses the attribute, and `item` (with `desugared`) parses the function.
//! 2. `validate` checks the rules, with `signature`, `key`, `ttl`, `duration` and `literal`. Its
//!    result is a type of its own, which alone can be expanded.
//! 3. `expand` and `companion` write the tokens.
//!
//! `errors` collects the errors of all steps.

mod args;
mod companion;
mod desugared;
mod duration;
mod errors;
mod expand;
mod item;
mod key;
mod lifetimes;
mod literal;
mod mentions;
mod signature;
mod ttl;
mod validate;

#[cfg(test)]
mod expansions;
#[cfg(test)]
mod same_key;

use proc_macro2::TokenStream;
use quote::quote;

use crate::args::Args;
use crate::companion::Companion;
use crate::errors::Errors;
use crate::expand::{CratePath, Expansion};
use crate::item::Function;

/// Answers the calls of an `async fn` from the cache. The options are in the documentation of
/// `cached_core`.
#[proc_macro_attribute]
pub fn coordinator_cached(
    options: proc_macro::TokenStream,
    item: proc_macro::TokenStream,
) -> proc_macro::TokenStream {
    expand(options.into(), item.into()).into()
}

fn expand(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let function = match Function::parse(item.clone()) {
        Ok(function) => function,
        // On a struct, for example, the options do not matter.
        Err(unsupported) => {
            signature::report_unsupported(&unsupported, &mut errors);
            let errors = errors.into_compile_errors();
            return quote!(#item #errors);
        }
    };
    let args = Args::parse(options, &mut errors);
    let krate = CratePath::new(&args);

    let Some(validated) = validate::validate(&args, &function, &mut errors) else {
        // The unchanged function keeps its callers from adding errors of their own.
        let unchanged = &function.tokens;
        let stub = companion::stub(&args, &function, &krate);
        let errors = errors.into_compile_errors();
        return quote!(#unchanged #stub #errors);
    };
    let expansion = Expansion { input: &validated, krate: &krate };
    let expanded = expansion.function();
    let companion = Companion::new(&args, &function);
    let companion = companion.map(|companion| companion::expand(&expansion, &companion));
    quote!(#expanded #companion)
}
