//! Records when this process first saw each refresh claim of another process.
//!
//! A *refresh claim* is the right to run the annotated function again before an item expires.
//! memcached gives the claim to one read. If the claim's holder is killed, the claim is never given
//! back. A claim that this process first saw long ago therefore counts as abandoned.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::cas::Cas;
use crate::sync::lock;

/// The largest number of keys whose claims are noted.
const MAX_KEYS: usize = 4096;

/// Maps each key to the CAS (version number) of the claimed item and the time at which this process
/// first saw the claim.
#[derive(Default)]
pub(super) struct ObservedClaims(Mutex<HashMap<Arc<str>, (Cas, Instant)>>);

impl ObservedClaims {
    /// Notes the claim on this item. Returns true if this process first saw the claim more than
    /// `limit` ago. The holder was then probably killed, and the caller may replace the item. Only
    /// one caller gets true. Later callers must wait for `limit` again.
    pub(super) fn take_over_if_abandoned(&self, key: &Arc<str>, cas: Cas, limit: Duration) -> bool {
        let now = Instant::now();
        let mut claims = lock(&self.0);
        match claims.get(key) {
            Some(&(claimed, since)) if claimed == cas => {
                let is_abandoned = now.saturating_duration_since(since) > limit;
                if is_abandoned {
                    claims.remove(key);
                }
                is_abandoned
            }
            _ => {
                // Forgetting the claims is harmless: callers only wait for `limit` again.
                if claims.len() >= MAX_KEYS {
                    claims.clear();
                }
                claims.insert(Arc::clone(key), (cas, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_abandoned_after_its_time() {
        let (claims, key): (_, Arc<str>) = (ObservedClaims::default(), "key".into());
        let limit = Duration::from_millis(20);
        assert!(!claims.take_over_if_abandoned(&key, 1.into(), limit));
        assert!(!claims.take_over_if_abandoned(&key, 1.into(), Duration::from_secs(60)));
        std::thread::sleep(limit + Duration::from_millis(5));
        assert!(
            !claims.take_over_if_abandoned(&key, 2.into(), limit),
            "a new item has a new claim"
        );
        std::thread::sleep(limit + Duration::from_millis(5));
        assert!(claims.take_over_if_abandoned(&key, 2.into(), limit));
        assert!(
            !claims.take_over_if_abandoned(&key, 2.into(), limit),
            "only one caller may replace the item"
        );
    }
}
