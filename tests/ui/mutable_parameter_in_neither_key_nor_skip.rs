//! A `&mut` parameter that is in neither the key nor `skip` cannot be added to the key.

use cached_core::coordinator_cached;

struct Connection;

#[coordinator_cached(name = "payment", version = state, identifier = number)]
async fn fetch(connection: &mut Connection, number: &str, state: u8) -> Result<String, String> {
    let _ = connection;
    Ok(format!("{number}{state}"))
}

fn main() {
    drop(async { fetch(&mut Connection, "1", 2).await });
}
