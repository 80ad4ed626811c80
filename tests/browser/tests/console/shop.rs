//! The cached functions that the tests of the console call, and helpers that build caches and call
//! these functions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use cached_browser_tests::TOKEN;
use cached_core::console::Console;
use cached_core::{Cache, coordinator_cached};

/// Counts how often the bodies of `payment`, `price` and `catalogue` have run.
pub(crate) static FETCHES: AtomicU64 = AtomicU64::new(0);

/// A part of each payment number. No answer of the console may contain it.
pub(crate) const SECRET_IDENTIFIER: &str = "identifier-4711";

#[coordinator_cached(name = "payment", version = state, entry = payment_entry)]
pub(crate) async fn payment(number: &str, state: &str) -> Result<String, std::io::Error> {
    FETCHES.fetch_add(1, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(format!("the value of {number} is {state}"))
}

#[coordinator_cached(
    name = "price",
    overwrite(reason = "prices change at any time and have no version"),
    ttl = "2h",
    stale_if_error = "1h"
)]
pub(crate) async fn price(course: &str) -> Result<u64, std::io::Error> {
    FETCHES.fetch_add(1, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(5)).await;
    Ok(course.len() as u64)
}

#[coordinator_cached(name = "a-name-of-forty-eight-characters.the-longest.one", version = edition, remote = false)]
pub(crate) async fn catalogue(edition: u32) -> Option<u32> {
    FETCHES.fetch_add(1, Ordering::SeqCst);
    (edition > 0).then_some(edition)
}

/// A function that tests call only while the cache is off.
#[coordinator_cached(name = "called_while_off", version = edition)]
pub(crate) async fn called_while_off(edition: u32) -> Option<u32> {
    Some(edition)
}

/// Builds a cache with these memcached servers, and with a namespace that no other cache uses.
pub(crate) async fn cache_on(servers: &[String]) -> Cache {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let namespace = format!("shop{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let cache = Cache::builder().memcached(servers.iter().map(String::as_str)).namespace(namespace);
    cache.build().await.expect("the settings are right")
}

pub(crate) async fn local_cache() -> Cache {
    Cache::builder().build().await.expect("the settings are right")
}

/// Returns the routes of a program that has the console at `/_cache`. The console demands the
/// token.
pub(crate) fn console_router(cache: &Cache) -> Router {
    let console = Console::new(cache.clone()).token(TOKEN).router();
    Router::new().nest_service("/_cache", console)
}

/// Calls `payment`, `price` and `catalogue`, each `times` times. Most of the calls are hits,
/// because the calls use only a few keys.
pub(crate) async fn make_calls(cache: &Cache, times: usize) {
    cache
        .scope(async {
            for turn in 0..times {
                let number = format!("{SECRET_IDENTIFIER}-{}", turn % 7);
                payment(&number, "paid").await.expect("the fetch succeeds");
                price(["rust", "sql", "drawing"][turn % 3]).await.expect("the fetch succeeds");
                catalogue(1 + turn as u32 % 2).await.expect("the fetch succeeds");
            }
        })
        .await;
}

// ------------------------------------------------------------------------------ for the screenshots

#[coordinator_cached(name = "course", version = edition, ttl = "2h")]
async fn course(id: u64, edition: u8) -> Result<String, std::io::Error> {
    tokio::time::sleep(Duration::from_millis(9)).await;
    Ok(format!("course {id}, edition {edition}").repeat(20))
}

#[coordinator_cached(name = "order", version = revision)]
async fn order(number: u64, revision: u8) -> Result<String, std::io::Error> {
    tokio::time::sleep(Duration::from_millis(12)).await;
    Ok(format!("order {number}, revision {revision}"))
}

#[coordinator_cached(
    name = "profile",
    overwrite(reason = "users edit their profile during checkout, and it carries no version"),
    ttl = "10m",
    local_ttl = "5s",
    stale_if_error = "1h"
)]
async fn profile(user: u64) -> Result<String, std::io::Error> {
    tokio::time::sleep(Duration::from_millis(6)).await;
    match user % 50 {
        // The user service fails for a few users.
        49 => Err(std::io::Error::other("the user service failed")),
        _ => Ok(format!("user {user}")),
    }
}

/// Makes the calls of one checkout request. The caller opens the request scope. The results are
/// ignored.
pub(crate) async fn checkout(turn: u64) {
    let random = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let customer = turn / 30;
    let popular = (random % 97) * (random % 89) / 300;
    let number = customer.to_string();
    let state = ["created", "processing", "paid"][(turn % 30 / 10) as usize];
    let _ = tokio::join!(course(popular, 2), profile(customer));
    let _ = tokio::join!(order(customer, 1), payment(&number, state), profile(customer));
}
