//! Writes whose runtime has ended: a fill that was under way when `main` returned, a lease that its
//! fetch still held. And those of a runtime that is not driven, as between two calls of `block_on`.
//!
//! A thread with a runtime of its own carries them out, and whoever dropped them waits for that, for a
//! short time. A program that ends without [`flush`](crate::Cache::flush) so leaves its values in
//! memcached, and no lease that the next program would wait for. A program that is killed, or calls
//! `std::process::exit`, runs none of this: its leases end by themselves within 2 s.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::background::{BackgroundWrites, QueuedWrite};
use crate::sync::lock;

/// How long a runtime's end is held up by all of its writes together.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Ends that are further apart than this have a [`LONGEST_WAIT`] each.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// How long a write waits for a runtime that may not be driven.
const OVERDUE_AFTER: Duration = Duration::from_millis(250);

/// A request to the thread.
enum Task {
    /// To carry out a write, and to drop the sender once it is done.
    Write(QueuedWrite, Sender<()>),
    /// To carry out what waits for too long.
    Watch(Weak<BackgroundWrites>),
}

/// The thread of this process, by the process's id: a child after `fork` starts its own.
static THREAD: Mutex<Option<(u32, UnboundedSender<Task>)>> = Mutex::new(None);

/// When a runtime's end was held up last, and for how long in all.
static WAITED: Mutex<Option<(Instant, Duration)>> = Mutex::new(None);

/// Carries out writes that no worker is left for, and waits for them for a short time. Without a thread
/// to be had they are dropped.
pub(super) fn carry_out(writes: VecDeque<QueuedWrite>) {
    if writes.is_empty() {
        return;
    }
    let (sender, done) = channel();
    let Some(thread) = thread() else { return };
    for write in writes {
        // A thread that has ended drops them.
        let _ = thread.send(Task::Write(write, sender.clone()));
    }
    drop(sender);
    wait(&done);
}

/// Sees to it that the writes of a runtime that may not be driven do not wait for too long. Returns false
/// without a thread to be had.
pub(super) fn watch_over(writes: &Arc<BackgroundWrites>) -> bool {
    thread().is_some_and(|thread| thread.send(Task::Watch(Arc::downgrade(writes))).is_ok())
}

/// Waits until every sender is dropped, as long as the wait is not too long in all.
fn wait(done: &Receiver<()>) {
    let began = Instant::now();
    let waited = match *lock(&WAITED) {
        Some((last, waited)) if began.saturating_duration_since(last) < FORGOTTEN_AFTER => waited,
        _ => Duration::ZERO,
    };
    let _ = done.recv_timeout(LONGEST_WAIT.saturating_sub(waited));
    let now = Instant::now();
    *lock(&WAITED) = Some((now, waited + now.saturating_duration_since(began)));
}

fn thread() -> Option<UnboundedSender<Task>> {
    let process = std::process::id();
    let mut thread = lock(&THREAD);
    if let Some((of, sender)) = &*thread
        && *of == process
    {
        return Some(sender.clone());
    }
    let (sender, writes) = unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    std::thread::Builder::new()
        .name("cached-last-words".into())
        .spawn(move || runtime.block_on(run(writes)))
        .ok()?;
    *thread = Some((process, sender.clone()));
    Some(sender)
}

async fn run(mut writes: UnboundedReceiver<Task>) {
    while let Some(task) = writes.recv().await {
        match task {
            Task::Write(write, done) => drop(tokio::spawn(async move {
                (write.write)().await;
                drop((write, done));
            })),
            Task::Watch(writes) => drop(tokio::spawn(watch(writes))),
        }
    }
}

/// Carries out overdue writes of one cache until none waits.
async fn watch(writes: Weak<BackgroundWrites>) {
    loop {
        tokio::time::sleep(OVERDUE_AFTER).await;
        let Some(writes) = writes.upgrade() else { return };
        let Some(overdue) = writes.take_overdue(OVERDUE_AFTER) else { return };
        for write in overdue {
            tokio::spawn(async move { (write.write)().await });
        }
    }
}
