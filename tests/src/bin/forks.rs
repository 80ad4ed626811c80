//! A program that uses the cache and then forks, as a pre-forking server does. The child calls a
//! function whose leader is held unpolled by the very task that waits for it. The program prints how
//! many milliseconds the child's call took.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cached_core::coordinator_cached;
use cached_tests::poll_once;
use fork::Fork;

static FETCHES: AtomicU32 = AtomicU32::new(0);

#[coordinator_cached(name = "page", version = edition)]
async fn page(edition: u32) -> Result<u32, String> {
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(FETCHES.fetch_add(1, Ordering::SeqCst) + edition)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Calls the function twice at once, so that there is somebody who waits.
fn use_the_cache() -> std::io::Result<()> {
    runtime()?.block_on(async {
        let (first, second) = tokio::join!(page(1), page(1));
        assert_eq!(first, second);
    });
    Ok(())
}

fn child() -> std::io::Result<()> {
    let began = Instant::now();
    runtime()?.block_on(async {
        let mut held = std::pin::pin!(page(2));
        assert!(poll_once(held.as_mut()).await.is_none());
        let longest = Duration::from_secs(10);
        let answer = tokio::time::timeout(longest, page(2)).await;
        answer.map_err(std::io::Error::other)?.map_err(std::io::Error::other)
    })?;
    println!("{}", began.elapsed().as_millis());
    Ok(())
}

fn main() -> ExitCode {
    let ended = use_the_cache().and_then(|()| match fork::fork()? {
        Fork::Child => child(),
        Fork::Parent(process) => match fork::waitpid(process)? {
            0 => Ok(()),
            status => Err(std::io::Error::other(format!("the child ended with {status}"))),
        },
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
