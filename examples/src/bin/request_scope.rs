//! Within one request a key has one answer: a page cannot show two prices of one thing.
//!
//! Run it with `cargo run -p cached-examples --bin request_scope`.

use cached_core::{RequestScope, coordinator_cached};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};

/// The price as the upstream service has it.
static PRICE: AtomicU64 = AtomicU64::new(4_900);

#[coordinator_cached(
    name = "price",
    overwrite(reason = "prices are corrected by hand and carry no version"),
    entry = price_entry
)]
async fn fetch_price(course: &str) -> Result<u64, Infallible> {
    // The network call would be here.
    let _ = course;
    Ok(PRICE.load(Ordering::Relaxed))
}

/// Somebody else corrects the price while a request is being answered.
async fn correct_price() {
    PRICE.store(5_400, Ordering::Relaxed);
    // Without a remote tier there is nothing that could fail.
    let _ = price_entry("rust-basics").overwrite(5_400).await;
}

async fn page() -> Result<(), Infallible> {
    let header = fetch_price("rust-basics").await?;
    // A task of its own is no part of this request.
    let _ = tokio::spawn(correct_price()).await;
    let footer = fetch_price("rust-basics").await?;
    println!("the header says {header}, the footer {footer}");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Infallible> {
    print!("without a request scope: ");
    page().await?;

    PRICE.store(4_900, Ordering::Relaxed);
    let _ = price_entry("rust-basics").overwrite(4_900).await;
    print!("in a request scope:      ");
    RequestScope::new().run(page()).await?;

    print!("in the next request:     ");
    RequestScope::new().run(page()).await
}
