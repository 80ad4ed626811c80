//! Snapshot tests. They compare the *expansion* of some functions, that is, the code that the macro
//! generates, with the files in `expansions/`. So the diff of a change to the macro also shows how
//! the generated code changes.
//!
//! `WRITE_EXPANSIONS=1 cargo test -p cached-macros` updates the files.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use proc_macro2::TokenStream;
use quote::quote;

fn formatted(tokens: &TokenStream) -> String {
    let mut rustfmt = Command::new("rustfmt")
        .args(["--edition", "2024", "--config", "max_width=100"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("rustfmt is there");
    let mut input = rustfmt.stdin.take().expect("the stream is piped");
    input.write_all(tokens.to_string().as_bytes()).expect("rustfmt reads");
    drop(input);
    let output = rustfmt.wait_with_output().expect("rustfmt ends");
    assert!(output.status.success(), "{tokens}");
    String::from_utf8(output.stdout).expect("the text is UTF-8")
}

/// Expands `item`, and compares the expansion with the file `expansions/{name}.rs`. Returns the
/// number of lines of the expansion.
fn compare_expansion(
    name: &str,
    options: TokenStream,
    item: TokenStream,
    is_method: bool,
) -> usize {
    let expanded = super::expand(options, item);
    let item = if is_method { quote!(impl Client { #expanded }) } else { expanded };
    let expanded = formatted(&item);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("expansions/{name}.rs"));
    if std::env::var_os("WRITE_EXPANSIONS").is_some() {
        std::fs::write(&path, &expanded).expect("the expansion can be written");
    }
    let checked_in = std::fs::read_to_string(&path).expect("the expansion is checked in");
    assert!(
        expanded == checked_in,
        "expansions/{name}.rs is up to date; the expansion is:\n{expanded}"
    );
    expanded.lines().count()
}

#[test]
fn ordinary_function() {
    let options = quote!(name = "payment", version = state);
    let item = quote! {
        pub async fn fetch_payment(number: &str, state: PaymentState) -> Result<Payment, FetchError> {
            upstream(number, state).await
        }
    };
    // Raise this limit with care: the compiler has to compile this code for every annotated
    // function.
    assert!(compare_expansion("ordinary", options, item, false) <= 20);
}

#[test]
fn function_with_companion() {
    let options = quote!(name = "payment", version = state, skip(client), entry = payment_entry);
    let item = quote! {
        /// Fetches a payment.
        #[doc(hidden)]
        #[expect(clippy::too_many_lines)]
        #[deprecated]
        async fn fetch_payment(client: &Http, number: &str, state: State) -> Result<Payment, Error> {
            client.get(number, state).await
        }
    };
    // The limit is for the function and `payment_entry` together.
    assert!(compare_expansion("companion", options, item, false) <= 42);
}

#[test]
fn overwritable_method() {
    let options = quote!(
        name = "profile",
        identifier = (self.region, id),
        overwrite(reason = "users edit their profile and expect to see the edit"),
        ttl = self.lifetime,
        cache = self.cache
    );
    let item = quote! {
        pub(crate) async fn profile(&self, id: u64) -> Result<Option<Profile>, Error> {
            self.http.profile(id).await
        }
    };
    compare_expansion("overwritable_method", options, item, true);
}

#[test]
fn generic_function() {
    let options = quote!(name = "page", version = edition, cache_if = |page| page.is_final());
    let item = quote! {
        async fn page<T: Kind, const N: usize>(kind: T, edition: u8) -> Option<Page<N>>
        where
            T: serde::Serialize,
        {
            kind.page(edition).await
        }
    };
    compare_expansion("generic", options, item, false);
}

#[test]
fn function_with_refresh_ahead() {
    let options = quote!(
        name = "price",
        overwrite(reason = "the upstream has no versions of a price"),
        ttl = "10m",
        refresh_ahead = "2m",
        infallible
    );
    let item = quote! {
        async fn price(course: String) -> Price {
            upstream(course).await
        }
    };
    compare_expansion("refreshed", options, item, false);
}

#[test]
fn function_whose_rules_mention_parameters() {
    let options = quote!(
        name = "payment",
        identifier = (self.region, number),
        version = state,
        cache_if = |payment| payment.state == state && self.accepts(payment),
        entry = payment_entry
    );
    let item = quote! {
        async fn payment(&self, number: &str, state: State) -> Result<Payment, Error> {
            self.http.payment(number, state).await
        }
    };
    compare_expansion("value_rules", options, item, true);
}

#[test]
fn method_with_refresh_with() {
    let options = quote!(
        name = "price",
        identifier = (self.region, course),
        overwrite(reason = "the upstream has no versions of a price"),
        refresh_ahead = "2m",
        refresh_with = self.clone()
    );
    let item = quote! {
        async fn price(&self, course: &str) -> Result<u64, Error> {
            self.http.price(course).await
        }
    };
    compare_expansion("refresh_with", options, item, true);
}

#[test]
fn function_that_shares_its_error() {
    let options = quote!(
        name = "payment",
        version = state,
        share_error = |error| anyhow::anyhow!("{error:#}"),
        error_ttl = "1s",
        entry = payment_entry
    );
    let item = quote! {
        async fn fetch_payment(number: u32, state: State) -> anyhow::Result<Payment> {
            upstream(number, state).await
        }
    };
    compare_expansion("shared_error", options, item, false);
}

#[test]
fn desugared_method() {
    let options = quote!(name = "payment", version = state, identifier = (self.region, number));
    // `#[async_trait]` generates a method of this form.
    let item = quote! {
        fn payment<'life0, 'async_trait>(&'life0 self, number: u32, state: State)
            -> ::core::pin::Pin<Box<dyn ::core::future::Future<Output = Answer> + ::core::marker::Send + 'async_trait>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async move {
                let __self = self;
                let number = number;
                let __ret: Answer = { __self.http.payment(number, state).await };
                __ret
            })
        }
    };
    compare_expansion("desugared", options, item, true);
}
