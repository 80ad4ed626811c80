//! A borrow inside the value's type is reported once.

use std::borrow::Cow;

use cached_core::coordinator_cached;
use serde::{Deserialize, Serialize};

#[coordinator_cached(name = "text", version = state, entry = text_entry)]
async fn text<'a>(number: &'a str, state: u8) -> Result<Cow<'a, str>, String> {
    let _ = state;
    Ok(Cow::Borrowed(number))
}

#[coordinator_cached(name = "texts", version = state)]
async fn texts(number: &str, state: u8) -> Option<Vec<(u8, &[u8])>> {
    Some(vec![(state, number.as_bytes())])
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Payment<'a> {
    number: Cow<'a, str>,
}

#[coordinator_cached(name = "payment", version = state, infallible)]
async fn payment(number: &str, state: u8) -> Payment<'_> {
    let _ = state;
    Payment { number: Cow::Borrowed(number) }
}

fn main() {
    drop(async { text("1", 2).await });
    drop(text_entry("1", 2));
    drop(async { texts("1", 2).await });
    drop(async { payment("1", 2).await.number });
}
