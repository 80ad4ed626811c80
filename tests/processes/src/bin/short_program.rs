//! A program that calls one cached function and ends without flushing the cache. The program prints
//! how the call was answered, and how many milliseconds the call took.
//!
//! Three environment variables control the program:
//!
//! - `FETCH_MS` sets how many milliseconds the fetch takes.
//! - `RUNTIME=current_thread` selects a runtime with one thread. The default has several threads.
//! - `END=gives_up` cancels the call after 20 ms. `END=aborts` aborts the process during the fetch.
//!   By default the call returns.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};

static FETCHED: AtomicBool = AtomicBool::new(false);

#[coordinator_cached(name = "report", version = edition)]
async fn report(edition: u32) -> Result<String, String> {
    FETCHED.store(true, Ordering::SeqCst);
    let fetch_millis = std::env::var("FETCH_MS").ok().and_then(|ms| ms.parse().ok()).unwrap_or(50);
    tokio::time::sleep(Duration::from_millis(fetch_millis)).await;
    if std::env::var("END").as_deref() == Ok("aborts") {
        std::process::abort();
    }
    Ok(format!("report, edition {edition}"))
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    Cache::from_env().await?.install()?;
    let began = Instant::now();
    let gives_up = std::env::var("END").as_deref() == Ok("gives_up");
    let longest = Duration::from_millis(if gives_up { 20 } else { 60_000 });
    let answer = tokio::time::timeout(longest, report(7)).await;
    let how = match answer {
        Err(_) => "gave-up",
        Ok(answer) => {
            assert_eq!(answer?, "report, edition 7");
            if FETCHED.load(Ordering::SeqCst) { "fetched" } else { "hit" }
        }
    };
    println!("{how} {}", began.elapsed().as_millis());
    Ok(())
}

fn main() -> ExitCode {
    let mut builder = match std::env::var("RUNTIME").as_deref() {
        Ok("current_thread") => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let ended = builder.enable_all().build().map_err(Into::into).and_then(|r| r.block_on(run()));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
