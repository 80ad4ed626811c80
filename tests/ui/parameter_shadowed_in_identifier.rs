//! A closure's argument does not put a parameter of that name in the key.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "courses", identifier = ids.iter().map(|id| *id).sum::<u32>(), version = edition)]
async fn course(ids: Vec<u32>, id: u32, edition: u32) -> Option<u32> {
    Some(ids.len() as u32 + id + edition)
}

fn main() {
    drop(course(vec![1], 2, 3));
}
