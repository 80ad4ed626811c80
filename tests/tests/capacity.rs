//! `local_capacity` bounds the memory that entries take, whatever is in them. Each kind of value fills a cache of
//! its own process, so that no memory is used again that another kind has freed.
#![allow(missing_docs)]

#[path = "capacity/kinds.rs"]
mod kinds;

use std::process::Command;

use cached_core::{Cache, Tier, coordinator_cached};
use cached_tests::Memcached;

use kinds::KINDS;

const CAPACITY: u64 = 8 << 20;

#[test]
fn entries_take_about_as_much_memory_as_the_capacity_says() {
    const KIND: &str = "CACHED_CAPACITY_KIND";
    const NAME: &str = "entries_take_about_as_much_memory_as_the_capacity_says";
    if let Ok(kind) = std::env::var(KIND) {
        let grown = KINDS.iter().find(|(name, _)| *name == kind).expect("a kind").1;
        println!("PERCENT {}", grown(CAPACITY) * 100 / CAPACITY);
        return;
    }
    let mut wrong = Vec::new();
    // The store makes room late, and eighty values of 100 KiB fill this cache.
    for (kind, _) in KINDS.into_iter().filter(|(kind, _)| *kind != "byte vectors of 100 KiB") {
        let mut child = Command::new(std::env::current_exe().expect("it runs"));
        let output = child.args([NAME, "--exact", "--nocapture"]).env(KIND, kind).output();
        let output = String::from_utf8(output.expect("it ran").stdout).expect("UTF-8");
        let percent = output.split_once("PERCENT ").and_then(|(_, rest)| rest.lines().next());
        let percent: u64 = percent.and_then(|number| number.parse().ok()).expect(&output);
        println!("{kind}: {percent} % of the capacity");
        if !(70..=135).contains(&percent) {
            wrong.push((kind, percent));
        }
    }
    assert!(wrong.is_empty(), "in percent of the capacity: {wrong:?}");
}

#[coordinator_cached(name = "weighed", version = number, weight = |_| 100 << 10, entry = weighed_entry)]
async fn weighed(number: u64) -> Result<u64, ()> {
    Ok(number)
}

/// Calls the function for many numbers, and returns how many of them the local tier has.
async fn kept(cache: &Cache) -> u64 {
    let calls = async {
        for number in 0..100 {
            weighed(number).await.expect("it is made");
        }
    };
    cache.scope(calls).await;
    // moka makes room when it is asked, and a while later.
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    let mut kept = 0;
    for number in 0..100 {
        let found = cache.scope(async move { weighed_entry(number).get().await }).await;
        kept += u64::from(found.tier() == Some(Tier::Local));
    }
    kept
}

#[tokio::test]
async fn a_value_weighs_what_its_function_says_wherever_it_comes_from() {
    let memcached = Memcached::start();
    let process = || Cache::builder().local_capacity(1 << 20).memcached([memcached.address()]);
    let fetches = process().build().await.expect("it fits");
    let hits = kept(&fetches).await;
    assert!((1..=12).contains(&hits), "they were fetched, and {hits} of them are kept");
    fetches.flush().await;
    let reads = process().build().await.expect("it fits");
    let hits = kept(&reads).await;
    assert!((1..=12).contains(&hits), "they were read in memcached, and {hits} of them are kept");
    let stats = reads.stats().get("weighed").expect("it was called");
    assert_eq!(stats.fetches, 0);

    let adds = Cache::builder().local_capacity(1 << 20).build().await.expect("it fits");
    let add = async {
        for number in 0..100 {
            weighed_entry(number).add(number).await;
        }
    };
    adds.scope(add).await;
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    let mut found = 0;
    for number in 0..100 {
        found += u64::from(
            adds.scope(async move { weighed_entry(number).get().await.is_found() }).await,
        );
    }
    assert!((1..=12).contains(&found), "they were added, and {found} of them are kept");
}
