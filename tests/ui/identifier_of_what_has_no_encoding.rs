//! A parameter in the key must be `Serialize`.

use cached_core::coordinator_cached;

struct Request {
    path: String,
}

#[coordinator_cached(name = "payment", version = state)]
async fn fetch(request: Request, state: u8) -> Result<String, String> {
    Ok(format!("{}{state}", request.path))
}

fn main() {
    drop(async { fetch(Request { path: String::new() }, 2).await });
}
