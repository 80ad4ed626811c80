//! A generic function that overwrites takes only overwritable entries.

use cached_core::{CacheEntry, MayOverwrite, coordinator_cached};

#[coordinator_cached(name = "payment", version = state, entry = payment_entry)]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

fn replace<P: MayOverwrite>(entry: &CacheEntry<String, P>) {
    drop(entry.overwrite("paid".to_owned()));
}

fn main() {
    replace(&payment_entry("1", 2));
    drop(fetch("1", 2));
}
