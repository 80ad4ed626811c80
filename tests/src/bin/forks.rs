//! A program that uses the cache and then forks, as a pre-forking server does. The program prints how
//! many milliseconds the child's call took.
//!
//! `CHILD` says what the child calls: `holds` (the default), a function whose leader is held unpolled by
//! the very task that waits for it; or `inherits`, a function that another thread was fetching when the
//! process forked.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cached_core::coordinator_cached;
use cached_tests::poll_once;
use fork::Fork;

static FETCHES: AtomicU32 = AtomicU32::new(0);

/// How long a fetch takes.
static TAKES_MS: AtomicU64 = AtomicU64::new(20);

#[coordinator_cached(name = "page", version = edition)]
async fn page(edition: u32) -> Result<u32, String> {
    tokio::time::sleep(Duration::from_millis(TAKES_MS.load(Ordering::SeqCst))).await;
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

/// Begins a fetch on a thread of its own, and returns while it is under way.
fn begin_a_long_fetch() -> std::io::Result<()> {
    TAKES_MS.store(60_000, Ordering::SeqCst);
    let runtime = runtime()?;
    std::thread::spawn(move || runtime.block_on(page(2)));
    std::thread::sleep(Duration::from_millis(100));
    TAKES_MS.store(20, Ordering::SeqCst);
    Ok(())
}

fn child_that_inherits() -> std::io::Result<()> {
    let began = Instant::now();
    runtime()?.block_on(async {
        let longest = Duration::from_secs(10);
        // Two at once: the child's own flights have followers.
        let both = async { tokio::join!(page(2), page(2)) };
        let (first, second) =
            tokio::time::timeout(longest, both).await.map_err(std::io::Error::other)?;
        if first != second {
            return Err(std::io::Error::other("each has fetched"));
        }
        first.map_err(std::io::Error::other)
    })?;
    println!("{}", began.elapsed().as_millis());
    Ok(())
}

fn child_that_holds() -> std::io::Result<()> {
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
    let inherits = std::env::var("CHILD").as_deref() == Ok("inherits");
    let begun = use_the_cache().and_then(|()| if inherits { begin_a_long_fetch() } else { Ok(()) });
    let ended = begun.and_then(|()| match fork::fork()? {
        Fork::Child if inherits => child_that_inherits(),
        Fork::Child => child_that_holds(),
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
