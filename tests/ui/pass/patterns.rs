//! Patterns as parameters. The names that they bind are in the key.
#![deny(warnings)]
#![allow(clippy::toplevel_ref_arg)]

use cached_core::coordinator_cached;

struct Page {
    number: u32,
    size: u32,
}

#[coordinator_cached(name = "patterns", version = version, skip(size), entry = fetch_entry)]
async fn fetch(
    Page { number, size }: Page,
    (mut first, [_, last]): (String, [u8; 2]),
    _: &str,
    ref region: String,
    mut version: u64,
) -> Result<String, String> {
    first.push_str(region);
    version += 1;
    Ok(format!("{number} {size} {first} {last} {version}"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let page = || Page { number: 1, size: 2 };
    let answer = fetch(page(), ("a".to_owned(), [3, 4]), "", "b".to_owned(), 5).await;
    assert_eq!(answer.as_deref(), Ok("1 2 ab 4 6"));
    let _ = fetch_entry(page(), ("a".to_owned(), [3, 4]), "b".to_owned(), 5);
}
