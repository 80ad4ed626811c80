//! The future of an annotated function: its size, and whether it is `Send`.
//!
//! The attribute makes the future at most 512 bytes larger than it is without the attribute. So a
//! future that awaits many annotated functions stays small.
// Some functions here return `impl Future` on purpose, because the attribute accepts them too.
#![allow(clippy::manual_async_fn)]

use std::hint::black_box;
use std::io;

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Upstream, UpstreamDown};
use serde::{Deserialize, Serialize};

use crate::functions::{PaymentState, local_cache, payment};

/// The number of bytes by which the attribute may enlarge a future.
const MAX_GROWTH: usize = 512;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Payment {
    number: String,
    cents: u64,
    history: [u64; 8],
}

type Courses = [[u32; 32]; 8];

/// A stand-in for a network call.
async fn upstream(number: &str) -> Result<Payment, io::Error> {
    tokio::task::yield_now().await;
    Ok(Payment { number: number.to_owned(), cents: 1, history: [0; 8] })
}

/// Writes each function twice, with and without the attribute.
macro_rules! twice {
    ($($name:ident [$($option:tt)*] ($($argument:ident: $type:ty),*) -> $returned:ty $body:block)*) => {
        mod plain {
            use super::*;
            $(pub(super) async fn $name($($argument: $type),*) -> $returned $body)*
        }
        mod cached {
            use super::*;
            $(
                #[coordinator_cached($($option)*)]
                pub(super) async fn $name($($argument: $type),*) -> $returned $body
            )*
        }
    };
}

twice! {
    versioned [name = "size_versioned", version = state] (number: &str, state: u8) -> Result<Payment, io::Error> {
        let _ = state;
        upstream(number).await
    }
    whole [name = "size_whole", version = state] (number: u64, state: u8) -> u64 {
        tokio::task::yield_now().await;
        number + u64::from(state)
    }
    overwritable [
        name = "size_overwritable",
        overwrite(reason = "a test of the future's size"),
        ttl = "1m",
        cache_if = |payment| payment.cents > 0,
        local_ttl = "5s"
    ] (number: &str) -> Result<Payment, io::Error> {
        upstream(number).await
    }
    stale_if_error [name = "size_stale", version = state, stale_if_error = "1h"] (number: &str, state: u8) -> Result<Payment, io::Error> {
        let _ = state;
        upstream(number).await
    }
    dynamic_ttl [
        name = "size_ttl",
        version = state,
        ttl = std::time::Duration::from_secs(u64::from(state))
    ] (number: &str, state: u8) -> Result<Payment, io::Error> {
        let _ = state;
        upstream(number).await
    }
    own_cache [name = "size_cache", version = number, skip(cache), cache = cache] (cache: &Cache, number: &str) -> Result<Payment, io::Error> {
        let _ = cache;
        upstream(number).await
    }
    large_body [name = "size_large_body", version = state] (number: &str, state: u8) -> Result<Payment, io::Error> {
        let buffer = [state; 4096];
        let payment = upstream(number).await;
        black_box(&buffer);
        payment
    }
    owned_arguments [name = "size_owned", version = state] (number: String, region: String, course: String, state: u8) -> Result<Payment, io::Error> {
        let _ = (region, course, state);
        upstream(&number).await
    }
    large_argument [name = "size_large_argument", version = state] (courses: Courses, state: u8) -> Result<Payment, io::Error> {
        let payment = upstream("7").await;
        black_box((&courses, state));
        payment
    }
    refreshed [
        name = "size_refreshed",
        overwrite(reason = "a test of the future's size"),
        ttl = "10m",
        refresh_ahead = "2m"
    ] (number: String) -> Result<Payment, io::Error> {
        upstream(&number).await
    }
}

struct Client {
    region: String,
}

impl Client {
    async fn plain(&self, number: u64) -> Result<Payment, io::Error> {
        let number = format!("{number} in {}", self.region);
        upstream(&number).await
    }

    #[coordinator_cached(name = "size_method", version = number, identifier = self.region)]
    async fn cached(&self, number: u64) -> Result<Payment, io::Error> {
        let number = format!("{number} in {}", self.region);
        upstream(&number).await
    }
}

fn plain_desugared(number: &str) -> impl Future<Output = Result<Payment, io::Error>> + Send {
    async move { upstream(number).await }
}

#[coordinator_cached(name = "size_desugared", version = number)]
fn cached_desugared(number: &str) -> impl Future<Output = Result<Payment, io::Error>> + Send {
    async move { upstream(number).await }
}

#[test]
fn the_attribute_adds_at_most_512_bytes() {
    let cache = Cache::disabled();
    let client = Client { region: "eu".into() };
    let text = || "7".to_owned();
    macro_rules! sizes {
        ($($name:ident($($argument:expr),*)),* $(,)?) => {
            vec![$((
                stringify!($name),
                size_of_val(&plain::$name($($argument),*)),
                size_of_val(&cached::$name($($argument),*)),
            )),*]
        };
    }
    let mut sizes = sizes![
        versioned("7", 1),
        whole(7, 1),
        overwritable("7"),
        stale_if_error("7", 1),
        dynamic_ttl("7", 1),
        own_cache(&cache, "7"),
        large_body("7", 1),
        owned_arguments(text(), text(), text(), 1),
        refreshed(text()),
    ];
    sizes.push(("method", size_of_val(&client.plain(7)), size_of_val(&client.cached(7))));
    let desugared = (size_of_val(&plain_desugared("7")), size_of_val(&cached_desugared("7")));
    sizes.push(("desugared", desugared.0, desugared.1));
    // With the attribute, the future keeps two copies of an argument that is passed by value. The
    // size of the second copy is added to the limit.
    let courses = [[7; 32]; 8];
    let large = sizes![large_argument(courses, 1)][0];
    sizes.push((large.0, large.1 + size_of::<Courses>(), large.2));
    for (name, body, cached) in &sizes {
        println!(
            "{name:>16}: {body:5} without, {cached:5} with the attribute, {:+}",
            *cached as isize - *body as isize
        );
    }
    for (name, body, cached) in sizes {
        assert!(
            cached <= body + MAX_GROWTH,
            "the attribute adds at most {MAX_GROWTH} bytes to `{name}`: {cached} bytes, and {body} without it"
        );
    }
}

/// The error is neither `Send` nor `Clone`. The future is still `Send`.
#[coordinator_cached(name = "unsendable", version = number, skip(upstream))]
async fn unsendable(upstream: &Upstream, number: u32) -> Result<u32, Box<dyn std::error::Error>> {
    upstream.fetch().await.map_err(|UpstreamDown| "down")?;
    Ok(number)
}

#[tokio::test]
async fn the_future_is_send_if_the_body_is() {
    fn assert_send<T: Send>(future: T) -> T {
        future
    }
    let upstream = Upstream::default();
    let call = assert_send(unsendable(&upstream, 7));
    assert_eq!(local_cache().await.scope(call).await.ok(), Some(7));
    drop(assert_send(payment(&upstream, "7", PaymentState::Paid)));
}
