//! Whether the leases of a server end, in a value or in another caller's right.
//!
//! A server that says "busy" for ever would have every call wait for nothing. So a lease that was waited
//! for in vain is looked at once more, when a killed process's lease would be over. After a few that are
//! still there the server's leases are not waited for, until some time has passed. A fetch that is
//! slower than usual, or a killed process, says nothing against the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::CoarseInstant;

/// Leases in a row that did not end before the server's leases are not waited for.
const MOST_ENDLESS: u32 = 3;
/// For how long they are not.
const PAUSE: Duration = Duration::from_secs(10);
/// Leases that are checked at once.
const MOST_CHECKS: u32 = 8;

#[derive(Default)]
pub(super) struct LeaseWaitBreaker {
    /// Leases in a row that did not end.
    endless: AtomicU32,
    /// Until when leases are not waited for; in milliseconds as [`CoarseInstant`] counts them.
    paused_until: AtomicU64,
    /// The leases that are being checked.
    checks: AtomicU32,
}

/// One lease that is being checked.
pub(super) struct LeaseProbe(Arc<LeaseWaitBreaker>);

impl Drop for LeaseProbe {
    fn drop(&mut self) {
        self.0.checks.fetch_sub(1, Ordering::Relaxed);
    }
}

impl LeaseWaitBreaker {
    pub(super) fn leases_end(&self) -> bool {
        let paused_until = self.paused_until.load(Ordering::Relaxed);
        paused_until == 0 || CoarseInstant::now().millis() >= paused_until
    }

    pub(super) fn begin_probe(record: &Arc<LeaseWaitBreaker>) -> Option<LeaseProbe> {
        if record.checks.fetch_add(1, Ordering::Relaxed) < MOST_CHECKS {
            return Some(LeaseProbe(Arc::clone(record)));
        }
        record.checks.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Takes note of a lease, which ends or does not.
    pub(super) fn note(&self, ends: bool) {
        if ends {
            self.endless.store(0, Ordering::Relaxed);
            self.paused_until.store(0, Ordering::Relaxed);
        } else if self.endless.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_ENDLESS {
            // After the pause one more is enough.
            self.endless.store(MOST_ENDLESS - 1, Ordering::Relaxed);
            let until = CoarseInstant::now().millis().saturating_add(PAUSE.as_millis() as u64);
            self.paused_until.store(until, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_that_never_end_are_not_waited_for() {
        let record = LeaseWaitBreaker::default();
        (0..2).for_each(|_| record.note(false));
        record.note(true);
        (0..2).for_each(|_| record.note(false));
        assert!(record.leases_end(), "one of them ended");
        record.note(false);
        assert!(!record.leases_end());
        record.note(true);
        assert!(record.leases_end());
    }

    #[test]
    fn few_leases_are_checked_at_once() {
        let record = Arc::new(LeaseWaitBreaker::default());
        let checks: Vec<_> =
            (0..20).filter_map(|_| LeaseWaitBreaker::begin_probe(&record)).collect();
        assert_eq!(checks.len(), 8);
        drop(checks);
        assert!(LeaseWaitBreaker::begin_probe(&record).is_some());
    }
}
