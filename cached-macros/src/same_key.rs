//! Tests two rules about the options of the attribute:
//!
//! - Only the options in [`KEY_OPTIONS`] change a function's key.
//! - The companion (the function that the option `entry` generates) makes the same key as its
//!   function.
//!
//! `OPTIONS` has an example of each option, and the test expands a function with each example. So
//! the test also covers options that are added later.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::quote;

use crate::args::OPTIONS;
use crate::item::is_punct;

/// The options that can change the key.
const KEY_OPTIONS: [&str; 4] = ["name", "version", "identifier", "skip"];

/// Returns the key of each lookup in an expansion, as text. The text consists of the tuple of the
/// key's parts, and of the method calls that add the function's generic arguments.
fn keys(expansion: TokenStream) -> Vec<String> {
    let trees: Vec<TokenTree> = expansion.into_iter().collect();
    let mut found = Vec::new();
    for (index, tree) in trees.iter().enumerate() {
        match tree {
            TokenTree::Group(group) => found.extend(keys(group.stream())),
            TokenTree::Ident(name)
                if ["lookup", "lookup_whole", "lookup_local"]
                    .iter()
                    .any(|lookup| name == lookup) =>
            {
                let mut rest = trees[index..].iter().skip_while(|tree| !is_parentheses(tree));
                let Some(TokenTree::Group(arguments)) = rest.next() else { continue };
                // The last argument in parentheses is the tuple of the key's parts.
                let parts = arguments.stream().into_iter().filter(is_parentheses).last();
                let methods: Vec<TokenTree> =
                    rest.take_while(|tree| !is_punct(Some(tree), ',')).cloned().collect();
                let generics = methods.split(|tree| is_punct(Some(tree), '.')).filter(|method| {
                    matches!(method.first(), Some(TokenTree::Ident(name)) if name == "type_arguments" || name == "constants")
                });
                let key = parts.into_iter().chain(generics.flatten().cloned());
                found.push(key.collect::<TokenStream>().to_string());
            }
            _ => {}
        }
    }
    found
}

fn is_parentheses(tree: &TokenTree) -> bool {
    matches!(tree, TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis)
}

/// Expands a function with this option, and returns the keys in the expansion. The option `crate`
/// changes the paths in a key, so its example path is removed from the keys.
fn keys_with(option: TokenStream) -> Vec<String> {
    let options = quote!(
        name = "payment",
        version = version,
        skip(self, client),
        #option
    );
    let function = quote! {
        async fn payment<B: Backend, const N: usize>(
            &self,
            client: B,
            log: impl Log,
            number: u32,
            version: u8,
        ) -> Result<Payment, Error> {
            client.get(number, version).await
        }
    };
    let expansion = super::expand(options, function);
    assert!(!expansion.to_string().contains("compile_error"), "{expansion}");
    let keys = keys(expansion);
    keys.into_iter().map(|key| key.replace("path :: to :: ", ":: ")).collect()
}

#[test]
fn only_key_options_change_the_key() {
    let without_options = keys_with(TokenStream::new());
    let [key] = &without_options[..] else { panic!("{without_options:?}") };
    for expected in
        ["part (& number)", "PhantomData < B >", "part (& N)", "type_name_of_val (& log)"]
    {
        assert!(key.contains(expected), "the key contains {expected}: {key}");
    }
    let mut compared = 0;
    for option in OPTIONS.iter().filter(|option| !KEY_OPTIONS.contains(&option.name)) {
        let written = option.example.replace('…', "the upstream changes its answers");
        let written: TokenStream = written.parse().expect("an example is tokens");
        // `refresh_ahead` requires `overwrite`, and, for a method, `refresh_with`: a receiver that
        // outlives the call.
        let overwrite = quote!(overwrite(reason = "the upstream changes"));
        let written = match option.name {
            "refresh_ahead" => quote!(#written, #overwrite, refresh_with = self.clone()),
            "refresh_with" => quote!(#written, #overwrite, refresh_ahead = "5m"),
            _ => written,
        };
        let with_entry = (option.name != "entry").then(|| quote!(#written, entry = payment_entry));
        for with in [Some(written), with_entry].into_iter().flatten() {
            let keys = keys_with(with.clone());
            assert!(!keys.is_empty(), "the expansion has a key: {with}");
            assert!(
                keys.iter().all(|with_option| with_option == key),
                "{with} keeps the key: {keys:?}"
            );
            compared += keys.len();
        }
    }
    assert!(compared > 30, "more than 30 keys are compared: {compared}");
}
