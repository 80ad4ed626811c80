//! Who refreshes an entry that is about to expire: one caller at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::lock;
use crate::clock::Clock;

/// Between the end of one refresh and the next: one that fails, or brings nothing to store, leaves the
/// entry as due as it was.
const PAUSE: Duration = Duration::from_millis(100);

/// A refresh that takes longer counts as lost, if fetches of its function are not known to take long.
const LOST_AFTER: Duration = Duration::from_secs(20);

/// How long before its end an entry that lives for `life` is refreshed, where `ahead` is declared: in
/// the first third of its life it is as good as new.
pub(crate) fn ahead_of(life: Duration, ahead: Duration) -> Duration {
    ahead.min(life / 3 * 2)
}

/// The keys whose entries somebody refreshes, and until when nobody else does.
pub(super) struct Refreshing {
    until: Mutex<HashMap<Arc<[u8]>, Instant>>,
    clock: Clock,
}

/// The duty to refresh an entry; another caller gets it a pause after this is dropped, or when it
/// has taken so long that it counts as lost.
pub(crate) struct Refresh {
    refreshing: Arc<Refreshing>,
    key: Arc<[u8]>,
    until: Instant,
}

impl Refreshing {
    pub(super) fn new(clock: Clock) -> Arc<Refreshing> {
        Arc::new(Refreshing { until: Mutex::default(), clock })
    }

    /// `fetch_time` is how long a fetch takes, as far as is known.
    pub(super) fn take(
        self: &Arc<Refreshing>,
        key: &[u8],
        fetch_time: Option<Duration>,
    ) -> Option<Refresh> {
        let now = self.clock.now();
        let mut held = lock(&self.until);
        if held.get(key).is_some_and(|until| now < *until) {
            return None;
        }
        // Instead of growing. What is over is forgotten, and there is room for as many again as are not.
        if held.len() == held.capacity() {
            held.retain(|_, until| now < *until);
            let kept = held.len();
            held.reserve(kept);
        }
        let lost_after = LOST_AFTER.max(fetch_time.unwrap_or_default().saturating_mul(4));
        let (key, until) = (Arc::from(key), now + lost_after);
        held.insert(Arc::clone(&key), until);
        Some(Refresh { refreshing: Arc::clone(self), key, until })
    }
}

impl Drop for Refresh {
    fn drop(&mut self) {
        let mut held = lock(&self.refreshing.until);
        // It may be another's meanwhile.
        if let Some(until) = held.get_mut(&self.key)
            && *until == self.until
        {
            *until = self.refreshing.clock.now() + PAUSE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_is_lost_after_four_times_what_its_fetches_take() {
        let clock = Clock::default();
        let refreshing = Refreshing::new(clock.clone());
        let slow = Some(Duration::from_secs(25));
        let _held = refreshing.take(b"key", slow).expect("nobody has it");
        clock.advance(Duration::from_secs(99));
        assert!(refreshing.take(b"key", slow).is_none());
        clock.advance(Duration::from_secs(2));
        assert!(refreshing.take(b"key", slow).is_some());
    }

    #[test]
    fn what_is_over_takes_no_room() {
        let refreshing = Refreshing::new(Clock::default());
        let key = |number: u32| number.to_ne_bytes();
        let held: Vec<_> = (0..100).map(|number| refreshing.take(&key(number), None)).collect();
        assert!(held.iter().all(Option::is_some));
        for number in 100..1000 {
            assert!(refreshing.take(&key(number), None).is_some());
            // As if its pause were over.
            *lock(&refreshing.until).get_mut(&key(number)[..]).expect("it was taken") =
                Instant::now();
        }
        let kept = lock(&refreshing.until).len();
        assert!(kept < 500, "{kept}");
        assert!((0..100).all(|number| refreshing.take(&key(number), None).is_none()));
    }
}
