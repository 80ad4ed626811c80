//! Only a function can be cached.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = state)]
struct Payment;

fn main() {
    drop(async { Payment });
}
