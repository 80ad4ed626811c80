//! The attribute of `cached_core`. Use it through that crate, which documents it.
//!
//! An expansion goes through the modules in this order: `args` reads the attribute, `item` the
//! function (one that is not `async` through `desugared`); `validate` (with `signature` and `literal`) holds them against the rules; `expand`
//! (with `companion`) writes what keeps them all. `errors` collects what does not.

mod args;
mod companion;
mod desugared;
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
use crate::expand::Krate;
use crate::item::Function;

/// Has the calls of an `async fn` answered from the cache; see the documentation of `cached_core`.
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
        // What is wrong with the options of a struct is of no interest.
        Err(other) => {
            signature::refuse(&other, &mut errors);
            let errors = errors.into_compile_errors();
            return quote!(#item #errors);
        }
    };
    let args = Args::parse(options, &mut errors);
    let krate = Krate::new(&args);

    let Some(cached) = validate::validate(&args, &function, &mut errors) else {
        // The function as it was written, so that its callers add no errors of their own.
        let unchanged = &function.tokens;
        let stub = companion::stub(&args, &function, &krate);
        let errors = errors.into_compile_errors();
        return quote!(#unchanged #stub #errors);
    };
    let expanded = expand::function(&cached, &krate);
    let companion = Companion::new(&args, &function);
    let companion = companion.map(|companion| companion::expand(&cached, &companion, &krate));
    quote!(#expanded #companion)
}
