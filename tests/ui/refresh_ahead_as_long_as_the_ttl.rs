//! `refresh_ahead` is shorter than `ttl`.

use cached_core::coordinator_cached;

#[coordinator_cached(
    name = "price",
    overwrite(reason = "the upstream has no versions of a price"),
    ttl = "5m",
    refresh_ahead = "10m"
)]
async fn price(course: String) -> Result<u64, String> {
    Ok(course.len() as u64)
}

fn main() {
    drop(async { price("rust".into()).await });
}
