//! `{{id}}` in a format string does not put `id` in the key.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "courses", identifier = who, version = format!("{{id}}{edition}"))]
async fn course(who: u32, id: u32, edition: u32) -> Option<u32> {
    Some(who + id + edition)
}

fn main() {
    drop(course(1, 2, 3));
}
