//! Writes that nobody waits for: fills, and leases that are given back.
//!
//! They wait in one queue, bounded by its bytes, and a bounded number of workers carry them out. So a
//! burst of fills waits for its turn and is not lost. A worker is a task of the runtime that queued a
//! write. When that runtime ends before the write is done, as at the end of `main`, the write is begun
//! again by the workers of another runtime or, where there is none, by [`orphaned_writes`].

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id, RuntimeFlavor};
use tokio::sync::Notify;

use super::join::{BoxedFuture, join_all};
use super::orphaned_writes;
use crate::sync::lock;

/// Workers of a runtime that carry writes out at once, and the most writes that one has under way. Each
/// runtime has its own: those of a runtime that nobody drives would keep the others from writing.
const MOST_WORKERS: usize = 64;
const MOST_AT_ONCE: usize = 128;
/// Writes of more bytes than this are not queued.
const MOST_QUEUED_BYTES: usize = 64 << 20;
/// The memory that a queued write takes beside its value.
const WRITE_BYTES: usize = 512;

/// A write. It may be begun again after it was begun elsewhere and not finished, so all that it does to
/// an entry must depend on the entry's CAS.
pub(crate) type BackgroundWrite = Box<dyn Fn() -> BoxedFuture<'static, ()> + Send + Sync>;

#[derive(Default)]
pub(super) struct BackgroundWrites {
    queue: Mutex<Queue>,
    all_done: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<QueuedWrite>,
    /// How many workers each runtime has, if it has any.
    workers: HashMap<Id, usize>,
    /// Whether writes that wait for too long are carried out elsewhere.
    is_watched: bool,
    /// The bytes and the number of the writes that are waiting or being carried out.
    bytes: usize,
    unfinished: usize,
}

impl Queue {
    fn remove_worker(&mut self, runtime: Id) {
        if let Some(workers) = self.workers.get_mut(&runtime) {
            *workers -= 1;
            if *workers == 0 {
                self.workers.remove(&runtime);
            }
        }
    }
}

pub(super) struct QueuedWrite {
    pub(super) write: BackgroundWrite,
    queued_at: Instant,
    bytes: usize,
    writes: Arc<BackgroundWrites>,
}

/// A write that is dropped is done, or given up.
impl Drop for QueuedWrite {
    fn drop(&mut self) {
        let is_last = {
            let mut queue = self.writes.queue();
            queue.bytes -= self.bytes;
            queue.unfinished -= 1;
            queue.unfinished == 0
        };
        if is_last {
            self.writes.all_done.notify_waiters();
        }
    }
}

impl BackgroundWrites {
    /// Queues a fill of about so many bytes. Returns false, and drops it, if the queue is full.
    pub(super) fn fill(self: &Arc<BackgroundWrites>, bytes: usize, write: BackgroundWrite) -> bool {
        let has_room = self.queue().bytes.saturating_add(bytes) <= MOST_QUEUED_BYTES;
        if has_room {
            self.run(bytes, write);
        }
        has_room
    }

    /// Queues a write that is never refused: there are no more of these than leases.
    pub(super) fn run(self: &Arc<BackgroundWrites>, bytes: usize, write: BackgroundWrite) {
        let runtime = Handle::try_current().ok();
        let bytes = bytes.saturating_add(WRITE_BYTES);
        let queued =
            QueuedWrite { write, queued_at: Instant::now(), bytes, writes: Arc::clone(self) };
        let mut queue = self.queue();
        queue.bytes += bytes;
        queue.unfinished += 1;
        queue.waiting.push_back(queued);
        match runtime {
            Some(runtime) => {
                // A runtime of one thread may end its `block_on` now and be driven no more.
                let is_watched = runtime.runtime_flavor() != RuntimeFlavor::CurrentThread
                    || std::mem::replace(&mut queue.is_watched, true);
                let workers = queue.workers.entry(runtime.id()).or_default();
                let has_room = *workers < MOST_WORKERS;
                *workers += usize::from(has_room);
                drop(queue);
                if has_room {
                    runtime.spawn(Worker::new(self, runtime.id()).run());
                }
                if !is_watched && !orphaned_writes::watch_over(self) {
                    self.queue().is_watched = false;
                }
            }
            None if queue.workers.is_empty() => {
                let waiting = std::mem::take(&mut queue.waiting);
                drop(queue);
                orphaned_writes::carry_out(waiting);
            }
            None => {}
        }
    }

    /// Takes the writes that have waited for so long, or returns `None` if none waits: then the queue is
    /// not watched any more.
    pub(super) fn take_overdue(&self, after: Duration) -> Option<Vec<QueuedWrite>> {
        let now = Instant::now();
        let mut queue = self.queue();
        if queue.waiting.is_empty() {
            queue.is_watched = false;
            return None;
        }
        let is_overdue = |write: &QueuedWrite| now.duration_since(write.queued_at) >= after;
        let count = queue.waiting.iter().take_while(|write| is_overdue(write)).count();
        Some(queue.waiting.drain(..count).collect())
    }

    /// Waits until every write is done.
    pub(super) async fn done(&self) {
        loop {
            let done = self.all_done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            if self.queue().unfinished == 0 {
                return;
            }
            done.await;
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it holds this lock.
        lock(&self.queue)
    }
}

/// Carries out writes until none waits.
struct Worker {
    writes: Arc<BackgroundWrites>,
    runtime: Id,
    /// The writes under way.
    current: Vec<QueuedWrite>,
    /// Whether the queue counts this worker.
    is_counted: bool,
}

impl Worker {
    fn new(writes: &Arc<BackgroundWrites>, runtime: Id) -> Worker {
        Worker { writes: Arc::clone(writes), runtime, current: Vec::new(), is_counted: true }
    }

    async fn run(mut self) {
        while self.take_next() {
            join_all(self.current.iter().map(|queued| (queued.write)()).collect()).await;
            self.current.clear();
        }
    }

    /// Takes what is to be written next: one write, or this worker's share of the many that wait.
    fn take_next(&mut self) -> bool {
        let mut queue = self.writes.queue();
        let share = queue.waiting.len().div_ceil(MOST_WORKERS).min(MOST_AT_ONCE);
        self.current.extend(queue.waiting.drain(..share));
        if self.current.is_empty() {
            queue.remove_worker(self.runtime);
            self.is_counted = false;
        }
        self.is_counted
    }
}

/// A worker that is dropped before it has ended was dropped by its runtime, which ends.
impl Drop for Worker {
    fn drop(&mut self) {
        if !self.is_counted {
            return;
        }
        let mut queue = self.writes.queue();
        queue.remove_worker(self.runtime);
        // A write that panicked would do so again.
        if !std::thread::panicking() {
            queue.waiting.extend(self.current.drain(..));
        }
        let left = match queue.workers.is_empty() {
            true => std::mem::take(&mut queue.waiting),
            false => VecDeque::new(),
        };
        drop(queue);
        orphaned_writes::carry_out(left);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime")
    }

    /// A write that takes so long, and is counted when it is done.
    fn write(done: &Arc<AtomicUsize>, takes: Duration) -> BackgroundWrite {
        let done = Arc::clone(done);
        Box::new(move || {
            let done = Arc::clone(&done);
            Box::pin(async move {
                tokio::time::sleep(takes).await;
                done.fetch_add(1, Ordering::SeqCst);
            })
        })
    }

    #[test]
    fn a_full_queue_refuses_fills_and_takes_leases_that_are_given_back() {
        let (writes, done) = (Arc::new(BackgroundWrites::default()), Arc::default());
        runtime().block_on(async {
            let fill = |bytes| writes.fill(bytes, write(&done, Duration::ZERO));
            let mebibytes = 1 << 20;
            assert_eq!((0..70).filter(|_| fill(mebibytes)).count(), 63);
            writes.run(0, write(&done, Duration::ZERO));
            writes.done().await;
            assert_eq!(done.load(Ordering::SeqCst), 64);
            assert!(fill(mebibytes), "there is room again");
            writes.done().await;
        });
    }

    #[test]
    fn a_runtime_that_ends_leaves_no_write_undone() {
        let (writes, done) = (Arc::new(BackgroundWrites::default()), Arc::default());
        runtime().block_on(async {
            for _ in 0..1000 {
                writes.fill(1, write(&done, Duration::from_millis(100)));
            }
            // Some of them are under way.
            tokio::time::sleep(Duration::from_millis(10)).await;
        });
        assert_eq!(done.load(Ordering::SeqCst), 1000);
        assert_eq!(writes.queue().unfinished, 0);
    }

    #[test]
    fn a_write_of_a_runtime_that_is_not_driven_is_carried_out() {
        let (writes, done) = (Arc::new(BackgroundWrites::default()), Arc::default());
        let runtime = runtime();
        for round in 1..=2 {
            runtime.block_on(async { writes.run(0, write(&done, Duration::ZERO)) });
            std::thread::sleep(Duration::from_millis(1000));
            assert_eq!(done.load(Ordering::SeqCst), round);
        }
    }

    #[test]
    fn runtimes_that_nobody_drives_hold_no_other_up() {
        let (writes, done) = (Arc::new(BackgroundWrites::default()), Arc::default());
        let write = || write(&done, Duration::ZERO);
        // Their workers wait for their turn for as long as they live.
        let idle: Vec<_> = (0..2 * MOST_WORKERS).map(|_| runtime()).collect();
        idle.iter().for_each(|idle| idle.block_on(async { writes.run(0, write()) }));
        runtime().block_on(async {
            writes.run(0, write());
            writes.done().await;
        });
        assert_eq!(done.load(Ordering::SeqCst), idle.len() + 1);
    }

    #[test]
    fn a_write_outside_of_a_runtime_is_carried_out() {
        let (writes, done) = (Arc::new(BackgroundWrites::default()), Arc::default());
        writes.run(0, write(&done, Duration::from_millis(10)));
        assert_eq!(done.load(Ordering::SeqCst), 1);
    }
}
