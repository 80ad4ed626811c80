//! Whether the leases of a server end, in a value or in another caller's right.
//!
//! A server that says "busy" for ever, or that keeps the placeholders of callers who never got its
//! answers, would have every call wait for nothing. After a few such waits its leases are not waited
//! for any more, until some time has passed.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Coarse;

/// Waits in a row that came to nothing before the server's leases are not waited for.
const MOST_FRUITLESS: u32 = 3;
/// For how long they are not.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct LeaseRecord {
    /// Waits in a row that came to nothing.
    fruitless: AtomicU32,
    /// Until when leases are not waited for; in milliseconds as [`Coarse`] counts them.
    paused_until: AtomicU64,
}

impl LeaseRecord {
    pub(super) fn leases_end(&self) -> bool {
        let paused_until = self.paused_until.load(Ordering::Relaxed);
        paused_until == 0 || Coarse::now().millis() >= paused_until
    }

    /// Takes note of a wait for a lease, which has ended or not.
    pub(super) fn note(&self, has_ended: bool) {
        if has_ended {
            self.fruitless.store(0, Ordering::Relaxed);
            self.paused_until.store(0, Ordering::Relaxed);
        } else if self.fruitless.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_FRUITLESS {
            // After the pause one more is enough.
            self.fruitless.store(MOST_FRUITLESS - 1, Ordering::Relaxed);
            let until = Coarse::now().millis().saturating_add(PAUSE.as_millis() as u64);
            self.paused_until.store(until, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_that_never_end_are_not_waited_for() {
        let record = LeaseRecord::default();
        (0..2).for_each(|_| record.note(false));
        record.note(true);
        (0..2).for_each(|_| record.note(false));
        assert!(record.leases_end(), "one of them ended");
        record.note(false);
        assert!(!record.leases_end());
        record.note(true);
        assert!(record.leases_end());
    }
}
