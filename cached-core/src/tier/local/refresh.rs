//! Who refreshes an entry that is about to expire: one caller at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::lock;
use crate::clock::Clock;
use crate::flight::PATIENCE;

/// The keys whose entries somebody refreshes, and until when nobody else does.
pub(super) struct Refreshing {
    until: Mutex<HashMap<Arc<[u8]>, Instant>>,
    clock: Clock,
}

/// The duty to refresh an entry; another caller gets it when this is dropped, or has taken so long
/// that it counts as lost.
pub(crate) struct Refresh {
    refreshing: Arc<Refreshing>,
    key: Arc<[u8]>,
    until: Instant,
}

impl Refreshing {
    pub(super) fn new(clock: Clock) -> Arc<Refreshing> {
        Arc::new(Refreshing { until: Mutex::default(), clock })
    }

    pub(super) fn take(self: &Arc<Refreshing>, key: &[u8]) -> Option<Refresh> {
        let now = self.clock.now();
        let mut held = lock(&self.until);
        if held.get(key).is_some_and(|until| now < *until) {
            return None;
        }
        let (key, until) = (Arc::from(key), now + PATIENCE);
        held.insert(Arc::clone(&key), until);
        Some(Refresh { refreshing: Arc::clone(self), key, until })
    }
}

impl Drop for Refresh {
    fn drop(&mut self) {
        let mut held = lock(&self.refreshing.until);
        // It may be another's meanwhile.
        if held.get(&self.key) == Some(&self.until) {
            held.remove(&self.key);
        }
    }
}
