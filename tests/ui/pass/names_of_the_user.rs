//! Names of the program never shadow names in the expansion.
#![deny(warnings)]
#![allow(clippy::too_many_arguments)]

#[allow(dead_code)]
mod types {
    // Names that an expansion may use.
    pub struct Result;
    pub struct Option;
    pub struct Some;
    pub struct None;
    pub struct Ok;
    pub struct Err;
    pub struct String;
    pub struct Cache;
    pub struct Call;
    pub struct Declaration;
    pub struct Duration;
    pub mod core {}
    pub mod std {}
    pub mod private {}
}

#[allow(unused_imports, ambiguous_glob_reexports)]
mod service {
    use super::types::*;
    use cached_core::coordinator_cached;

    #[coordinator_cached(name = "locals", version = returned, entry = locals_entry, ttl = "5m")]
    pub async fn locals(
        declaration: u8,
        returns: u8,
        call: u8,
        fetch: u8,
        returned: u8,
        key: u8,
        cache: u8,
        value: u8,
        entry: u8,
        self_: u8,
        types: u8,
    ) -> ::std::result::Result<u8, ::std::string::String> {
        let call = call + declaration + returns + fetch + returned;
        ::std::result::Result::Ok(call + key + cache + value + entry + self_ + types)
    }

    #[coordinator_cached(name = "statics", overwrite(reason = "prices change in place upstream"))]
    pub async fn statics(number: u8) -> ::std::option::Option<u8> {
        // The expansion's static is not visible here.
        static DECLARATION: u8 = 1;
        ::std::option::Option::Some(number + DECLARATION)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    assert_eq!(service::locals(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11).await, Ok(66));
    let _ = service::locals_entry(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11);
    assert_eq!(service::statics(1).await, Some(2));
}
