//! A program that uses the cache and then forks, as a pre-forking server does. The child process
//! prints how many milliseconds its calls took.
//!
//! The variable `CHILD` selects what the child calls.
//!
//! With `holds`, the default, the child starts a call that fetches, and stops polling this call.
//! Then it makes a second call with the same key.
//!
//! With `inherits`, the child makes calls with a key that a thread of the parent was fetching when
//! the process forked.
//!
//! With `flushes`, memcached is suspended, and a write of the parent is under way when the process
//! forks. The child resumes memcached, makes a call, and then calls `Cache::flush`.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Memcached, poll_once};
use fork::Fork;

static FETCHES: AtomicU32 = AtomicU32::new(0);

/// How long a fetch takes, in milliseconds.
static FETCH_MILLIS: AtomicU64 = AtomicU64::new(20);

#[coordinator_cached(name = "page", version = edition)]
async fn page(edition: u32) -> Result<u32, String> {
    tokio::time::sleep(Duration::from_millis(FETCH_MILLIS.load(Ordering::SeqCst))).await;
    Ok(FETCHES.fetch_add(1, Ordering::SeqCst) + edition)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Makes two concurrent calls, so that one call waits for the other's fetch.
fn use_the_cache() -> std::io::Result<()> {
    runtime()?.block_on(async {
        let (first, second) = tokio::join!(page(1), page(1));
        assert_eq!(first, second);
    });
    Ok(())
}

/// Starts a fetch on another thread and returns before the fetch ends.
fn begin_a_long_fetch() -> std::io::Result<()> {
    FETCH_MILLIS.store(60_000, Ordering::SeqCst);
    let runtime = runtime()?;
    std::thread::spawn(move || runtime.block_on(page(2)));
    std::thread::sleep(Duration::from_millis(100));
    FETCH_MILLIS.store(20, Ordering::SeqCst);
    Ok(())
}

fn child_that_inherits() -> std::io::Result<()> {
    let began = Instant::now();
    runtime()?.block_on(async {
        let longest = Duration::from_secs(10);
        // The child makes two calls at once, so that one of them waits for the other's fetch.
        let both = async { tokio::join!(page(2), page(2)) };
        let (first, second) =
            tokio::time::timeout(longest, both).await.map_err(std::io::Error::other)?;
        if first != second {
            return Err(std::io::Error::other("both calls have fetched"));
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

/// Installs a cache that uses memcached, and starts a fetch. Suspends the server before it can
/// confirm that it has stored the value.
fn begin_a_long_write() -> std::io::Result<Memcached> {
    let memcached = Memcached::start();
    let runtime = runtime()?;
    let builder = Cache::builder().memcached([memcached.address()]);
    let cache = runtime.block_on(builder.remote_timeout(Duration::from_secs(8)).build());
    cache.map_err(std::io::Error::other)?.install().map_err(std::io::Error::other)?;
    FETCH_MILLIS.store(200, Ordering::SeqCst);
    std::thread::spawn(move || {
        runtime.block_on(async {
            let _ = page(1).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
        });
    });
    // After 100 ms the call has read memcached and is still fetching.
    std::thread::sleep(Duration::from_millis(100));
    memcached.suspend();
    std::thread::sleep(Duration::from_millis(300));
    Ok(memcached)
}

fn child_that_flushes(memcached: &Memcached) -> std::io::Result<()> {
    memcached.resume();
    let began = Instant::now();
    runtime()?.block_on(async {
        page(2).await.map_err(std::io::Error::other)?;
        Cache::current().flush().await;
        Ok::<_, std::io::Error>(())
    })?;
    println!("{}", began.elapsed().as_millis());
    Ok(())
}

fn fork_during_a_write() -> std::io::Result<()> {
    let memcached = begin_a_long_write()?;
    match fork::fork()? {
        Fork::Child => {
            let ended = child_that_flushes(&memcached);
            // Dropping `memcached` would kill the server, which the parent still uses.
            std::mem::forget(memcached);
            ended
        }
        Fork::Parent(process) => wait_for(process),
    }
}

fn wait_for(process: i32) -> std::io::Result<()> {
    match fork::waitpid(process)? {
        0 => Ok(()),
        status => Err(std::io::Error::other(format!("the child ended with {status}"))),
    }
}

fn fork_after_calls(inherits: bool) -> std::io::Result<()> {
    use_the_cache()?;
    if inherits {
        begin_a_long_fetch()?;
    }
    match fork::fork()? {
        Fork::Child if inherits => child_that_inherits(),
        Fork::Child => child_that_holds(),
        Fork::Parent(process) => wait_for(process),
    }
}

fn main() -> ExitCode {
    let ended = match std::env::var("CHILD").as_deref() {
        Ok("flushes") => fork_during_a_write(),
        child => fork_after_calls(child == Ok("inherits")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
