//! The writes that nobody waits for: how many there may be, and when they are done.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Handle;
use tokio::sync::Notify;

/// More writes than this, and more bytes than this to be written, are dropped, and counted.
const WRITES: usize = 4096;
const BYTES: usize = 64 << 20;

#[derive(Default)]
pub(super) struct Pending {
    writes: AtomicUsize,
    bytes: AtomicUsize,
    done: Notify,
}

struct Guard {
    pending: Arc<Pending>,
    bytes: usize,
}

impl Pending {
    /// Whether one more is not too much.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.writes.load(Ordering::Relaxed) < WRITES
            && self.bytes.load(Ordering::Relaxed).saturating_add(bytes) <= BYTES
    }

    /// Runs a write; `false` without a runtime. One that is dropped with its runtime is done too.
    pub(super) fn run(
        self: &Arc<Pending>,
        bytes: usize,
        write: impl Future<Output = ()> + Send + 'static,
    ) -> bool {
        let Ok(runtime) = Handle::try_current() else { return false };
        self.writes.fetch_add(1, Ordering::AcqRel);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        let guard = Guard { pending: Arc::clone(self), bytes };
        runtime.spawn(async move {
            write.await;
            drop(guard);
        });
        true
    }

    pub(super) async fn done(&self) {
        loop {
            let done = self.done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            if self.writes.load(Ordering::Acquire) == 0 {
                return;
            }
            done.await;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.pending.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        if self.pending.writes.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.pending.done.notify_waiters();
        }
    }
}
