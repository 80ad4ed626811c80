//! A tokio runtime that belongs to this library. It finishes background writes that the program's
//! own runtime can no longer run, for example a write that was under way when `main` returned.
//!
//! The fallback runtime runs on its own thread. When a runtime of the program shuts down, it hands
//! its unfinished writes over to the fallback runtime, and waits a short time for them. A program
//! that ends without [`flush`](crate::Cache::flush) therefore usually still stores its values in
//! memcached, and gives back its leases. (A *lease* is the right to fetch a missing value, which
//! memcached grants to one process.) If a program is killed or calls `std::process::exit`, its
//! writes are lost, and its leases expire after a few seconds.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::run_all::BoxedFuture;
use crate::sync::lock;

/// A runtime that shuts down waits at most this long for the futures that it has handed over.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// A shutdown gets a full [`MAX_WAIT`] if the previous shutdown's wait ended at least this long
/// ago. Otherwise it gets only what the recent waits have left.
const WAIT_RESETS_AFTER: Duration = Duration::from_secs(10);

/// The channel to the fallback thread, and the id of the process that started the thread. After a
/// `fork`, the child process starts its own thread.
static THREAD: Mutex<Option<(u32, UnboundedSender<FallbackJob>)>> = Mutex::new(None);

/// The time at which a shutdown last waited, and the total length of the recent waits.
static LAST_WAIT: Mutex<Option<(Instant, Duration)>> = Mutex::new(None);

struct FallbackJob {
    future: BoxedFuture<'static, ()>,
    /// Dropped when the future is done. [`finish`] waits until all clones of the sender are
    /// dropped.
    _done: Option<Sender<()>>,
}

/// Runs a future on the fallback thread. Returns false if the thread cannot be started.
pub(super) fn spawn(future: BoxedFuture<'static, ()>) -> bool {
    thread().is_some_and(|thread| thread.send(FallbackJob { future, _done: None }).is_ok())
}

/// Runs futures on the fallback thread, and waits a short time for them to finish. Drops the
/// futures if the thread cannot be started.
pub(super) fn finish(futures: Vec<BoxedFuture<'static, ()>>) {
    if futures.is_empty() {
        return;
    }
    let (sender, done) = channel();
    let Some(thread) = thread() else { return };
    for future in futures {
        // If the thread has ended, the future is dropped.
        let _ = thread.send(FallbackJob { future, _done: Some(sender.clone()) });
    }
    drop(sender);
    wait(&done);
}

/// Waits until every sender is dropped. Together with the recent waits, this wait takes at most
/// [`MAX_WAIT`].
fn wait(done: &Receiver<()>) {
    let began = Instant::now();
    let waited = match *lock(&LAST_WAIT) {
        Some((last, waited)) if began.saturating_duration_since(last) < WAIT_RESETS_AFTER => waited,
        _ => Duration::ZERO,
    };
    let _ = done.recv_timeout(MAX_WAIT.saturating_sub(waited));
    let now = Instant::now();
    *lock(&LAST_WAIT) = Some((now, waited + now.saturating_duration_since(began)));
}

/// Returns the channel to the fallback thread. Starts the thread if this process has none.
fn thread() -> Option<UnboundedSender<FallbackJob>> {
    let process = std::process::id();
    let mut thread = lock(&THREAD);
    if let Some((owner, sender)) = &*thread
        && *owner == process
    {
        return Some(sender.clone());
    }
    let (sender, jobs) = unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    std::thread::Builder::new()
        .name("cached-fallback".into())
        .spawn(move || runtime.block_on(run(jobs)))
        .ok()?;
    *thread = Some((process, sender.clone()));
    Some(sender)
}

async fn run(mut jobs: UnboundedReceiver<FallbackJob>) {
    while let Some(FallbackJob { future, _done }) = jobs.recv().await {
        tokio::spawn(async move {
            future.await;
            drop(_done);
        });
    }
}
