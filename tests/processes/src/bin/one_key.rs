//! A program whose tasks all call one function with the same key at once. Its arguments are
//! `one_key KEY CALLERS FETCH_MILLIS`.
//!
//! The program prints `ready`, waits for a line on standard input, and makes the calls. Then it
//! prints the number of its fetches, and the distinct values that the calls returned. If
//! `FETCH_MILLIS` is the word `hang`, each fetch hangs.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cached_core::{Cache, coordinator_cached};
use serde::Serialize;

static FETCHES: AtomicUsize = AtomicUsize::new(0);

#[derive(Clone, Copy, Serialize)]
enum PaymentState {
    Paid,
}

#[coordinator_cached(name = "one_key_payment", version = state, skip(fetch_time))]
async fn payment(
    number: &str,
    state: PaymentState,
    fetch_time: Duration,
) -> Result<String, String> {
    FETCHES.fetch_add(1, Ordering::SeqCst);
    tokio::time::sleep(fetch_time).await;
    Ok(format!("{number} fetched by {}", std::process::id()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [_, number, callers, fetch_time] = &std::env::args().collect::<Vec<_>>()[..] else {
        return Err("usage: CACHE_URL=… one_key KEY CALLERS FETCH_MILLIS|hang".into());
    };
    let fetch_time = match fetch_time.as_str() {
        "hang" => Duration::from_secs(3600),
        millis => Duration::from_millis(millis.parse()?),
    };
    let cache = Cache::from_env().await?;
    cache.install()?;
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    let calls: Vec<_> = (0..callers.parse()?)
        .map(|_| {
            let number = number.clone();
            tokio::spawn(async move { payment(&number, PaymentState::Paid, fetch_time).await })
        })
        .collect();
    let mut values = BTreeSet::new();
    for call in calls {
        values.insert(call.await??);
    }
    cache.flush().await;
    let values: Vec<_> = values.into_iter().collect();
    println!("{} {}", FETCHES.load(Ordering::SeqCst), values.join("|"));
    Ok(())
}
