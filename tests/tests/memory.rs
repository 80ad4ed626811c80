//! Tests how much memory an entry of the local tier takes, compared with an entry of a moka cache.
//!
//! The local tier has its own hash table, and uses moka to decide which entries to evict. The test
//! counts allocated bytes in a process of its own, because moka can free the memory of another
//! test's cache at any time.
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

/// Returns a payment number with this many digits and without spare capacity.
fn number_of(number: usize, digits: usize) -> String {
    format!("payment-{number:0digits$}").into_boxed_str().into_string()
}

#[test]
fn an_entry_needs_little_more_than_in_moka() {
    for digits in [6, 60] {
        // The local tier adds its entries to moka only after they fill half of the capacity.
        for is_filling in [true, false] {
            let alone = bytes_in_moka(digits, is_filling);
            let most = if is_filling { alone + 96 } else { alone * 3 / 4 };
            let ours = bytes_in_our_cache(digits, is_filling);
            println!("{digits} digits, filling: {is_filling}: {ours}, moka alone {alone}");
            assert!(ours <= most, "at most {most} bytes an entry: {ours}, moka alone {alone}");
        }
    }
}

const ENTRIES: usize = 52_000;
/// The number of entries before the measurement. It is chosen so that no table grows during the
/// measurement.
///
/// The local tier keeps its entries in a hash table of the crate papaya, which has 262,144 places
/// here. The table grows when a search takes too long, and this depends on the hash's random seed.
/// With three quarters of the places in use, the table had grown in one measurement of three. Each
/// of moka's 64 segments has 4,096 places.
const ENTRIES_BEFORE: usize = 128_000;

/// Returns the capacity of a cache. With `is_filling`, the entries before the measurement use more
/// than half of the capacity.
fn capacity(digits: usize, is_filling: bool) -> u64 {
    let all = (ENTRIES_BEFORE + ENTRIES + ENTRIES / 2) * (620 + 2 * digits);
    if is_filling { all as u64 } else { 1 << 30 }
}

fn bytes_an_entry(measured: allocation_counter::AllocationInfo) -> i64 {
    measured.bytes_current / ENTRIES as i64
}

fn bytes_in_our_cache(digits: usize, is_filling: bool) -> i64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the runtime starts");
    let call_all = async |cache: &Cache, numbers: Range<usize>| {
        for number in numbers {
            let number = number_of(number, digits);
            cache.scope(payment(&number, 1)).await.expect("the call succeeds");
        }
    };
    let cache = runtime.block_on(async {
        let cache = Cache::builder().local_capacity(capacity(digits, is_filling)).build().await;
        let cache = cache.expect("the settings are valid");
        if is_filling {
            call_all(&cache, 0..ENTRIES_BEFORE).await;
            // The local tier needs up to a second to add all entries to moka.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        cache
    });
    let measured = measure(|| {
        runtime.block_on(async {
            call_all(&cache, 1_000_000..1_000_000 + ENTRIES).await;
            // moka postpones a part of its work until later calls.
            tokio::time::sleep(Duration::from_millis(500)).await;
            call_all(&cache, 1_000_000..1_000_000 + ENTRIES).await;
        });
    });
    let held = cache.stats().get("payment").expect("the function was called").fetches;
    assert_eq!(held as usize, ENTRIES + if is_filling { ENTRIES_BEFORE } else { 0 });
    std::mem::forget(cache);
    bytes_an_entry(measured)
}

/// Measures moka with keys as long as the encoded keys of the library, and with the same values.
fn bytes_in_moka(digits: usize, is_filling: bool) -> i64 {
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
    insert(0..if is_filling { ENTRIES_BEFORE } else { 0 });
    let measured = measure(|| insert(1_000_000..1_000_000 + ENTRIES));
    std::mem::forget(moka);
    bytes_an_entry(measured)
}
