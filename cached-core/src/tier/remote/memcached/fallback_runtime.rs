//! A runtime of the library's own, for futures whose runtime has ended or stands still: a fill that was under way
//! when `main` returned, or a lease that its fetch still held.
//!
//! It runs on a thread of its own. The ending runtime waits for its futures, for a short time. So a program that ends
//! without [`flush`](crate::Cache::flush) leaves its values in memcached, and no lease that the next program would
//! wait for. A program that is killed, or calls `std::process::exit`, runs none of this: its leases end within 2 s.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::join::BoxedFuture;
use crate::sync::lock;

/// How long the end of a runtime is held up for all of its futures together.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Runtimes that end further apart than this have a [`MAX_WAIT`] each.
const WAIT_RESETS_AFTER: Duration = Duration::from_secs(10);

/// The thread of this process, with the process's id: a child after `fork` starts its own.
static THREAD: Mutex<Option<(u32, UnboundedSender<FallbackJob>)>> = Mutex::new(None);

/// When the end of a runtime was last held up, and for how long in all.
static LAST_WAIT: Mutex<Option<(Instant, Duration)>> = Mutex::new(None);

struct FallbackJob {
    future: BoxedFuture<'static, ()>,
    /// Dropped when the future is done; [`finish`] waits for that.
    _done: Option<Sender<()>>,
}

/// Runs a future on the thread. Returns false if there is no thread.
pub(super) fn spawn(future: BoxedFuture<'static, ()>) -> bool {
    thread().is_some_and(|thread| thread.send(FallbackJob { future, _done: None }).is_ok())
}

/// Runs futures on the thread, and waits for them for a short time. Drops them if there is no thread.
pub(super) fn finish(futures: Vec<BoxedFuture<'static, ()>>) {
    if futures.is_empty() {
        return;
    }
    let (sender, done) = channel();
    let Some(thread) = thread() else { return };
    for future in futures {
        // A thread that has ended drops the future.
        let _ = thread.send(FallbackJob { future, _done: Some(sender.clone()) });
    }
    drop(sender);
    wait(&done);
}

/// Waits until every sender is dropped, or the runtime has been held up for [`MAX_WAIT`] in all.
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

/// Returns the way to the thread, and starts it if this process has none.
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
