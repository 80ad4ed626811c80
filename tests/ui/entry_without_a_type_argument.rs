//! The caller of an entry names a type argument that no parameter shows.

use cached_core::coordinator_cached;

trait Backend: Sync {
    fn fetch(&self, id: u32) -> Option<String>;
}

#[coordinator_cached(name = "payment", version = version, skip(backend), entry = payment_entry)]
async fn payment<B: Backend>(backend: &B, id: u32, version: u8) -> Option<String> {
    let _ = version;
    backend.fetch(id)
}

struct Live;

impl Backend for Live {
    fn fetch(&self, id: u32) -> Option<String> {
        Some(id.to_string())
    }
}

fn main() {
    drop(async { payment(&Live, 1, 2).await });
    let _ = payment_entry::<Live>(1, 2);
    let _ = payment_entry(1, 2);
}
