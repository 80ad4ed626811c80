//! `cache_if` and `ttl_with` cannot mention a `&mut` parameter.

use cached_core::coordinator_cached;

#[coordinator_cached(
    name = "payment",
    version = state,
    skip(log),
    cache_if = |value| value.len() > log.len(),
    ttl_with = |_| std::time::Duration::from_secs(log.len() as u64)
)]
async fn fetch(number: &str, state: u8, log: &mut Vec<String>) -> Result<String, String> {
    log.push(number.to_owned());
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch("1", 2, &mut Vec::new()).await });
}
