//! A circuit breaker that stops callers from waiting for leases if a server does not end them.
//!
//! A *lease* is the right to run the annotated function for a missing value. While one caller holds
//! the lease of a key, other callers that read the key wait until the lease ends.
//!
//! A faulty server might report the same lease forever. Every call for the key would then wait for
//! the longest time allowed. Therefore, after a caller has given up waiting, this process *probes*
//! the lease: the process pauses, and then reads the lease again. The lease of a killed process
//! usually ends during the pause. A lease that the pause has not changed is *endless*. After a few
//! endless leases in a row, the breaker *opens*: for a while, callers do not wait for leases on the
//! server. A slow function does not open the breaker: its lease is renewed during the pause, and
//! the probe finds a newer version of the lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::CoarseInstant;

/// The number of endless leases in a row that opens the breaker.
const ENDLESS_LEASES_TO_OPEN: u32 = 3;
/// How long the breaker stays open.
const OPEN_TIME: Duration = Duration::from_secs(10);
/// The largest number of leases that wait for their probe.
const MOST_PROBES: u32 = 8;

/// The circuit breaker of one server.
#[derive(Default)]
pub(super) struct LeaseWaitBreaker {
    /// The number of endless leases in a row.
    endless: AtomicU32,
    /// The time until which the breaker is open, as [`CoarseInstant::millis`]. It is 0 if the
    /// breaker has not opened since the last lease ended.
    open_until: AtomicU64,
    /// The number of [`PendingProbeGuard`]s.
    probes: AtomicU32,
}

/// Counts one lease that waits for its probe, until the guard is dropped.
pub(super) struct PendingProbeGuard(Arc<LeaseWaitBreaker>);

impl Drop for PendingProbeGuard {
    fn drop(&mut self) {
        self.0.probes.fetch_sub(1, Ordering::Relaxed);
    }
}

impl LeaseWaitBreaker {
    pub(super) fn allows_waiting(&self) -> bool {
        let open_until = self.open_until.load(Ordering::Relaxed);
        open_until == 0 || CoarseInstant::now().millis() >= open_until
    }

    /// Counts a lease that waits for its probe. Returns `None` if there are [`MOST_PROBES`] such
    /// leases already.
    pub(super) fn reserve_probe(breaker: &Arc<LeaseWaitBreaker>) -> Option<PendingProbeGuard> {
        if breaker.probes.fetch_add(1, Ordering::Relaxed) < MOST_PROBES {
            return Some(PendingProbeGuard(Arc::clone(breaker)));
        }
        breaker.probes.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Records that a lease has ended, or that its holder is alive. Closes the breaker.
    pub(super) fn record_end(&self) {
        self.endless.store(0, Ordering::Relaxed);
        self.open_until.store(0, Ordering::Relaxed);
    }

    pub(super) fn record_endless(&self) {
        if self.endless.fetch_add(1, Ordering::Relaxed) + 1 >= ENDLESS_LEASES_TO_OPEN {
            // After the open time, a single endless lease opens the breaker again, unless a lease
            // has ended since.
            self.endless.store(ENDLESS_LEASES_TO_OPEN - 1, Ordering::Relaxed);
            let until = CoarseInstant::now().millis().saturating_add(OPEN_TIME.as_millis() as u64);
            self.open_until.store(until, Ordering::Relaxed);
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
        assert!(breaker.allows_waiting(), "an ended lease resets the count");
        breaker.record_endless();
        assert!(!breaker.allows_waiting());
        breaker.record_end();
        assert!(breaker.allows_waiting());
    }

    #[test]
    fn few_leases_are_probed_at_once() {
        let breaker = Arc::new(LeaseWaitBreaker::default());
        let probes: Vec<_> =
            (0..20).filter_map(|_| LeaseWaitBreaker::reserve_probe(&breaker)).collect();
        assert_eq!(probes.len(), 8);
        drop(probes);
        assert!(LeaseWaitBreaker::reserve_probe(&breaker).is_some());
    }
}
