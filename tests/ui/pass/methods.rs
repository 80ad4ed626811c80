//! Methods with every kind of receiver, associated functions, trait impls and default methods.
#![deny(warnings)]

use std::sync::Arc;

use cached_core::{Cache, coordinator_cached};

#[derive(Clone)]
struct Client<T> {
    base: String,
    cache: Cache,
    transport: T,
}

type Answer = Result<String, String>;

impl<T: Clone + Send + Sync> Client<T> {
    #[coordinator_cached(name = "borrowed", version = version, identifier = (self.base, number), cache = self.cache, entry = borrowed_entry)]
    async fn borrowed(&self, number: u32, version: u8) -> Answer {
        let _ = &self.transport;
        Ok(format!("{}{number}{version}", self.base))
    }

    #[coordinator_cached(name = "exclusive", version = version, skip(self), entry = exclusive_entry)]
    async fn exclusive(&mut self, number: u32, version: u8) -> Answer {
        self.base.push('!');
        Ok(format!("{number}{version}"))
    }

    #[coordinator_cached(name = "shared", version = version, skip(self), entry = shared_entry)]
    async fn shared(self: Arc<Self>, number: u32, version: u8) -> Answer {
        Ok(format!("{}{number}{version}", self.base))
    }

    #[coordinator_cached(name = "owned", version = self.base.len(), entry = owned_entry)]
    async fn owned(mut self, number: u32) -> Answer {
        self.base.push('!');
        Ok(format!("{}{number}", self.base))
    }

    #[coordinator_cached(name = "associated", version = version, entry = associated_entry)]
    async fn associated(number: u32, version: u8) -> Answer {
        Ok(format!("{number}{version}"))
    }
}

#[allow(async_fn_in_trait)]
trait Payments {
    async fn payment(&self, number: u32, version: u8) -> Answer;

    #[coordinator_cached(name = "default", version = version, skip(self))]
    async fn default(&self, number: u32, version: u8) -> Answer {
        Ok(format!("{number}{version}"))
    }
}

impl<T: Clone + Send + Sync> Payments for Client<T> {
    #[coordinator_cached(name = "payment", version = version, identifier = (self.base, number))]
    async fn payment(&self, number: u32, version: u8) -> Answer {
        self.borrowed(number, version).await
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let cache = Cache::current();
    let mut client = Client { base: "b".to_owned(), cache, transport: 1_u8 };
    assert_eq!(client.borrowed(1, 2).await.as_deref(), Ok("b12"));
    let _ = client.borrowed_entry(1, 2);
    assert_eq!(client.exclusive(1, 2).await.as_deref(), Ok("12"));
    let _ = client.exclusive_entry(1, 2);
    assert_eq!(Arc::new(client.clone()).shared(1, 2).await.as_deref(), Ok("b!12"));
    let _ = Arc::new(client.clone()).shared_entry(1, 2);
    assert_eq!(client.clone().owned(1).await.as_deref(), Ok("b!!1"));
    let _ = client.clone().owned_entry(1);
    assert_eq!(Client::<u8>::associated(1, 2).await.as_deref(), Ok("12"));
    let _ = Client::<u8>::associated_entry(1, 2);
    assert_eq!(client.payment(1, 2).await.as_deref(), Ok("b!12"));
    assert_eq!(client.default(1, 2).await.as_deref(), Ok("12"));
}
