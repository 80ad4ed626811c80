//! Implements the attribute `#[coordinator_cached]`. The crate `cached_core` re-exports and
//! documents the attribute.
//!
//! One expansion takes three steps:
//!
//! 1. `args` parses the attribute's options. `item` and `desugared` parse the annotated function.
//! 2. `validate` checks the rules, with `signature`, `key`, `ttl`, `duration`, `failures`,
//!    `literal` and `value_function`. If no rule is broken, `validate` returns a
//!    `ValidatedFunction`.
//! 3. `expand` writes the tokens that replace a `ValidatedFunction`. If the option `entry` is
//!    given, `companion` writes a second function with the name in `entry`. This *companion* takes
//!    the arguments that make the key, and returns a handle to the cache entry.
//!
//! These modules help in several steps:
//!
//! - `errors` collects the errors.
//! - `mentions` and `shadowing` find the parameters that an expression uses.
//! - `lifetimes` finds the borrows in a type.
//! - `unordered` finds collections without an order in a type. They cannot be part of a key.
//! - `receiver` replaces `self` by another name in a piece of code.
//! - `source_text` writes an expression as text.
//! - `trait_impl` finds out whether a method is in a trait impl.

mod args;
mod companion;
mod desugared;
mod duration;
mod errors;
mod expand;
mod failures;
mod item;
mod key;
mod lifetimes;
mod literal;
mod mentions;
mod receiver;
mod shadowing;
mod signature;
mod source_text;
mod trait_impl;
mod ttl;
mod unordered;
mod validate;
mod value_function;

#[cfg(test)]
mod same_key;
#[cfg(test)]
mod snapshot_tests;

use proc_macro2::TokenStream;
use quote::quote;

use crate::args::Args;
use crate::companion::CompanionSignature;
use crate::errors::Errors;
use crate::expand::{CratePath, ExpansionWriter};
use crate::item::Function;

/// Caches what an `async fn` returns. The documentation of `cached_core` lists the options.
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
        // If the item cannot be cached, its options are not checked.
        Err(unsupported) => {
            signature::report_unsupported(&unsupported, &mut errors);
            let errors = errors.into_compile_errors();
            return quote!(#item #errors);
        }
    };
    let args = Args::parse(options, &mut errors);
    let krate = CratePath::new(&args);

    let Some(validated) = validate::validate(&args, &function, &mut errors) else {
        // The function is emitted unchanged; without it, every caller would get an error too. A
        // companion without a real body is emitted for the same reason.
        let unchanged = &function.tokens;
        let stub = companion::stub(&args, &function, &krate);
        let errors = errors.into_compile_errors();
        return quote!(#unchanged #stub #errors);
    };
    let expansion = ExpansionWriter { input: &validated, krate: &krate };
    let expanded = expansion.function();
    let companion = CompanionSignature::new(&args, &function);
    let companion = companion.map(|companion| companion::expand(&expansion, &companion));
    quote!(#expanded #companion)
}
