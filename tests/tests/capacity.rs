//! `local_capacity` bounds the memory that entries take, whatever is in them. Each kind of value fills a cache of
//! its own process, so that no memory is used again that another kind has freed.
#![allow(missing_docs)]

use std::collections::{BTreeMap, HashMap};
use std::process::Command;
use std::sync::Arc;

use cached_core::{Cache, coordinator_cached};
use cached_tests::Memcached;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const CAPACITY: u64 = 8 << 20;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Payment {
    number: String,
    cents: u64,
    note: Option<String>,
    lines: Vec<(u32, u16)>,
}

#[coordinator_cached(name = "filled", version = number, skip(make))]
async fn filled<T>(make: fn(u64) -> T, number: u64) -> Result<T, ()>
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    Ok(make(number))
}

/// Returns the memory that this process has resident, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it is listed");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

/// Fills a cache with more than it can hold, and prints how much of its capacity it takes.
fn fill<T>(entries: u64, make: fn(u64) -> T)
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let cache = Cache::builder().local_capacity(CAPACITY).build().await.expect("it fits");
        let before = resident();
        cache
            .scope(async {
                for number in 0..entries {
                    filled(make, number).await.expect("it is made");
                }
            })
            .await;
        println!("PERCENT {}", (resident() - before) * 100 / CAPACITY);
        drop(cache);
    });
}

fn text(number: u64, length: usize) -> String {
    format!("{number:0length$}").into_boxed_str().into_string()
}

fn small_numbers(number: u64) -> Vec<u64> {
    (0..100).map(|index| (number + index) % 100).collect()
}

fn nested_maps(number: u64) -> BTreeMap<String, HashMap<u32, u64>> {
    let inner = |key: u64| (0..10).map(|index| (index, number + key)).collect();
    (0..10).map(|key| (text(number + key, 16), inner(key))).collect()
}

fn payment(number: u64) -> Arc<Payment> {
    let lines = (0..8).map(|line| (line, 1)).collect();
    Arc::new(Payment { number: text(number, 12), cents: 1, note: Some(text(number, 40)), lines })
}

const KINDS: [(&str, fn()); 7] = [
    ("a number", || fill(120_000, |number| number % 100)),
    ("small numbers", || fill(40_000, small_numbers)),
    ("bytes", || fill(8_000, |number| vec![number as u8; 5000])),
    ("a text", || fill(80_000, |number| text(number, 100))),
    ("texts", || fill(20_000, |number| (0..20).map(|n| text(number + n, 30)).collect::<Vec<_>>())),
    ("nested maps", || fill(8_000, nested_maps)),
    ("a payment", || fill(80_000, payment)),
];

#[test]
fn entries_take_about_as_much_memory_as_the_capacity_says() {
    const KIND: &str = "CACHED_CAPACITY_KIND";
    const NAME: &str = "entries_take_about_as_much_memory_as_the_capacity_says";
    if let Ok(kind) = std::env::var(KIND) {
        let fill = KINDS.iter().find(|(name, _)| *name == kind).expect("a kind").1;
        return fill();
    }
    let mut wrong = Vec::new();
    for (kind, _) in KINDS {
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

/// Calls the function for many numbers, and returns how many of the next calls the local tier answers.
async fn kept(cache: &Cache) -> u64 {
    let hits = || cache.stats().get("weighed").map_or(0, |stats| stats.local_hits);
    let calls = async {
        for number in 0..100 {
            weighed(number).await.expect("it is made");
        }
    };
    cache.scope(calls).await;
    // moka makes room when it is asked, and a while later.
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    let before = hits();
    let calls = async {
        for number in 0..100 {
            weighed(number).await.expect("it is made");
        }
    };
    cache.scope(calls).await;
    hits() - before
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
