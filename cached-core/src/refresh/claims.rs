//! Claims to refresh an entry of the local tier: one caller at a time holds the claim of a key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::sync::lock;

/// The pause between two refreshes of a key. A refresh that fails leaves the entry due, and without a
/// pause every call would start another.
const REFRESH_PAUSE: Duration = Duration::from_millis(100);

/// A claim is lost after this long, unless fetches of its function are known to take longer.
const EXPIRES_AFTER: Duration = Duration::from_secs(20);

/// The keys that are claimed, each with the time from which another caller may claim it.
pub(crate) struct LocalRefreshClaims {
    claimable_at: Mutex<HashMap<Arc<[u8]>, Instant>>,
    clock: Clock,
}

/// A claim to refresh an entry. Another caller can claim the key a pause after this is dropped, or
/// once it is lost.
pub(crate) struct LocalRefreshClaim {
    claims: Arc<LocalRefreshClaims>,
    key: Arc<[u8]>,
    expires: Instant,
}

impl LocalRefreshClaims {
    pub(crate) fn new(clock: Clock) -> Arc<LocalRefreshClaims> {
        Arc::new(LocalRefreshClaims { claimable_at: Mutex::default(), clock })
    }

    /// Claims a key, unless somebody else holds its claim. `fetch_time` is the usual fetch time of the
    /// function, if it is known.
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
        // Before the table grows, claims that are over are removed from it.
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
        // Another caller may hold the claim, if this one is lost.
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
    fn a_claim_expires_after_four_times_the_fetch_time() {
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
    fn claims_that_are_over_are_removed() {
        let claims = LocalRefreshClaims::new(Clock::default());
        let key = |number: u32| number.to_ne_bytes();
        let held: Vec<_> = (0..100).map(|number| claims.take(&key(number), None)).collect();
        assert!(held.iter().all(Option::is_some));
        for number in 100..1000 {
            assert!(claims.take(&key(number), None).is_some());
            // The pause of this claim is over.
            *lock(&claims.claimable_at).get_mut(&key(number)[..]).expect("the key was claimed") =
                Instant::now();
        }
        let kept = lock(&claims.claimable_at).len();
        assert!(kept < 500, "{kept}");
        assert!((0..100).all(|number| claims.take(&key(number), None).is_none()));
    }
}
