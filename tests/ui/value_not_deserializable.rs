//! The error names the bound that fails, at the value's type and not at the path of the alias.

use cached_core::coordinator_cached;

mod anyhow {
    pub type Result<T> = std::result::Result<T, String>;
}

mod models {
    #[derive(Clone, serde::Serialize)]
    pub struct Payment {
        pub number: String,
    }
}

type Answer = Result<models::Payment, String>;

#[coordinator_cached(name = "payment", version = state, entry = payment_entry)]
async fn fetch(number: &str, state: u8) -> anyhow::Result<models::Payment> {
    let _ = state;
    Ok(models::Payment { number: number.to_owned() })
}

#[coordinator_cached(name = "aliased", version = state)]
async fn aliased(number: &str, state: u8) -> crate::Answer {
    fetch(number, state).await
}

fn main() {
    drop(async { fetch("1", 2).await.map(|payment| payment.number) });
    drop(async { payment_entry("1", 2).get().await.is_found() });
    drop(async { aliased("1", 2).await });
}
