//! In a request scope, all calls with the same arguments return the same value. So a page never
//! shows two prices for one course, even if the price changes while the page is rendered.
//!
//! Run it with `cargo run -p cached-examples --bin request_scope`.

use cached_core::{RequestScope, coordinator_cached};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};

/// The current price in the upstream service.
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

/// Corrects the price, as another user might do while the page is rendered.
async fn correct_price() {
    PRICE.store(5_400, Ordering::Relaxed);
    // The overwrite can fail only with a remote tier.
    let _ = price_entry("rust-basics").overwrite(5_400).await;
}

async fn page() -> Result<(), Infallible> {
    let header = fetch_price("rust-basics").await?;
    // The spawned task does not belong to this request.
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
