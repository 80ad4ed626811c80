//! A version must be `Serialize`.

use cached_core::coordinator_cached;

enum State {
    Paid,
}

#[coordinator_cached(name = "payment", version = state)]
async fn fetch(number: &str, state: State) -> Result<String, String> {
    let State::Paid = state;
    Ok(number.to_owned())
}

fn main() {
    drop(async { fetch("1", State::Paid).await });
}
