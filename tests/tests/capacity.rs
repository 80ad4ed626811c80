//! Tests that the setting `local_capacity` bounds the memory of cache entries, whatever kind of
//! value they hold.
//!
//! These tests run in a process of their own because they measure memory. For each kind of value, a
//! child process of its own fills a cache. Otherwise, a cache could reuse memory that an earlier
//! cache has freed.
#![allow(missing_docs)]

#[path = "capacity/kinds.rs"]
mod kinds;

use std::process::Command;

use cached_core::{Cache, Tier, coordinator_cached};
use cached_tests::Memcached;

use kinds::KINDS;

const CAPACITY: u64 = 8 << 20;

#[test]
fn entries_use_about_the_configured_capacity() {
    const KIND: &str = "CACHED_CAPACITY_KIND";
    const NAME: &str = "entries_use_about_the_configured_capacity";
    if let Ok(kind) = std::env::var(KIND) {
        let grown = KINDS.iter().find(|(name, _)| *name == kind).expect("the kind is known").1;
        println!("PERCENT {}", grown(CAPACITY) * 100 / CAPACITY);
        return;
    }
    let mut misfits = Vec::new();
    // The kind with the largest values is left out. Only 80 of its values fill the cache, and the
    // local tier evicts with a delay. A few values more or less would change the result too much.
    for (kind, _) in KINDS.into_iter().filter(|(kind, _)| *kind != "byte vectors of 100 KiB") {
        let mut child = Command::new(std::env::current_exe().expect("the test knows its program"));
        let output = child.args([NAME, "--exact", "--nocapture"]).env(KIND, kind).output();
        let output = String::from_utf8(output.expect("the program runs").stdout)
            .expect("the output is UTF-8");
        let percent = output.split_once("PERCENT ").and_then(|(_, rest)| rest.lines().next());
        let percent: u64 = percent.and_then(|number| number.parse().ok()).expect(&output);
        println!("{kind}: {percent} % of the capacity");
        if !(70..=135).contains(&percent) {
            misfits.push((kind, percent));
        }
    }
    assert!(misfits.is_empty(), "each kind fills 70 to 135 % of the capacity: {misfits:?}");
}

#[coordinator_cached(name = "weighed", version = number, weight = |_| 100 << 10, entry = weighed_entry)]
async fn weighed(number: u64) -> Result<u64, ()> {
    Ok(number)
}

/// Calls [`weighed`] for 100 numbers, and returns how many of the values the local tier keeps.
async fn count_kept(cache: &Cache) -> u64 {
    let calls = async {
        for number in 0..100 {
            weighed(number).await.expect("the call succeeds");
        }
    };
    cache.scope(calls).await;
    // The local tier evicts with the crate `moka`. moka evicts during later calls and only after a
    // while, so the test waits before it counts.
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    let mut kept = 0;
    for number in 0..100 {
        let found = cache.scope(async move { weighed_entry(number).get().await }).await;
        kept += u64::from(found.tier() == Some(Tier::Local));
    }
    kept
}

#[tokio::test]
async fn the_weight_option_holds_for_every_origin() {
    let memcached = Memcached::start();
    let builder = || Cache::builder().local_capacity(1 << 20).memcached([memcached.address()]);
    let fetching_cache = builder().build().await.expect("the settings are valid");
    let kept = count_kept(&fetching_cache).await;
    assert!((1..=12).contains(&kept), "about ten fetched values are kept: {kept} of 100");
    fetching_cache.flush().await;
    let reading_cache = builder().build().await.expect("the settings are valid");
    let kept = count_kept(&reading_cache).await;
    assert!((1..=12).contains(&kept), "about ten values from memcached are kept: {kept} of 100");
    let stats = reading_cache.stats().get("weighed").expect("the function was called");
    assert_eq!(stats.fetches, 0);

    let adding_cache =
        Cache::builder().local_capacity(1 << 20).build().await.expect("the settings are valid");
    let add = async {
        for number in 0..100 {
            weighed_entry(number).add(number).await;
        }
    };
    adding_cache.scope(add).await;
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    let mut found = 0;
    for number in 0..100 {
        found += u64::from(
            adding_cache.scope(async move { weighed_entry(number).get().await.is_found() }).await,
        );
    }
    assert!((1..=12).contains(&found), "about ten added values are kept: {found} of 100");
}
