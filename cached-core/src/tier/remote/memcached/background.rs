//! Carries out the writes to memcached that no caller waits for.
//!
//! A write stores a fetched value (a *fill*), removes a single item, or gives back a lease or a
//! refresh claim. A *lease* is the right to run the annotated function for a missing value. A
//! *refresh claim* is the right to run the function again before an item expires.
//!
//! The writes of a cache wait in one queue, and a bounded number of *workers* carry them out. If
//! the queue already holds too many bytes, a new fill is dropped.
//!
//! A worker is a task on the runtime on which a write was queued. This runtime can end before the
//! write is done, for example at the end of `main`. The write then starts again on a worker of
//! another runtime or, if there is no such worker, on the [`fallback_runtime`].

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id, RuntimeFlavor};
use tokio::sync::Notify;

use super::fallback_runtime;
use super::run_all::{BoxedFuture, run_all};
use crate::sync::lock;
use crate::tier::remote::BackgroundWriteFn;

/// The largest number of workers on one runtime. Each runtime has a limit of its own. If all
/// runtimes shared one limit, the workers of a runtime that does not run could use it up.
const MAX_WORKERS: usize = 64;
/// The largest number of writes that one worker carries out at once.
const MAX_WRITES_PER_WORKER: usize = 128;
/// The largest total size of the unfinished writes. A fill that would exceed the limit is refused.
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// The memory that a queued write takes in addition to its value.
const WRITE_OVERHEAD: usize = 512;
/// How long a write waits for a worker on a current-thread runtime, which might not be running. The
/// fallback runtime then carries out the write.
const OVERDUE_AFTER: Duration = Duration::from_millis(250);

/// The background writes of one cache: a queue, and the workers that carry out the queued writes.
#[derive(Default)]
pub(super) struct BackgroundWrites {
    queue: Mutex<WriteQueue>,
    all_done: Notify,
}

#[derive(Default)]
struct WriteQueue {
    waiting: VecDeque<QueuedWrite>,
    /// The number of workers on each runtime. A runtime without workers has no entry.
    workers: HashMap<Id, usize>,
    /// True while a task on the fallback runtime looks for overdue writes.
    is_watched: bool,
    /// The bytes of all unfinished writes.
    bytes: usize,
    /// The number of writes that wait or are under way.
    unfinished: usize,
    /// The id of the process that owns the queue. After a `fork`, the child begins with an empty
    /// queue.
    process: u32,
}

impl WriteQueue {
    fn of_process(process: u32) -> WriteQueue {
        WriteQueue { process, ..WriteQueue::default() }
    }

    fn remove_worker(&mut self, runtime: Id) {
        if let Some(workers) = self.workers.get_mut(&runtime) {
            *workers -= 1;
            if *workers == 0 {
                self.workers.remove(&runtime);
            }
        }
    }
}

struct QueuedWrite {
    write: BackgroundWriteFn,
    queued_at: Instant,
    bytes: usize,
    /// The id of the process that queued the write.
    process: u32,
    writes: Arc<BackgroundWrites>,
}

impl QueuedWrite {
    /// Runs the write from its beginning.
    fn run(self) -> BoxedFuture<'static, ()> {
        Box::pin(async move { (self.write)().await })
    }
}

/// Counts the write as finished, whether it was done or given up.
impl Drop for QueuedWrite {
    fn drop(&mut self) {
        let is_last = {
            let mut queue = self.writes.lock_queue();
            if queue.process != self.process {
                return;
            }
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
    /// Queues a fill of about `bytes` bytes. If the queue is full, drops the fill and returns
    /// false.
    pub(super) fn queue_fill(
        self: &Arc<BackgroundWrites>,
        bytes: usize,
        write: BackgroundWriteFn,
    ) -> bool {
        self.queue(bytes, MAX_QUEUED_BYTES, write)
    }

    /// Queues a write, even if the queue is full. The caller must limit the number of such writes,
    /// for example to one per lease.
    pub(super) fn queue_write(
        self: &Arc<BackgroundWrites>,
        bytes: usize,
        write: BackgroundWriteFn,
    ) {
        self.queue(bytes, usize::MAX, write);
    }

    /// Queues a write, unless the queue would then hold more than `limit` bytes. Returns true if
    /// the write is queued.
    fn queue(
        self: &Arc<BackgroundWrites>,
        bytes: usize,
        limit: usize,
        write: BackgroundWriteFn,
    ) -> bool {
        let runtime = Handle::try_current().ok();
        let bytes = bytes.saturating_add(WRITE_OVERHEAD);
        let mut queue = self.lock_queue();
        if queue.bytes.saturating_add(bytes) > limit {
            return false;
        }
        let (queued_at, process, writes) = (Instant::now(), queue.process, Arc::clone(self));
        let queued = QueuedWrite { write, queued_at, bytes, process, writes };
        queue.bytes += bytes;
        queue.unfinished += 1;
        queue.waiting.push_back(queued);
        match runtime {
            Some(runtime) => {
                // A current-thread runtime runs tasks only during `block_on`. After the current
                // `block_on` returns, the runtime may never run again. A task on the fallback
                // runtime therefore looks for overdue writes.
                let needs_watch = runtime.runtime_flavor() == RuntimeFlavor::CurrentThread
                    && !std::mem::replace(&mut queue.is_watched, true);
                let workers = queue.workers.entry(runtime.id()).or_default();
                let has_room = *workers < MAX_WORKERS;
                *workers += usize::from(has_room);
                drop(queue);
                if has_room {
                    runtime.spawn(BackgroundWorker::new(self, runtime.id()).run());
                }
                let watch = || Box::pin(run_overdue_writes(Arc::downgrade(self)));
                if needs_watch && !fallback_runtime::spawn(watch()) {
                    self.lock_queue().is_watched = false;
                }
            }
            None if queue.workers.is_empty() => {
                let waiting = std::mem::take(&mut queue.waiting);
                drop(queue);
                run_on_fallback(waiting);
            }
            None => {}
        }
        true
    }

    /// Takes the overdue writes from the queue. If no write waits, returns `None`, and marks the
    /// queue as no longer watched.
    fn take_overdue(&self) -> Option<Vec<QueuedWrite>> {
        let now = Instant::now();
        let mut queue = self.lock_queue();
        if queue.waiting.is_empty() {
            queue.is_watched = false;
            return None;
        }
        let is_overdue = |write: &QueuedWrite| now.duration_since(write.queued_at) >= OVERDUE_AFTER;
        let count = queue.waiting.iter().take_while(|write| is_overdue(write)).count();
        Some(queue.waiting.drain(..count).collect())
    }

    /// Waits until every write is finished.
    pub(super) async fn wait_until_done(&self) {
        loop {
            let done = self.all_done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            if self.lock_queue().unfinished == 0 {
                return;
            }
            done.await;
        }
    }

    fn lock_queue(&self) -> MutexGuard<'_, WriteQueue> {
        let mut queue = lock(&self.queue);
        let process = std::process::id();
        if queue.process != process {
            let parents = std::mem::replace(&mut *queue, WriteQueue::of_process(process));
            // The parent carries out its writes itself. Dropping them here would give back the
            // parent's leases.
            std::mem::forget(parents.waiting);
        }
        queue
    }
}

fn run_on_fallback(writes: VecDeque<QueuedWrite>) {
    fallback_runtime::finish(writes.into_iter().map(QueuedWrite::run).collect());
}

/// Carries out overdue writes of one cache until no write waits.
async fn run_overdue_writes(writes: Weak<BackgroundWrites>) {
    loop {
        tokio::time::sleep(OVERDUE_AFTER).await;
        let Some(writes) = writes.upgrade() else { return };
        let Some(overdue) = writes.take_overdue() else { return };
        for write in overdue {
            tokio::spawn(write.run());
        }
    }
}

/// A task that carries out writes until no write waits.
struct BackgroundWorker {
    writes: Arc<BackgroundWrites>,
    runtime: Id,
    /// The writes that this worker carries out now.
    current: Vec<QueuedWrite>,
    /// True while the queue counts this worker.
    is_counted: bool,
    /// True during a poll of the writes. Stays true if a write panics.
    is_polling: bool,
    /// The id of the process that started the worker.
    process: u32,
}

impl BackgroundWorker {
    fn new(writes: &Arc<BackgroundWrites>, runtime: Id) -> BackgroundWorker {
        BackgroundWorker {
            writes: Arc::clone(writes),
            runtime,
            current: Vec::new(),
            is_counted: true,
            is_polling: false,
            process: std::process::id(),
        }
    }

    async fn run(mut self) {
        while self.take_next() {
            let mut writes: Option<BoxedFuture<'static, _>> = None;
            poll_fn(|context| {
                self.is_polling = true;
                let writes = writes.get_or_insert_with(|| {
                    let begin = |queued: &QueuedWrite| (queued.write)();
                    Box::pin(run_all(self.current.iter().map(begin).collect()))
                });
                let polled = writes.as_mut().poll(context);
                self.is_polling = false;
                polled
            })
            .await;
            self.current.clear();
        }
    }

    /// Takes this worker's share of the waiting writes. Returns false if no write waits.
    fn take_next(&mut self) -> bool {
        let mut queue = self.writes.lock_queue();
        let share = queue.waiting.len().div_ceil(MAX_WORKERS).min(MAX_WRITES_PER_WORKER);
        self.current.extend(queue.waiting.drain(..share));
        if self.current.is_empty() {
            queue.remove_worker(self.runtime);
            self.is_counted = false;
        }
        self.is_counted
    }
}

/// A worker that the queue still counts is dropped for one of two reasons. If its runtime has
/// ended, the worker's writes return to the queue. If one of its writes has panicked, its writes
/// are given up. If no worker is left, the fallback runtime carries out the waiting writes.
impl Drop for BackgroundWorker {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // The process has forked, and the parent carries out its writes itself.
            return std::mem::forget(std::mem::take(&mut self.current));
        }
        if !self.is_counted {
            return;
        }
        let mut queue = self.writes.lock_queue();
        queue.remove_worker(self.runtime);
        // The current writes of a panicked worker are dropped, because the write that panicked
        // would panic again, and nothing tells which one it is. `std::thread::panicking` cannot
        // tell a panicked worker: it also returns true while a panicking program drops its runtime.
        if !self.is_polling {
            queue.waiting.extend(self.current.drain(..));
        }
        let orphaned = match queue.workers.is_empty() {
            true => std::mem::take(&mut queue.waiting),
            false => VecDeque::new(),
        };
        drop(queue);
        run_on_fallback(orphaned);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("the runtime starts")
    }

    /// Returns a write that waits for `takes`, and then adds 1 to `done`.
    fn write(done: &Arc<AtomicUsize>, takes: Duration) -> BackgroundWriteFn {
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
    fn a_full_queue_refuses_fills_only() {
        let (writes, done) = (Arc::new(BackgroundWrites::default()), Arc::default());
        runtime().block_on(async {
            let fill = |bytes| writes.queue_fill(bytes, write(&done, Duration::ZERO));
            let mebibytes = 1 << 20;
            assert_eq!((0..70).filter(|_| fill(mebibytes)).count(), 63);
            writes.queue_write(0, write(&done, Duration::ZERO));
            writes.wait_until_done().await;
            assert_eq!(done.load(Ordering::SeqCst), 64);
            assert!(fill(mebibytes), "finished writes make room");
            writes.wait_until_done().await;
        });
    }

    #[test]
    fn every_write_is_done_when_its_runtime_ends() {
        let (writes, done) = (Arc::new(BackgroundWrites::default()), Arc::default());
        runtime().block_on(async {
            for _ in 0..1000 {
                writes.queue_fill(1, write(&done, Duration::from_millis(100)));
            }
            // By now, some of the writes are under way.
            tokio::time::sleep(Duration::from_millis(10)).await;
        });
        assert_eq!(done.load(Ordering::SeqCst), 1000);
        assert_eq!(writes.lock_queue().unfinished, 0);
    }

    #[test]
    fn every_write_is_done_when_the_program_panics() {
        let (writes, done) = (Arc::new(BackgroundWrites::default()), Arc::default());
        let program = || {
            let runtime = runtime();
            runtime.block_on(async {
                writes.queue_fill(1, write(&done, Duration::from_millis(100)));
                tokio::time::sleep(Duration::from_millis(10)).await;
                writes.queue_fill(1, write(&done, Duration::from_millis(100)));
                // `resume_unwind` skips the panic hook.
                std::panic::resume_unwind(Box::new("the program panics"))
            })
        };
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(program));
        assert!(panicked.is_err());
        assert_eq!(done.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_write_that_panics_is_not_repeated() {
        let (writes, begun) =
            (Arc::new(BackgroundWrites::default()), Arc::<AtomicUsize>::default());
        runtime().block_on(async {
            let begun = Arc::clone(&begun);
            let panics = move || -> BoxedFuture<'static, ()> {
                begun.fetch_add(1, Ordering::SeqCst);
                Box::pin(async { std::panic::resume_unwind(Box::new("the write panics")) })
            };
            writes.queue_fill(1, Box::new(panics));
            writes.wait_until_done().await;
        });
        assert_eq!(begun.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_forked_process_begins_with_an_empty_queue() {
        let (writes, done) = (Arc::new(BackgroundWrites::default()), Arc::default());
        let runtime = runtime();
        runtime.block_on(async { writes.queue_write(0, write(&done, Duration::ZERO)) });
        // The queue now belongs to another process, as in the child after a fork.
        lock(&writes.queue).process += 1;
        runtime.block_on(async {
            assert_eq!(writes.lock_queue().unfinished, 0);
            writes.queue_write(0, write(&done, Duration::ZERO));
            writes.wait_until_done().await;
        });
        assert_eq!(done.load(Ordering::SeqCst), 1, "only the child's own write is done");
        assert_eq!(writes.lock_queue().unfinished, 0);
    }

    #[test]
    fn an_idle_runtime_delays_a_write_only_briefly() {
        let (writes, done) = (Arc::new(BackgroundWrites::default()), Arc::default());
        let runtime = runtime();
        for round in 1..=2 {
            runtime.block_on(async { writes.queue_write(0, write(&done, Duration::ZERO)) });
            std::thread::sleep(Duration::from_millis(1000));
            assert_eq!(done.load(Ordering::SeqCst), round);
        }
    }

    #[test]
    fn idle_runtimes_do_not_block_others() {
        let (writes, done) = (Arc::new(BackgroundWrites::default()), Arc::default());
        let write = || write(&done, Duration::ZERO);
        // These runtimes never poll their workers again.
        let idle: Vec<_> = (0..2 * MAX_WORKERS).map(|_| runtime()).collect();
        idle.iter().for_each(|idle| idle.block_on(async { writes.queue_write(0, write()) }));
        runtime().block_on(async {
            writes.queue_write(0, write());
            writes.wait_until_done().await;
        });
        assert_eq!(done.load(Ordering::SeqCst), idle.len() + 1);
    }

    #[test]
    fn a_write_outside_of_a_runtime_is_done() {
        let (writes, done) = (Arc::new(BackgroundWrites::default()), Arc::default());
        writes.queue_write(0, write(&done, Duration::from_millis(10)));
        assert_eq!(done.load(Ordering::SeqCst), 1);
    }
}
