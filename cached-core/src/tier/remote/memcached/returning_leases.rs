//! Remembers the leases that this process is giving back.
//!
//! A *lease* is the right to run the annotated function for a missing value. If the function
//! returned nothing to store, the lease is given back in the background. A read that comes before
//! memcached has removed the lease still finds the lease. Without this module, the read would
//! assume that another process holds the lease, and wait for a value that nobody fetches.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use crate::sync::lock;

/// The keys whose leases are being given back.
#[derive(Default)]
pub(super) struct ReturningLeases {
    keys: Mutex<HashMap<Arc<str>, ReturningLease>>,
    next_number: AtomicU64,
}

struct ReturningLease {
    number: u64,
    /// Dropped when the lease has been given back.
    is_returning: watch::Sender<()>,
}

impl ReturningLeases {
    /// Marks the key's lease as being given back until the returned mark is dropped.
    pub(super) fn mark(self: &Arc<Self>, key: &Arc<str>) -> ReturnMark {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let lease = ReturningLease { number, is_returning: watch::Sender::new(()) };
        lock(&self.keys).insert(Arc::clone(key), lease);
        ReturnMark { leases: Arc::clone(self), key: Arc::clone(key), number }
    }

    /// Waits until the key's lease has been given back, for `limit` at most. Returns false at once
    /// if this process is not giving the key's lease back.
    pub(super) async fn wait_for(&self, key: &str, limit: Duration) -> bool {
        let returning = lock(&self.keys).get(key).map(|lease| lease.is_returning.subscribe());
        let Some(mut returning) = returning else { return false };
        // The sender never sends. The wait ends when the sender is dropped.
        let _ = tokio::time::timeout(limit, returning.changed()).await;
        true
    }
}

/// A mark on a key's lease. The lease counts as being given back until the mark is dropped.
pub(super) struct ReturnMark {
    leases: Arc<ReturningLeases>,
    key: Arc<str>,
    number: u64,
}

impl ReturnMark {
    /// Wakes every call that waits for the lease in [`ReturningLeases::wait_for`].
    pub(super) fn end(&self) {
        let mut keys = lock(&self.leases.keys);
        // In the meantime, the process might have won the lease again, and be giving it back a
        // second time. That later mark must stay.
        if keys.get(&self.key).is_some_and(|lease| lease.number == self.number) {
            keys.remove(&self.key);
        }
    }
}

impl Drop for ReturnMark {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_wait_ends_when_the_lease_is_given_back() {
        let (leases, key) = (Arc::new(ReturningLeases::default()), Arc::<str>::from("key"));
        assert!(!leases.wait_for("key", LIMIT).await, "no lease is being given back");
        let mark = leases.mark(&key);
        let began = Instant::now();
        assert!(leases.wait_for("key", LIMIT).await);
        assert!(began.elapsed() >= LIMIT, "the lease is not given back yet");
        let waiting = tokio::spawn({
            let leases = Arc::clone(&leases);
            async move { leases.wait_for("key", Duration::from_secs(60)).await }
        });
        tokio::task::yield_now().await;
        drop(mark);
        assert!(waiting.await.expect("the wait does not panic"));
        assert!(lock(&leases.keys).is_empty());
    }

    #[tokio::test]
    async fn an_earlier_mark_leaves_a_later_one() {
        let (leases, key) = (Arc::new(ReturningLeases::default()), Arc::<str>::from("key"));
        let (first, second) = (leases.mark(&key), leases.mark(&key));
        drop(first);
        assert!(leases.wait_for("key", Duration::from_millis(1)).await);
        drop(second);
        assert!(!leases.wait_for("key", LIMIT).await);
    }
}
