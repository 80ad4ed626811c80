//! Notices that a server answers reads but stores no values, for example because it has no memory
//! left for items of that size. Such a server stays in use, because its reads succeed.
//!
//! Each cached function has its own count of failed writes, because functions store values of
//! different sizes. After several failures in a row, the function's writes count as *failing*, until
//! one of them succeeds.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Server;
use crate::event::Event;
use crate::sync::lock;
use crate::tier::remote::{RemoteError, RemoteErrorKind};

/// A function's writes count as failing after this many failures in a row.
const MIN_FAILURES: u32 = 3;
/// A failure within this time after the last counted failure is not counted, because many writes
/// fail at once when a server dies.
const FAILURE_INTERVAL: Duration = Duration::from_secs(1);
/// The length of a key's digest: the hash that follows the namespace and the cache name.
const DIGEST_CHARS: usize = 64;

/// The functions whose last write to one server has failed.
#[derive(Default)]
pub(super) struct FunctionsWithFailedWrites {
    /// The number of functions, readable without the lock.
    count: AtomicUsize,
    functions: Mutex<HashMap<Box<str>, WriteFailureStreak>>,
}

/// A function's failed writes since its last successful write.
struct WriteFailureStreak {
    failures: u32,
    /// The time of the last counted failure.
    last: Instant,
}

impl WriteFailureStreak {
    fn is_failing(&self) -> bool {
        self.failures >= MIN_FAILURES
    }
}

/// Returns the part of a key that is the same for all keys of a function: the namespace and the
/// cache name.
fn function_of(key: &str) -> &str {
    let mut rest = key;
    while let Some((before, last)) = rest.rsplit_once(':') {
        if last.len() == DIGEST_CHARS {
            return before;
        }
        rest = before;
    }
    key
}

impl FunctionsWithFailedWrites {
    /// Counts a failed write. Returns true if the function's writes count as failing from this
    /// failure on, while no other function's writes do.
    fn record_failure(&self, key: &str, now: Instant) -> bool {
        let mut functions = lock(&self.functions);
        let is_known = functions.values().any(WriteFailureStreak::is_failing);
        let run = functions
            .entry(function_of(key).into())
            .or_insert(WriteFailureStreak { failures: 0, last: now });
        if run.failures == 0 || now.saturating_duration_since(run.last) >= FAILURE_INTERVAL {
            (run.failures, run.last) = (run.failures.saturating_add(1), now);
        }
        let is_new = run.is_failing() && !is_known;
        self.count.store(functions.len(), Ordering::Release);
        is_new
    }

    fn record_success(&self, key: &str) {
        if self.count.load(Ordering::Acquire) > 0 {
            let mut functions = lock(&self.functions);
            functions.remove(function_of(key));
            self.count.store(functions.len(), Ordering::Release);
        }
    }

    fn are_failing(&self, key: &str) -> bool {
        self.count.load(Ordering::Acquire) > 0
            && lock(&self.functions)
                .get(function_of(key))
                .is_some_and(WriteFailureStreak::is_failing)
    }

    /// Forgets all failures. Called when callers stop using the server (the server is *ejected*),
    /// because its writes then fail for another reason.
    pub(super) fn clear(&self) {
        lock(&self.functions).clear();
        self.count.store(0, Ordering::Release);
    }
}

impl Server {
    /// Records that the server has stored a value.
    pub(in crate::tier::remote::memcached) fn record_stored(&self, key: &str) {
        self.failing_writes.record_success(key);
    }

    /// Records that the server has not stored a value because of this error.
    pub(in crate::tier::remote::memcached) fn record_failed_write(
        &self,
        key: &str,
        error: &RemoteError,
    ) {
        let is_server_fault =
            matches!(error.kind(), RemoteErrorKind::Unreachable | RemoteErrorKind::Refused);
        if is_server_fault
            && self.in_rotation()
            && self.failing_writes.record_failure(key, Instant::now())
        {
            self.events.emit(&Event::ServerStoresNothing { function: function_of(key), error });
        }
    }

    /// Returns true if the server answers but stores no values of this key's function.
    pub(in crate::tier::remote::memcached) fn stores_nothing(&self, key: &str) -> bool {
        self.failing_writes.are_failing(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_failures_count_until_a_success() {
        let (writes, began) = (FunctionsWithFailedWrites::default(), Instant::now());
        let digest = "0".repeat(DIGEST_CHARS);
        let [key, second_slot, other] =
            [format!("shop:a:{digest}"), format!("shop:a:{digest}:2"), format!("shop:b:{digest}")];
        let fail =
            |key: &str, seconds| writes.record_failure(key, began + Duration::from_secs(seconds));
        assert!((0..50).all(|_| !fail(&key, 0)), "a burst of failures is one failure");
        assert!(
            !fail(&key, 2) && fail(&second_slot, 4) && !fail(&key, 6),
            "only the third counted failure is reported"
        );
        assert!(writes.are_failing(&key) && !writes.are_failing(&other));
        writes.record_success(&other);
        assert!(writes.are_failing(&key));
        writes.record_success(&key);
        assert!(!writes.are_failing(&key) && !fail(&key, 8));
    }
}
