//! Under `remote = false` a value needs no serde, but it must be `Clone + Send + Sync + 'static`.

use std::rc::Rc;

use cached_core::coordinator_cached;

struct Config {
    region: String,
}

#[coordinator_cached(name = "config", version = edition, remote = false, entry = config_entry)]
async fn config(edition: u8) -> Result<Config, String> {
    Ok(Config { region: edition.to_string() })
}

#[derive(Clone)]
struct Session {
    user: Rc<str>,
}

#[coordinator_cached(name = "session", version = edition, remote = false, infallible)]
async fn session(edition: u8) -> Session {
    Session { user: edition.to_string().into() }
}

#[coordinator_cached(name = "page", version = edition, remote = false)]
async fn page<T: Send + Sync + From<u8> + 'static>(edition: u8) -> Result<T, String> {
    Ok(T::from(edition))
}

fn main() {
    drop(async { config(1).await.map(|config| config.region) });
    drop(config_entry(1));
    drop(async { session(1).await.user });
    drop(async { page::<u8>(1).await });
}
