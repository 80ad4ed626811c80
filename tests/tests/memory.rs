//! What an entry of the local tier takes. Alone in its program: moka frees what others of its caches
//! let go when it is their turn.
#![allow(missing_docs)]

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use cached_core::{Cache, coordinator_cached};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Payment {
    number: String,
    cents: u64,
}

#[coordinator_cached(name = "payment", version = state)]
async fn payment(number: &str, state: u8) -> Result<Arc<Payment>, std::io::Error> {
    Ok(Arc::new(Payment { number: number.to_owned(), cents: 1999 }))
}

/// A payment's number of so many digits, without room for more.
fn number_of(number: usize, digits: usize) -> String {
    format!("payment-{number:0digits$}").into_boxed_str().into_string()
}

#[test]
fn an_entry_takes_little_more_memory_than_in_moka_alone() {
    // With keys of two lengths.
    for digits in [6, 60] {
        // moka knows of the entries where more than half of the room is taken.
        for is_filling in [true, false] {
            let (ours, alone) = (ours(digits, is_filling), in_moka_alone(digits, is_filling));
            println!("{digits} digits, filling: {is_filling}: {ours}, moka alone {alone}");
            let most = if is_filling { alone + 96 } else { alone * 3 / 4 };
            assert!(ours <= most, "{ours} bytes an entry, moka alone {alone}");
        }
    }
}

const ENTRIES: usize = 40_000;
/// So many that no table grows twofold after them, for each entry would have a part in that.
const BEFORE: usize = 60_000;

/// Of which half is taken by what is there before.
fn capacity(digits: usize, is_filling: bool) -> u64 {
    let all = (BEFORE + ENTRIES + ENTRIES / 4) * (620 + 2 * digits);
    if is_filling { all as u64 } else { 1 << 30 }
}

fn bytes_an_entry(measured: allocation_counter::AllocationInfo) -> i64 {
    measured.bytes_current / ENTRIES as i64
}

fn ours(digits: usize, is_filling: bool) -> i64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let ask = async |cache: &Cache, numbers: Range<usize>| {
        for number in numbers {
            let number = number_of(number, digits);
            cache.scope(payment(&number, 1)).await.expect("it answers");
        }
    };
    let cache = runtime.block_on(async {
        let cache = Cache::builder().local_capacity(capacity(digits, is_filling)).build().await;
        let cache = cache.expect("it fits");
        if is_filling {
            ask(&cache, 0..BEFORE).await;
            // Until moka knows of all of them.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        cache
    });
    let measured = measure(|| {
        runtime.block_on(async {
            ask(&cache, 1_000_000..1_000_000 + ENTRIES).await;
            // moka puts off a part of its work until it is asked again.
            tokio::time::sleep(Duration::from_millis(500)).await;
            ask(&cache, 1_000_000..1_000_000 + ENTRIES).await;
        });
    });
    let held = cache.stats().get("payment").expect("it was called").fetches;
    assert_eq!(held as usize, ENTRIES + if is_filling { BEFORE } else { 0 });
    std::mem::forget(cache);
    bytes_an_entry(measured)
}

/// The keys as this library encodes them, and the same values.
fn in_moka_alone(digits: usize, is_filling: bool) -> i64 {
    let key_length = number_of(0, digits).len() + "payment".len() + 12;
    let moka: moka::sync::Cache<Arc<[u8]>, Arc<Payment>> = moka::sync::Cache::builder()
        .max_capacity(capacity(digits, is_filling))
        .weigher(move |_: &Arc<[u8]>, _| 600 + digits as u32)
        .time_to_live(Duration::from_secs(30 * 60))
        .build();
    let insert = |numbers: Range<usize>| {
        for number in numbers {
            let mut key = vec![0; key_length];
            key[..8].copy_from_slice(&number.to_be_bytes());
            let value = Payment { number: number_of(number, digits), cents: 1999 };
            moka.insert(Arc::from(key), Arc::new(value));
        }
        moka.run_pending_tasks();
    };
    insert(0..if is_filling { BEFORE } else { 0 });
    let measured = measure(|| insert(1_000_000..1_000_000 + ENTRIES));
    std::mem::forget(moka);
    bytes_an_entry(measured)
}
