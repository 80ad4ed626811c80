//! What an entry of the local tier takes. Alone in its program: moka frees what others of its caches
//! let go when it is their turn.
#![allow(missing_docs)]

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
    [6, 60].into_iter().for_each(takes_little_more);
}

fn takes_little_more(digits: usize) {
    const ENTRIES: usize = 50_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    // The keys as this library encodes them, and the same values.
    let ours = measure(|| {
        runtime.block_on(async {
            let cache = Cache::builder().local_capacity(1 << 30).build().await.expect("it fits");
            for number in 0..ENTRIES {
                let number = number_of(number, digits);
                cache.scope(payment(&number, 1)).await.expect("it answers");
            }
            // The store puts off a part of its work until it is asked again.
            tokio::time::sleep(Duration::from_millis(500)).await;
            for number in 0..5_000 {
                let number = number_of(number, digits);
                cache.scope(payment(&number, 1)).await.expect("it answers");
            }
            std::mem::forget(cache);
        });
    });
    let key_length = number_of(0, digits).len() + "payment".len() + 12;
    let alone = measure(|| {
        let moka: moka::sync::Cache<Arc<[u8]>, Arc<Payment>> = moka::sync::Cache::builder()
            .max_capacity(1 << 30)
            .weigher(|key: &Arc<[u8]>, _| key.len() as u32)
            .time_to_live(Duration::from_secs(30 * 60))
            .build();
        for number in 0..ENTRIES {
            let mut key = vec![0; key_length];
            key[..8].copy_from_slice(&number.to_be_bytes());
            let value = Payment { number: number_of(number, digits), cents: 1999 };
            moka.insert(Arc::from(key), Arc::new(value));
        }
        moka.run_pending_tasks();
        std::mem::forget(moka);
    });
    let bytes =
        |measured: allocation_counter::AllocationInfo| measured.bytes_current / ENTRIES as i64;
    let (ours, alone) = (bytes(ours), bytes(alone));
    println!("bytes an entry, {digits} digits: {ours}, moka alone {alone}");
    assert!(ours - alone <= 96, "{ours} bytes an entry, moka alone {alone}");
}
