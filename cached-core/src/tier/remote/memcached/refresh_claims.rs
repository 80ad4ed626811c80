//! Who replaces an expired item that is kept for errors: memcached lets one reader win that, once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Cas;

/// So many keys whose winner is not this process are watched.
const LIMIT: usize = 4096;

/// What others have won, and since when this process knows it.
#[derive(Default)]
pub(super) struct RefreshClaims(Mutex<HashMap<Arc<str>, (Cas, Instant)>>);

impl RefreshClaims {
    /// Whether somebody won the right to replace the item with this CAS longer than `lease` ago,
    /// and has not done so. A winner that was killed does not: then anybody may, by the CAS.
    pub(super) fn is_abandoned(&self, key: &Arc<str>, cas: Cas, lease: Duration) -> bool {
        let now = Instant::now();
        let mut won = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match won.get(key) {
            Some(&(of, since)) if of == cas => {
                let lost = now.saturating_duration_since(since) > lease;
                if lost {
                    won.remove(key);
                }
                lost
            }
            _ => {
                // Forgetting only lets the next wait for the lease's length anew.
                if won.len() >= LIMIT {
                    won.clear();
                }
                won.insert(Arc::clone(key), (cas, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_winner_is_abandoned_after_the_lease_and_another_item_has_another() {
        let (refresh_claims, key): (_, Arc<str>) = (RefreshClaims::default(), "key".into());
        let lease = Duration::from_millis(20);
        assert!(!refresh_claims.is_abandoned(&key, 1.into(), lease));
        assert!(!refresh_claims.is_abandoned(&key, 1.into(), Duration::from_secs(60)));
        std::thread::sleep(lease + Duration::from_millis(5));
        assert!(!refresh_claims.is_abandoned(&key, 2.into(), lease), "the item was replaced");
        std::thread::sleep(lease + Duration::from_millis(5));
        assert!(refresh_claims.is_abandoned(&key, 2.into(), lease));
        assert!(
            !refresh_claims.is_abandoned(&key, 2.into(), lease),
            "the one who was told sees to it"
        );
    }
}
