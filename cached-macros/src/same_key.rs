//! A function has one key, whatever options it has that are not about the key; and its companion has the same.
//!
//! The options are read from the attribute's grammar, each as its usage writes it, so that an option that
//! is added later is tried too.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::quote;

use crate::args::OPTIONS;
use crate::item::is_punct;

/// The options that say what is in the key.
const ABOUT_THE_KEY: [&str; 4] = ["name", "version", "identifier", "skip"];

/// Returns, for each lookup in an expansion, the tokens of its key: the parts and the type arguments.
fn keys(expansion: TokenStream) -> Vec<String> {
    let trees: Vec<TokenTree> = expansion.into_iter().collect();
    let mut found = Vec::new();
    for (index, tree) in trees.iter().enumerate() {
        match tree {
            TokenTree::Group(group) => found.extend(keys(group.stream())),
            TokenTree::Ident(name) if name == "lookup" || name == "lookup_whole" => {
                let mut rest = trees[index..].iter().skip_while(|tree| !is_call(tree));
                let Some(TokenTree::Group(arguments)) = rest.next() else { continue };
                // The parts are the last argument, a tuple.
                let parts = arguments.stream().into_iter().filter(is_call).last();
                let methods: Vec<TokenTree> =
                    rest.take_while(|tree| !is_punct(Some(tree), ',')).cloned().collect();
                let about_types = methods.split(|tree| is_punct(Some(tree), '.')).filter(|method| {
                    matches!(method.first(), Some(TokenTree::Ident(name)) if name == "of" || name == "constants")
                });
                let key = parts.into_iter().chain(about_types.flatten().cloned());
                found.push(key.collect::<TokenStream>().to_string());
            }
            _ => {}
        }
    }
    found
}

fn is_call(tree: &TokenTree) -> bool {
    matches!(tree, TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis)
}

/// Returns the keys of a function with this option, as tokens of the default path.
fn keys_with(option: TokenStream) -> Vec<String> {
    let options = quote!(
        name = "payment",
        version = version,
        skip(client),
        #option
    );
    let function = quote! {
        async fn payment<B: Backend, const N: usize>(
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
fn no_option_but_those_about_the_key_changes_it() {
    let alone = keys_with(TokenStream::new());
    let [key] = &alone[..] else { panic!("{alone:?}") };
    for expected in
        ["part (& number)", "PhantomData < B >", "part (& N)", "type_name_of_val (& log)"]
    {
        assert!(key.contains(expected), "{expected} is not in {key}");
    }
    let mut tried = 0;
    for option in OPTIONS.iter().filter(|option| !ABOUT_THE_KEY.contains(&option.name)) {
        let written = option.usage.replace('…', "the upstream changes its answers");
        let written: TokenStream = written.parse().expect("a usage is tokens");
        // A refresh replaces an entry, which needs a reason.
        let written = match option.name {
            "refresh_ahead" => quote!(#written, overwrite(reason = "the upstream changes")),
            _ => written,
        };
        let with_entry = (option.name != "entry").then(|| quote!(#written, entry = payment_entry));
        for with in [Some(written), with_entry].into_iter().flatten() {
            let keys = keys_with(with.clone());
            assert!(!keys.is_empty(), "{with}");
            assert!(keys.iter().all(|with_option| with_option == key), "{with}: {keys:?}");
            tried += keys.len();
        }
    }
    assert!(tried > 30, "{tried} keys were compared");
}
