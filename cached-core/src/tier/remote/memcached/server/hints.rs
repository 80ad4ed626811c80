//! A *hint* is a key that a memcached server must still remove. This process invalidated or changed
//! the key's value while it could not reach the server. Dynamo calls this mechanism *hinted
//! handoff*.
//!
//! This process does not use the key on the server until the server has removed the key.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::Server;
use crate::sync::lock;

/// The largest number of hints for one server. If there are more, all hints are dropped, and the
/// server is *fenced*: everything that it stored before this moment counts as stale.
const MAX_HINTS: usize = 16 << 10;

/// The keys that one server must remove.
#[derive(Default)]
pub(super) struct RemovalHints {
    /// The number of hints, readable without the lock.
    count: AtomicUsize,
    hints: Mutex<HintedKeys>,
}

#[derive(Default)]
struct HintedKeys {
    /// Maps each hinted key to the sequence number of its last change.
    keys: HashMap<Arc<str>, u64>,
    /// The number of changes so far, which is the sequence number of the newest change.
    changes: u64,
}

/// A hinted key, and the sequence number of its last change.
pub(super) type RemovalHint = (Arc<str>, u64);

impl RemovalHints {
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        !self.is_empty() && lock(&self.hints).keys.contains_key(key)
    }

    /// Adds a hint for the key, and returns true. If there are too many hints, calls `on_overflow`,
    /// drops all hints, and returns false. `on_overflow` must fence the server. The hints stay
    /// locked meanwhile, so another thread cannot find them gone before the fence is raised.
    #[must_use]
    fn add(&self, key: &Arc<str>, on_overflow: impl FnOnce()) -> bool {
        let mut hints = lock(&self.hints);
        let fits = hints.keys.len() < MAX_HINTS || hints.keys.contains_key(key);
        if fits {
            hints.changes += 1;
            let change = hints.changes;
            hints.keys.insert(Arc::clone(key), change);
        } else {
            on_overflow();
            hints.keys.clear();
        }
        self.recount(&hints);
        fits
    }

    /// Returns up to `count` hints, in any order.
    pub(super) fn up_to(&self, count: usize) -> Vec<RemovalHint> {
        let hints = lock(&self.hints);
        hints.keys.iter().take(count).map(|(key, &change)| (Arc::clone(key), change)).collect()
    }

    /// Removes the hints that the server has received. A hint stays if its key has changed again.
    pub(super) fn remove_delivered(&self, delivered: &[RemovalHint]) {
        let mut hints = lock(&self.hints);
        for (key, change) in delivered {
            if hints.keys.get(key) == Some(change) {
                hints.keys.remove(key);
            }
        }
        self.recount(&hints);
    }

    /// If there are no hints, calls `then` and returns its result. No hint can be added until
    /// `then` has returned.
    pub(super) fn if_empty<T>(&self, then: impl FnOnce() -> T) -> Option<T> {
        let hints = lock(&self.hints);
        hints.keys.is_empty().then(then)
    }

    fn recount(&self, hints: &HintedKeys) {
        self.count.store(hints.keys.len(), Ordering::Release);
    }
}

impl Server {
    /// Adds a hint: the server must remove the key before this process uses the key on the server
    /// again.
    pub(super) fn add_hint(&self, key: &Arc<str>) {
        // If the server has not recovered from an earlier failure, its recovery task is running.
        let needs_recovery_task = self.is_recovered();
        if needs_recovery_task {
            self.endpoint.health.schedule_attempt(0);
        }
        if !self.hints.add(key, || self.fence.raise(None)) {
            self.eject_until_fence_is_settled();
            self.report_fence();
        } else if needs_recovery_task {
            self.recover_in_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(hints: &RemovalHints, key: &str) -> bool {
        hints.add(&key.into(), || ())
    }

    #[test]
    fn a_key_changed_during_delivery_keeps_its_hint() {
        let hints = RemovalHints::default();
        assert!(add(&hints, "key"));
        let delivered = hints.up_to(10);
        assert!(add(&hints, "key"));
        hints.remove_delivered(&delivered);
        assert!(hints.contains("key") && hints.if_empty(|| ()).is_none());
        hints.remove_delivered(&hints.up_to(10));
        assert!(hints.is_empty() && hints.if_empty(|| ()).is_some());
    }

    #[test]
    fn too_many_hints_become_a_fence() {
        let hints = RemovalHints::default();
        for number in 0..MAX_HINTS {
            assert!(add(&hints, &number.to_string()));
        }
        assert!(add(&hints, "0"), "a key that has a hint needs no room");
        let mut is_fenced = false;
        assert!(!hints.add(&"one more".into(), || is_fenced = true));
        assert!(is_fenced && hints.is_empty());
    }
}
