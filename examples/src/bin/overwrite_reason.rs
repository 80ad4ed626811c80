//! A program may overwrite the entries of a function only if the function declares a reason. The
//! ledger lists every reason.
//!
//! Run this example with `cargo run -p cached-examples --bin overwrite_reason`.

use cached_core::{coordinator_cached, ledger};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::error::Error;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Profile {
    id: u64,
    email: String,
}

// Without the reason, neither this function nor the call of `overwrite` below compiles.
#[coordinator_cached(
    name = "profile",
    overwrite(reason = "users edit their profile, and the user service gives it no version"),
    ttl = "10m",
    entry = profile_entry
)]
async fn fetch_profile(id: u64) -> Result<Profile, Infallible> {
    println!("  (fetching profile {id})");
    Ok(Profile { id, email: format!("user-{id}@example.com") })
}

// This attribute has a version instead of a reason. Its entries are write-once: they have the
// method `add`, but not `overwrite`.
#[coordinator_cached(name = "order", version = revision, entry = order_entry)]
async fn fetch_order(number: u64, revision: u32) -> Result<String, Infallible> {
    println!("  (fetching order {number} at revision {revision})");
    Ok(format!("order {number}, revision {revision}"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!("{:?}", fetch_profile(7).await?);
    let edited = Profile { id: 7, email: "ada@example.org".to_string() };
    profile_entry(7).overwrite(edited).await?;
    println!("{:?}\n", fetch_profile(7).await?);

    println!("{}", fetch_order(17, 1).await?);
    let added = order_entry(17, 1).add("another answer".to_string()).await;
    println!("a second answer is added: {added}");
    println!("{}\n", fetch_order(17, 1).await?);

    print!("The ledger:\n{}", ledger());
    Ok(())
}
