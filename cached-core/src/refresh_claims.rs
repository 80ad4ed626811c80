//! Refresh claims for a cache without a remote tier. A *refresh* fetches a value again before its
//! entry expires. Only the caller that holds the claim of a key may refresh the key's entry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::sync::lock;

/// The pause between two refreshes of a key. A failed refresh leaves the entry about to expire.
/// Without a pause, every call would then start a refresh.
const REFRESH_PAUSE: Duration = Duration::from_millis(100);

/// A claim expires after this time, or after four times the function's usual fetch time if that is
/// longer. So a task that hangs does not keep its claim forever.
const EXPIRES_AFTER: Duration = Duration::from_secs(20);

/// The claims of one cache.
pub(crate) struct LocalRefreshClaims {
    /// For each key that was claimed, the time from which a caller may claim the key again.
    claimable_at: Mutex<HashMap<Arc<[u8]>, Instant>>,
    clock: Clock,
}

/// The right to refresh the entry of one key. Another caller can claim the key after this claim has
/// expired, or [`REFRESH_PAUSE`] after this claim is dropped.
pub(crate) struct LocalRefreshClaim {
    claims: Arc<LocalRefreshClaims>,
    key: Arc<[u8]>,
    expires: Instant,
}

impl LocalRefreshClaims {
    pub(crate) fn new(clock: Clock) -> Arc<LocalRefreshClaims> {
        Arc::new(LocalRefreshClaims { claimable_at: Mutex::default(), clock })
    }

    /// Claims a key. Returns `None` if another caller holds the claim of the key, or dropped the
    /// claim less than [`REFRESH_PAUSE`] ago. `fetch_time` is the usual fetch time of the function,
    /// if known.
    pub(crate) fn take(
        self: &Arc<LocalRefreshClaims>,
        key: &[u8],
        fetch_time: Option<Duration>,
    ) -> Option<LocalRefreshClaim> {
        let now = self.clock.now();
        let mut held = lock(&self.claimable_at);
        if held.get(key).is_some_and(|claimable_at| now < *claimable_at) {
            return None;
        }
        // Before the table grows, the keys that can be claimed again are removed from the table.
        if held.len() == held.capacity() {
            held.retain(|_, claimable_at| now < *claimable_at);
            let remaining = held.len();
            held.reserve(remaining);
        }
        let expires_after = EXPIRES_AFTER.max(fetch_time.unwrap_or_default().saturating_mul(4));
        let (key, expires) = (Arc::from(key), now + expires_after);
        held.insert(Arc::clone(&key), expires);
        Some(LocalRefreshClaim { claims: Arc::clone(self), key, expires })
    }
}

impl Drop for LocalRefreshClaim {
    fn drop(&mut self) {
        let mut held = lock(&self.claims.claimable_at);
        // If this claim has expired, the table may hold another caller's claim, which must stay.
        if let Some(claimable_at) = held.get_mut(&self.key)
            && *claimable_at == self.expires
        {
            *claimable_at = self.claims.clock.now() + REFRESH_PAUSE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_expires_after_four_fetch_times() {
        let clock = Clock::default();
        let claims = LocalRefreshClaims::new(clock.clone());
        let slow = Some(Duration::from_secs(25));
        let _held = claims.take(b"key", slow).expect("nobody holds the claim");
        clock.advance(Duration::from_secs(99));
        assert!(claims.take(b"key", slow).is_none());
        clock.advance(Duration::from_secs(2));
        assert!(claims.take(b"key", slow).is_some());
    }

    #[test]
    fn claims_that_have_ended_are_removed() {
        let claims = LocalRefreshClaims::new(Clock::default());
        let key = |number: u32| number.to_ne_bytes();
        let held: Vec<_> = (0..100).map(|number| claims.take(&key(number), None)).collect();
        assert!(held.iter().all(Option::is_some));
        for number in 100..1000 {
            assert!(claims.take(&key(number), None).is_some());
            // This ends the pause that follows the claim.
            *lock(&claims.claimable_at).get_mut(&key(number)[..]).expect("the key was claimed") =
                Instant::now();
        }
        let kept = lock(&claims.claimable_at).len();
        assert!(kept < 500, "claims that have ended are removed: {kept} are left");
        assert!((0..100).all(|number| claims.take(&key(number), None).is_none()));
    }
}
