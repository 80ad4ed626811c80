//! A function that returns a named future cannot be cached.

use std::future::{Ready, ready};

use cached_core::coordinator_cached;

type FutureAnswer = Ready<Result<String, String>>;

#[coordinator_cached(name = "payment", version = number)]
fn fetch(number: u32) -> FutureAnswer {
    ready(Ok(number.to_string()))
}

fn main() {
    drop(async { fetch(1).await });
}
