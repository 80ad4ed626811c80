//! A circuit breaker for waits on other callers' leases.
//!
//! A server that answers "busy" for ever would make every call wait for nothing. So a lease that was
//! waited for in vain is read once more, at a time when even the lease of a killed process has ended.
//! After a few leases that are still there, callers do not wait for leases of this server for a
//! while. A slow fetch or a killed process does not count against the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::CoarseInstant;

/// This many endless leases in a row open the breaker.
const MOST_ENDLESS: u32 = 3;
/// How long the breaker stays open.
const PAUSE: Duration = Duration::from_secs(10);
/// The most leases that are read once more at a time.
const MOST_PROBES: u32 = 8;

#[derive(Default)]
pub(super) struct LeaseWaitBreaker {
    /// Endless leases in a row.
    endless: AtomicU32,
    /// The end of the pause, in milliseconds as [`CoarseInstant`] counts them; 0 for none.
    paused_until: AtomicU64,
    probes: AtomicU32,
}

/// Counts one lease that is to be read once more.
pub(super) struct LeaseProbeGuard(Arc<LeaseWaitBreaker>);

impl Drop for LeaseProbeGuard {
    fn drop(&mut self) {
        self.0.probes.fetch_sub(1, Ordering::Relaxed);
    }
}

impl LeaseWaitBreaker {
    pub(super) fn allows_waiting(&self) -> bool {
        let paused_until = self.paused_until.load(Ordering::Relaxed);
        paused_until == 0 || CoarseInstant::now().millis() >= paused_until
    }

    /// Returns `None` if enough leases are probed already.
    pub(super) fn begin_probe(breaker: &Arc<LeaseWaitBreaker>) -> Option<LeaseProbeGuard> {
        if breaker.probes.fetch_add(1, Ordering::Relaxed) < MOST_PROBES {
            return Some(LeaseProbeGuard(Arc::clone(breaker)));
        }
        breaker.probes.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Records a lease that has ended, or whose holder lives.
    pub(super) fn record_end(&self) {
        self.endless.store(0, Ordering::Relaxed);
        self.paused_until.store(0, Ordering::Relaxed);
    }

    /// Records a lease that should have ended and has not.
    pub(super) fn record_endless(&self) {
        if self.endless.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_ENDLESS {
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
    fn endless_leases_stop_the_waiting() {
        let breaker = LeaseWaitBreaker::default();
        (0..2).for_each(|_| breaker.record_endless());
        breaker.record_end();
        (0..2).for_each(|_| breaker.record_endless());
        assert!(breaker.allows_waiting(), "one of them ended");
        breaker.record_endless();
        assert!(!breaker.allows_waiting());
        breaker.record_end();
        assert!(breaker.allows_waiting());
    }

    #[test]
    fn few_leases_are_probed_at_once() {
        let breaker = Arc::new(LeaseWaitBreaker::default());
        let probes: Vec<_> =
            (0..20).filter_map(|_| LeaseWaitBreaker::begin_probe(&breaker)).collect();
        assert_eq!(probes.len(), 8);
        drop(probes);
        assert!(LeaseWaitBreaker::begin_probe(&breaker).is_some());
    }
}
