//! An entry in a field or a variable is write-once too.

use cached_core::{CacheEntry, WriteOnce, coordinator_cached};

#[coordinator_cached(name = "payment", version = state, entry = payment_entry)]
async fn fetch(number: &str, state: u8) -> Result<String, String> {
    Ok(format!("{number}{state}"))
}

struct Kept {
    entry: CacheEntry<String, WriteOnce>,
}

fn main() {
    let kept = Kept { entry: payment_entry("1", 2) };
    drop(async { kept.entry.overwrite("paid".to_owned()).await });
    drop(fetch("1", 2));
}
