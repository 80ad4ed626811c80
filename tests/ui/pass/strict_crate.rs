//! A crate with strict lints, and a module without the prelude.
#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, unused, unreachable_pub, missing_debug_implementations)]
#![deny(clippy::all, clippy::pedantic)]
#![deny(clippy::shadow_reuse, clippy::shadow_same, clippy::shadow_unrelated)]

/// A client.
pub mod calls {
    #![no_implicit_prelude]

    use ::cached_core::coordinator_cached;
    use ::std::result::Result;
    use ::std::string::String;

    /// An upstream.
    #[derive(Debug)]
    pub struct Client;

    impl Client {
        /// A method with every part that an expansion can have.
        #[coordinator_cached(
            name = "strict",
            version = version,
            identifier = (number, region.len(), &self.name()),
            overwrite(reason = "the broker rewrites what it is told of"),
            skip(client),
            ttl = ::std::time::Duration::from_secs(90),
            entry = fetch_entry
        )]
        /// # Errors
        /// This function never fails.
        pub async fn fetch(
            &self,
            client: &Client,
            number: &str,
            region: String,
            version: u64,
        ) -> Result<String, String> {
            let _ = client.name();
            Result::Ok(::std::format!("{number} {region} {version}"))
        }

        fn name(&self) -> &'static str {
            let _ = self;
            "client"
        }
    }

    /// Parameters that begin with an underscore, in the key and in `skip`.
    #[coordinator_cached(name = "underscored", version = _state, skip(_client), entry = underscored_entry)]
    ///
    /// # Errors
    /// This function never fails.
    pub async fn underscored(_client: &Client, _number: u32, _state: u8) -> Result<u8, String> {
        Result::Ok(1)
    }

    /// A free function with an entry.
    #[coordinator_cached(name = "free", version = state, skip(client), entry = free_entry)]
    ///
    /// # Errors
    /// This function never fails.
    pub async fn free(client: &Client, number: String, state: &u8) -> Result<u8, String> {
        let _ = (client.name(), number);
        Result::Ok(*state)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    use calls::{Client, free, free_entry, underscored, underscored_entry};

    let answer = Client.fetch(&Client, "1", "eu".to_owned(), 2).await;
    assert_eq!(answer.as_deref(), Ok("1 eu 2"));
    let _ = Client.fetch_entry("1", "eu".to_owned(), 2);
    assert_eq!(free(&Client, String::new(), &1).await, Ok(1));
    let _ = free_entry(String::new(), &1);
    assert_eq!(underscored(&Client, 1, 2).await, Ok(1));
    let _ = underscored_entry(1, 2);
}
