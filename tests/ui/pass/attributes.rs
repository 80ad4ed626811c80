//! A companion inherits attributes of its function. A format string in the key may name a parameter
//! that is a raw identifier.
#![deny(warnings)]

use cached_core::{EntryOf, WriteOnce, coordinator_cached};

/// Not compiled, and neither is its companion, so the name is free.
#[cfg(any())]
#[coordinator_cached(name = "gone", version = number, entry = gone_entry)]
async fn gone(number: u32) -> Option<u32> {
    Some(number)
}

#[coordinator_cached(name = "gone", version = number, entry = gone_too_entry)]
#[cfg_attr(all(), cfg(any()))]
async fn gone_too(number: u32) -> Option<u32> {
    Some(number)
}

fn gone_entry() {}

fn gone_too_entry() {}

#[coordinator_cached(name = "old", version = number, entry = old_entry)]
#[cfg_attr(all(), deprecated)]
async fn old(number: u32) -> Option<u32> {
    Some(number)
}

#[coordinator_cached(name = "raw", version = format!("{type}-{number}"), entry = raw_entry)]
async fn raw(r#type: &str, number: u32) -> Result<String, ()> {
    Ok(format!("{type} {number}"))
}

fn entry(number: u32) -> EntryOf<Result<String, ()>, WriteOnce> {
    raw_entry("x", number)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    gone_entry();
    gone_too_entry();
    #[expect(deprecated)]
    let _ = old_entry(1);
    #[expect(deprecated)]
    let _ = old(1).await;
    assert_eq!(raw("x", 1).await.as_deref(), Ok("x 1"));
    assert!(entry(1).get().await.is_found());
}
