//! Keys whose expressions use names that resemble parameters, or items in a block, and types that
//! bind lifetimes.
#![deny(warnings)]

use std::marker::PhantomData;

use cached_core::coordinator_cached;

fn number_key(number: u32) -> u32 {
    number
}

fn hash(hasher: u32) -> u32 {
    hasher
}

#[coordinator_cached(name = "called", version = day, identifier = number_key(number))]
async fn called(number: u32, day: u8) -> Option<u32> {
    Some(number + u32::from(day))
}

#[coordinator_cached(name = "shorter", version = day, identifier = hash(hasher))]
async fn shorter(hasher: u32, day: u8) -> Option<u32> {
    Some(hasher + u32::from(day))
}

#[coordinator_cached(name = "block", version = day, identifier = {
    use std::fmt::Write as _;
    fn twice(number: u32) -> u32 {
        number * 2
    }
    let mut text = String::new();
    let _ = write!(text, "{}", twice(number));
    debug_assert!(!text.is_empty());
    (number, text)
})]
async fn block(number: u32, day: u8) -> Option<u32> {
    Some(number + u32::from(day))
}

type Transform = dyn Fn(&u8) -> &u8 + Send + Sync;

/// The companion's return type shows lifetimes that the types themselves bind.
#[coordinator_cached(name = "bound", version = day, entry = bound_entry)]
async fn bound(day: u8) -> Result<PhantomData<for<'a> fn(&'a u8) -> &'a u8>, Box<Transform>> {
    let _ = day;
    Ok(PhantomData)
}

#[coordinator_cached(name = "elided", version = day, entry = elided_entry)]
async fn elided(
    day: u8,
) -> Result<PhantomData<fn(&u8) -> &u8>, Box<dyn for<'a> Fn(&'a u8) + Send + Sync>> {
    let _ = day;
    Ok(PhantomData)
}

/// A function type binds its lifetimes, so the argument does not borrow.
#[coordinator_cached(
    name = "refreshed",
    version = day,
    skip(transform),
    refresh_ahead = "5m",
    overwrite(reason = "the upstream changes answers")
)]
async fn refreshed(transform: fn(&u8) -> u8, day: u8) -> Option<u8> {
    Some(transform(&day))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    assert_eq!(called(1, 2).await, Some(3));
    assert_eq!(shorter(1, 2).await, Some(3));
    assert_eq!(block(1, 2).await, Some(3));
    assert!(bound(1).await.is_ok());
    assert!(elided(1).await.is_ok());
    let _ = (bound_entry(1), elided_entry(1));
    assert_eq!(refreshed(|day| *day, 1).await, Some(1));
}
